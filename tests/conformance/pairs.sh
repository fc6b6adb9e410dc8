# shellcheck shell=bash disable=SC2154	# whoever sources this sets what is not set here
# SPDX-License-Identifier: BSD-2-Clause
#
# Runs the programs of this folder in both roles, for xenloop and for a real Xen alike; TAP comes
# from tests/tap.sh. Who uses this defines
#
#   in_dom0 PROGRAM ARGS...     in_guest PROGRAM ARGS...
#
# and sets guest_domid, conform_tmp, a folder, and CONFORM_DESTROY, a command that ends the guest.

# A program, and the role that domain 0 has. Those after copy are not symmetric: the roles are the
# domains'. After the last one there is no guest.
conform_pairs='evtchn a
evtchn b
gnttab a
gnttab b
notify a
notify b
copy a
copy b
foreign a
quota a
store a
gone a'

conform_run=$(date +%s)

# Its output, without its plan, as steps of the one test; what went wrong is said after it.
conform_side() {	# title, file, status
	local bad planned
	bad=$(grep -cE '^not ok|^Bail out' "$2")
	planned=$(sed -n 's/^1\.\.//p' "$2")
	grep -E '^(ok|not ok|#|Bail out)' "$2" | grep -v '^# *$' |
		sed -E "s/^((not )?ok )[0-9]+ - /\1- $1: /; s/^/    /"
	[ "$3" -eq 0 ] && [ "$bad" -eq 0 ] &&
		[ "$(grep -cE '^(not )?ok' "$2")" = "$planned" ]
}

conform_pair() {	# program, domain 0's role
	local guest_role=b dom0_rc guest_rc pid
	[ "$2" = a ] || guest_role=a
	conform_run=$((conform_run + 1))
	in_dom0 "conform-$1" "$2" "$guest_domid" "$conform_run" >"$conform_tmp/dom0" 2>&1 &
	pid=$!
	in_guest "conform-$1" "$guest_role" 0 "$conform_run" >"$conform_tmp/guest" 2>&1
	guest_rc=$?
	wait "$pid"
	dom0_rc=$?
	conform_passed=$((conform_passed + $(cat "$conform_tmp/dom0" "$conform_tmp/guest" |
		grep -c '^ok')))
	echo "# Subtest: $1, domain 0 is $2"
	conform_side "domain 0 ($2)" "$conform_tmp/dom0" $dom0_rc
	dom0_rc=$?
	if [ "$1" = gone ]; then
		guest_rc=0
	else
		conform_side "guest ($guest_role)" "$conform_tmp/guest" $guest_rc
		guest_rc=$?
	fi
	ok "$1, domain 0 is $2" [ $((dom0_rc + guest_rc)) -eq 0 ]
}

conform_all() {
	local program role
	conform_passed=0
	# shellcheck disable=SC2154	# the user's
	export CONFORM_DESTROY
	while read -r program role; do
		[ -z "${1-}" ] || [ "$1" = "$program" ] || continue
		conform_pair "$program" "$role"
	done <<<"$conform_pairs"
	diag "$conform_passed checks have passed"
}
