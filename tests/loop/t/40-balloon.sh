# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# xen-balloond against a real xenstored, with folders in place of sysfs and procfs: the host's
# targets, garbage, other writers, thousands of changes, SIGHUP, -n, -t.

fake=$TEST_DIR/fake
memory=$fake/sys/devices/system/xen_memory/xen_memory0
balloond=$XENPV_BUILD/src/balloond/xen-balloond
conf=$TEST_DIR/balloond.conf
log=$TEST_DIR/balloond.log
target=/local/domain/1/memory/target
mkdir -p "$memory/info" "$fake/sys/hypervisor" "$fake/proc" "$run_dir"

# A guest of 1 GiB of which 200 MiB are in use, and whose balloon does at once as it is told.
guest_is() {	# KiB in all, KiB in use
	printf 'MemTotal: %d kB\nMemFree: %d kB\nMemAvailable: %d kB\n' "$1" $(($1 - $2)) $(($1 - $2)) \
		>"$fake/proc/meminfo" # in place: it is held open
	echo "$1" >"$memory/info/current_kb"
}
echo PV >"$fake/sys/hypervisor/guest_type"
printf 'Node 0, zone DMA32\n        present  262144\n' >"$fake/proc/zoneinfo"
echo "workingset_refault_file 0" >"$fake/proc/vmstat"
echo 1048576 >"$memory/target_kb"
guest_is 1048576 204800
dom0 xenstore-write /local/domain/1/memory/static-max 1048576 "$target" 1048576

balloon_start() {	# options
	keep_running balloond "$xenloop" run --domain g1 -- "$balloond" -v -c "$conf" --rundir "$run_dir" \
		--sysfs "$fake/sys" --procfs "$fake/proc" --interval 20 "$@" </dev/null >/dev/null 2>&1 &
	wait_for 30 status .name
}
status() {	# what jq makes of it
	curl -sf --max-time 5 --unix-socket "$run_dir/xen-balloond.sock" http://x/devices | jq -er ".[0] | $1"
}
metric() { curl -sf --max-time 5 --unix-socket "$run_dir/xen-balloond.sock" http://x/metrics | awk -v n="$1" '$1 == n { print $2 }'; }
host_says() { dom0 xenstore-write -- "$target" "$1"; }
kernel_target_is() { [ "$(cat "$memory/target_kb")" = "$1" ]; }
follows() {	# what the host says, what comes of it
	host_says "$1" && wait_for 30 kernel_target_is "$2" || { cat "$memory/target_kb"; return 1; }
}
seen() { [ "$(metric xenpv_balloon_host_targets_total)" -ge "$1" ]; }
logged() { grep -q -- "$1" "$log"; }

# --- configuration -------------------------------------------------------------

echo 'policy = manual' >"$conf"
ok "-t accepts a good file" "$balloond" -t -c "$conf"
printf 'policy = manual\nflor = 5\n' >"$conf"
said=$("$balloond" -t -c "$conf" 2>&1)
is $? 78 "-t refuses an unknown name: exit status"
like "$said" "balloond.conf:2.*flor" "and says where"
for wrong in 'policy = greedy' 'window = 100' 'headroom = 401' 'floor = -1' 'mechanism = magic'; do
	echo "$wrong" >"$conf"
	not_ok "-t refuses: $wrong" "$balloond" -t -c "$conf"
done
printf 'stall = 10000\n' >"$conf"
said=$("$balloond" -t -c "$conf" --window 600 2>&1)
is $? 78 "-t refuses a stall of more than a window: exit status"
like "$said" "stall = 10000.*window = 600" "and names both"
ok "-t accepts a stall of a whole window" "$balloond" -t -c "$conf" --window 10000
ok "-t accepts the sample" "$balloond" -t -c "$XENPV_SRC/etc/xenpv/balloond.conf"
sed -n 's/^#\([a-z-]* = .*\)/\1/p' "$XENPV_SRC/etc/xenpv/balloond.conf" >"$conf"
ok "and all that is commented out in it" "$balloond" -t -c "$conf"
is "$(cut -d' ' -f1 "$conf" | sort | xargs)" \
	"$("$balloond" --help | sed -n '/^usage/,/^$/d; s/^ .*--\([a-z-]*\).*/\1/p' |
		grep -vxE 'config|test|daemonize|pidfile|verbose|quiet|version|help' | sort | xargs)" \
	"which are all the settings"

# --- manual ----------------------------------------------------------------------

echo 'policy = manual' >"$conf"
need "it starts" balloon_start
is "$(status .policy)/$(status .mechanism)/$(status .floor_kib)" manual/kernel/237568 "policy, mechanism, floor"
ok "down" follows 524288 524288
ok "up" follows 800000 800000
ok "beyond what there is" follows 99999999999999999999999 1048576
ok "nothing: the guest gives what it can" follows 0 270336
ok "below the floor: the same" follows 10 270336
ok "and up again" follows 1048576 1048576
host_says 500000
ok "once more down" wait_for 30 kernel_target_is 500000
for garbage in '' -1 12x ' 5' 1e9 x $'\xff\xfe' '4 4'; do
	seen_before=$(metric xenpv_balloon_host_targets_total)
	host_says "$garbage"
	wait_for 30 seen $((seen_before + 1))
done
is "$(status .target_kib)" 500000 "garbage changes nothing"
is "$(metric xenpv_balloon_host_nonsense_total)" 8 "and is counted"
# The kernel has made something of it; so has another program.
echo 123456 >"$memory/target_kb"
ok "a target that somebody else sets is set right" wait_for 30 kernel_target_is 500000
# The host's word ends an old quarrel. Answers after 0, 1, 2 and 4 seconds; at each look they would be
# sixty.
ok "another target" follows 500004 500004
over=$(metric xenpv_balloon_overridden_total)
for ((end = SECONDS + 5; SECONDS < end; )); do
	echo 1048576 >"$memory/target_kb"
	sleep 0.02
done
over=$(($(metric xenpv_balloon_overridden_total) - over))
ok "another writer for five seconds is answered ($over times)" test "$over" -ge 2
ok "but not at full speed" test "$over" -le 5
ok "the log tells of the quarrel" wait_for 30 logged 'somebody else sets the target'
ok "who writes last is right" wait_for 60 kernel_target_is 500004
stays() { kernel_target_is "$1" && sleep 0.2 && kernel_target_is "$1"; }
seen_before=$(metric xenpv_balloon_host_targets_total)
dom0 xenstore-rm "$target"
ok "the host takes its word away" wait_for 30 seen $((seen_before + 1))
ok "without one it stays" stays 500004
ok "until there is one" follows 600000 600000
guest_is 600000 204800
ok "all is as it should be" wait_for 30 status 'select(.reason == "steady")'
targets() { # set so far, up and down
	curl -sf --max-time 5 --unix-socket "$run_dir/xen-balloond.sock" http://x/metrics |
		awk '/^xenpv_balloon_targets_total/ { n += $2; lines++ } END { print lines == 2 ? n : "none" }'
}
before=$(targets)
sleep 3
is "$(targets)" "$before" "then for three seconds nothing is set"

# --- what it would do, beside the one that does ----------------------------------

keep_running dry "$xenloop" run --domain g1 -- "$balloond" -n -v -c "$conf" --rundir "$TEST_DIR/none" \
	--sysfs "$fake/sys" --procfs "$fake/proc" --interval 20 --policy static --size 400000 </dev/null >/dev/null 2>&1 &
ok "a dry run says what it would do" wait_for 30 grep -q 'would set the target to 400000 KiB (host)' "$TEST_DIR/dry.log"
ok "and does not" stays 600000
not_ok "it makes no directory" test -e "$TEST_DIR/none"
ok "it ends" stop_running dry
ok "and has not done it" stays 600000
is "$(status .target_kib)" 600000 "the other one goes on"
timeout 3 "$xenloop" run --domain g1 -- "$balloond" -n -c "$conf" --rundir "$run_dir" --sysfs "$fake/sys" \
	--procfs "$fake/proc" 2>/dev/null
is $? 124 "in the other one's directory it runs as well"
ok "and leaves the other one's socket" status .name

before=$(metric xenpv_balloon_host_targets_total)
need "four thousand changes in eight hundred transactions, written by four" dom0 bash -c '
	for w in 1 2 3 4; do
		(for i in $(seq 200); do
			set --
			for k in 1 2 3 4 5; do set -- "$@" '"$target"' $((300000 + (i * 7919 + w * 104729 + k * 1299709) % 700000 / 4 * 4)); done
			xenstore-write "$@" || exit
		done) &
	done; wait'
ok "then one more" follows 654320 654320
# The five of one xenstore-write are a transaction, and one event. xenstored does not queue an event
# that is equal to one not read yet (XSA-326): a daemon that gets no processor sees fewer.
came=$(($(metric xenpv_balloon_host_targets_total) - before))
ok "events came ($came), none for more than each transaction" test "$came" -ge 1 -a "$came" -le 801
is "$(status .reason)" steady "then it is quiet"
guest_is 654320 204800
# A look between the two writes sees a guest that uses more than it does; the next one mends that.
ok "a guest of that size: nothing happens" wait_for 30 stays 654320
ok "the kernel tells nonsense of its memory: nothing happens" \
	eval 'echo MemTotal: 5 >"$fake/proc/meminfo"; sleep 0.2; kernel_target_is 654320'
guest_is 654320 204800

# --- the settings change -----------------------------------------------------------

hup() { kill -HUP "$(cat "$TEST_DIR/balloond.pid")"; }
printf 'policy = static\nsize = 400000\n' >"$conf"
hup
ok "SIGHUP: another policy" wait_for 30 kernel_target_is 400000
printf 'policy = static\nsize = 400000\nmechanism = privcmd\n' >"$conf"
hup
ok "SIGHUP: what holds from the start is said" wait_for 30 logged 'mechanism'
echo 'policy = static?' >"$conf"
hup
ok "SIGHUP: an error is said" wait_for 30 logged 'is none of manual auto static'
is "$(status .policy)/$(status .mechanism)" static/kernel "and changes nothing"
printf 'policy = manual\nmaximum = 450000\n' >"$conf"
hup
ok "SIGHUP: a maximum of our own" wait_for 30 kernel_target_is 450000

# --- auto --------------------------------------------------------------------------

printf 'policy = auto\nsettle = 0\ndown-rate = 1000000\nup-rate = 1000000\n' >"$conf"
host_says 1048576
# Before the policy looks at it: the two files change one after the other.
guest_is 1048576 204800
hup
wait_for 30 status 'select(.policy == "auto")'
# 200 MiB in use, a tenth of it, a reserve of 64 MiB: 290816; not nearer than 5 percent of it, from
# either side.
near() { cat "$memory/target_kb"; awk -v at="$(cat "$memory/target_kb")" -v low="$1" -v high="$2" 'BEGIN { exit !(at >= low && at <= high) }'; }
ok "auto: the guest gives what it does not need" wait_for 30 near 276276 306122
guest_is 290816 250000
ok "auto: it gets what it needs" wait_for 30 near 315536 360000
settled() { before=$(cat "$memory/target_kb") && stays "$before"; }
refaulted() { [ "$(metric xenpv_balloon_refaulting_total)" -ge 1 ]; }
wait_for 30 settled
echo "workingset_refault_file 100000" >"$fake/proc/vmstat"
ok "auto: refaults are pressure" wait_for 30 near $((before * 5 / 4 - 4)) 1048576
ok "and are counted" wait_for 30 refaulted
like "$(cat "$log")" "psi=1" "no pressure stall information: the log says what to do"
like "$(store /local/domain/1/data/meminfo_total)" "^[0-9]+$" "the host is told"
kill -9 "$(cat "$TEST_DIR/balloond.pid")"
ok "killed: the next one goes on" wait_for 30 status .name
ok "and knows the host's word" status 'select(.host_kib == 1048576)'
ok "stopped, it leaves what the host grants" stop_running balloond
ok "so it is" kernel_target_is 1048576

# --- what it cannot do ------------------------------------------------------------

attempt() {	# options
	said=$(ASAN_OPTIONS=${ASAN_OPTIONS-}:detect_leaks=0 timeout 300 "$xenloop" run --domain g1 -- \
		"$balloond" -c /dev/null --rundir "$run_dir" --procfs "$fake/proc" "$@" 2>&1)
	rc=$?
}
attempt --sysfs "$fake/none"
is $rc 69 "a kernel without a balloon: exit status"
like "$said" CONFIG_XEN_BALLOON "and why"
attempt --sysfs "$fake/sys" --mechanism privcmd
is $rc 69 "hypercalls in a PV guest: exit status"
like "$said" "PVH and HVM" "and why"
echo PVH >"$fake/sys/hypervisor/guest_type"
attempt --sysfs "$fake/sys" --mechanism privcmd
is $rc 69 "hypercalls where there are none: exit status"
like "$said" "no hypercalls" "and why"
