# shellcheck shell=bash
# SPDX-License-Identifier: BSD-2-Clause
#
# What scripts/test makes of the TAP streams of its tiers: counts, and one short list of failures.
#
#   report_begin DIR        logs go there
#   tier NAME COMMAND...    runs it, shows its output, keeps it in DIR/NAME.tap and counts it
#   report_end              the list and the counts; fails if anything did
#
# A tier prints TAP. What it has planned and not told of has failed. Of a failure its name is kept, the first line that says what is wrong, and the
# path of its log: from a line "# log: PATH" of the tier, otherwise the tier's own output.

passed=0 failed=0 skipped=0 tier_pid=''

report_begin() {
	report_dir=$1
	rm -rf "$report_dir"
	mkdir -p "$report_dir" || exit 73
	: >"$report_dir/failures"
}

# Prints "passed failed skipped" of a TAP stream and appends its failures to a file.
tally() {	# tap, name, file
	awk -v name="$2" -v tap="$1" -v file="$3" '
	function done() {
		if (bad == "") return
		printf "FAILED %s: %s\n    %s\n    log: %s\n", name, bad, first == "" ? "(no reason given)" : first, log_path == "" ? tap : log_path >>file
		bad = ""
	}
	/^# Subtest: / { inner = "" }
	# Within a subtest: the first check that failed, with what it says.
	/^ +not ok / && inner == "" { inner = $0; sub(/^ +/, "", inner); next }
	/^(not )?ok .*# *[Ss][Kk][Ii][Pp]/ { done(); skipped++; next }
	/^ok / { done(); passed++; next }
	/^1\.\.[0-9]/ { planned += substr($0, 4); next }
	/^(not ok|Bail out)/ {
		done()
		failed++
		bad = $0; first = inner; log_path = ""; inner = ""
		next
	}
	/^# log: / && bad != "" { log_path = substr($0, 8); next }
	/^#/ && bad != "" && first == "" { first = substr($0, 3) }
	END {
		done()
		# A bail-out stands for one of those that were not run.
		missing = planned - passed - failed - skipped
		if (missing > 0) {
			failed += missing
			printf "FAILED %s: %d of %d\n    not run\n    log: %s\n", name, missing, planned, tap >>file
		}
		printf "%d %d %d\n", passed, failed, skipped
	}' "$1"
}

tier() {
	local name=$1 rc shown tap=$report_dir/$1.tap p f s begun=$SECONDS
	shift
	printf '\n== %s\n' "$name"
	: >"$tap"
	"$@" >>"$tap" 2>&1 </dev/null &
	tier_pid=$!
	tail -n +1 -s 0.2 --pid="$tier_pid" -f "$tap" &
	shown=$!
	wait "$tier_pid"
	rc=$?
	tier_pid=''
	wait "$shown"
	read -r p f s < <(tally "$tap" "$name" "$report_dir/failures")
	: "${p:=0}" "${f:=0}" "${s:=0}"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	# A tier that broke down, or ran nothing, has not passed. One without a plan may have broken down.
	if [ "$f" -eq 0 ] && { [ $((p + s)) -eq 0 ] || [ $rc -ne 0 ] || ! grep -q '^1\.\.' "$tap"; }; then
		failed=$((failed + 1))
		echo "not ok - $name: ended with status $rc, $p passed"
		printf 'FAILED %s: ended with status %s\n    %s\n    log: %s\n' "$name" $rc \
			"$(tail -n 1 "$tap")" "$tap" >>"$report_dir/failures"
	fi
	echo "# $name: $p passed, $f failed, $s skipped, $((SECONDS - begun)) s"
	[ $rc -eq 0 ]
}

report_end() {
	if [ $failed -gt 0 ]; then
		printf '\n== what failed\n'
		cat "$report_dir/failures"
	fi
	printf '\n%d passed, %d failed, %d skipped\n' $passed $failed $skipped
	[ $failed -eq 0 ]
}
