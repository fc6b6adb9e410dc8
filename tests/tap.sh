# shellcheck shell=bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Results of shell tests, as TAP.
#
#   ok DESC [CMD...]             passed (if CMD succeeds)
#   not_ok DESC CMD...           passed if CMD fails: it refuses; one that is not there, runs out of
#                                time or crashes has not
#   is GOT WANTED DESC           like GOT REGEX DESC
#   fail DESC                    need DESC CMD...  as ok, but failure ends the test
#   diag TEXT...                 skip REASON       ends the test
#   finish                       ends the test; status 0: all passed, 77: skipped
#   wait_for SECONDS CMD...      until CMD succeeds
#
# A result that came late, 5 s or more after the one before it, says so: "# 12 s".

tap_count=0 tap_failed=0 tap_skip='' tap_depth=0 tap_last=$SECONDS
tap_tmp=${tap_tmp:-/tmp}

diag() { printf '# %s\n' "$@"; }

indent_diag() { sed 's/^/#   /'; }

result() {	# "ok" or "not ok", description
	local took=$((SECONDS - tap_last))
	tap_last=$SECONDS tap_count=$((tap_count + 1))
	[ $took -ge 5 ] && took=" # $took s" || took=''
	echo "$1 $tap_count - $2$took"
}

pass() { result ok "$1"; }

fail() {
	tap_failed=$((tap_failed + 1))
	result "not ok" "$1"
	diag "at $(caller_line)"
}

# The line of the test that led here, whichever helpers are in between.
caller_line() {
	local i
	for ((i = 1; i < ${#BASH_SOURCE[@]}; i++)); do
		case ${BASH_SOURCE[i]} in
		*/lib.sh|*/tap.sh) ;;
		*) echo "${BASH_SOURCE[i]##*/}:${BASH_LINENO[i - 1]}"; return ;;
		esac
	done
	echo unknown
}

ok() {
	local desc=$1 out rc
	shift
	if [ $# -eq 0 ]; then pass "$desc"; return 0; fi
	# Not $(...): CMD may set variables, and start what outlives it. Not mktemp and rm: on an
	# emulated machine a process costs a tenth of a second. CMD may call ok, too.
	tap_depth=$((tap_depth + 1))
	out=$tap_tmp/tap-$$.$BASHPID.$tap_depth
	"$@" >"$out" 2>&1 </dev/null
	rc=$?
	tap_depth=$((tap_depth - 1))
	if [ $rc -eq 0 ]; then
		pass "$desc"
	else
		fail "$desc"
		diag "status $rc from: $*"
		tail -n 30 "$out" | indent_diag
	fi
	return $rc
}

not_ok() {
	local desc=$1 out rc=0
	shift
	out=$("$@" 2>&1 </dev/null) || rc=$?
	# 99: a sanitizer; 124: over its time; 125 to 127: could not be run; SIGABRT, SIGSEGV.
	case $rc in
	0|99|124|125|126|127|134|139) ;;
	*) pass "$desc"; return ;;
	esac
	fail "$desc"
	diag "status $rc from: $*"
	tail -n 30 <<<"$out" | indent_diag
	return 1
}

is() {
	if [ "$1" = "$2" ]; then pass "$3"; return 0; fi
	fail "$3"
	diag "got:    $1" "wanted: $2"
	return 1
}

like() {
	if [[ $1 =~ $2 ]]; then pass "$3"; return 0; fi
	fail "$3"
	diag "got:       $1" "not like:  $2"
	return 1
}

need() { ok "$@" || finish; }

skip() { tap_skip=$1; finish; }

finish() {
	rm -f "$tap_tmp/tap-$$".*
	# Not one of somebody who sources this.
	case $(trap -p EXIT) in "trap -- 'finish' EXIT") trap - EXIT ;; esac
	if [ -n "$tap_skip" ] && [ $tap_failed -eq 0 ]; then
		echo "1..$tap_count # SKIP $tap_skip"
		exit 77
	fi
	echo "1..$tap_count"
	[ $tap_failed -eq 0 ] && [ $tap_count -gt 0 ]
	exit
}

# sleep, without a process for it: a pipe to which nobody writes.
exec {tap_pipe}<> <(:)
pause() { read -rt "$1" -u "$tap_pipe" || :; }

wait_for() {	# seconds, command...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		pause 0.1
	done
}
