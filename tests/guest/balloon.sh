# shellcheck shell=bash disable=SC2154,SC2034
# SPDX-License-Identifier: BSD-2-Clause
#
# What the tests of xen-balloond use, besides lib.sh. The guest is their own, for it is not what it
# was afterwards, and ends with the test.
#
#   bln_guest [CMDLINE]           a guest of 384 MB
#   bln_start [OPTIONS]           the daemon in it, not started again when it is killed; waits until
#                                 it serves
#   bln_stop                      SIGTERM; ok when it ends with 0
#   bln_kill                      kill -9
#   bln_log [REGEX]               its log, or whether it has a line like that
#   bln_status KEY                of /devices
#   bln_metric NAME               of /metrics
#   bln_targets                   how many targets it has set
#   kernel_has NAME               target_kb, current_kb
#   kernel_near NAME KIB WITHIN [SECONDS]   waits for it
#   host_free                     MiB, as xl info has it
#   host_free_near MIB WITHIN     waits for it
#   mem_set MIB
#   alive                         programs start in the guest and none was killed for memory

guest=balloon
bln_log=/run/balloond.log
bln_memory=/sys/devices/system/xen_memory/xen_memory0
bln_mib=384
bln_cleanup() {
	guest_run $guest "cat $bln_log" >"$XENPV_TEST_DIR/balloond.log" 2>/dev/null
	[ "$tap_failed" -eq 0 ] || {
		diag "the end of xen-balloond's log:"
		tail -n 25 "$XENPV_TEST_DIR/balloond.log" | indent_diag
	}
	guest_run $guest dmesg >"$XENPV_TEST_DIR/$guest-end-dmesg.log" 2>/dev/null
	guest_stop $guest
}
at_end bln_cleanup

bln_guest() {
	need "a $TYPE guest with Linux $KERNEL runs" guest_start $guest "$TYPE" "kernel=$KERNEL" mem=$bln_mib \
		"cmdline=${1-}"
	bln_xenstore=/local/domain/$(guest_id $guest)
}

bln_start() {
	guest_run $guest "(xen-balloond -v -c /dev/null $* >>$bln_log 2>&1 </dev/null & pid=\$!
echo \$pid >/run/balloond.pid; wait \$pid; echo \"ended with \$?\" >>$bln_log) </dev/null >/dev/null 2>&1 &"
	guest_until $guest 30 "curl -sf --unix-socket /run/xenpv/xen-balloond.sock http://x/devices >/dev/null"
}

bln_ended="i=0; until tail -n 1 $bln_log | grep -q '^ended with'; do
	[ \$i -lt 300 ] || exit 1; sleep 0.1; i=\$((i+1)); done"
bln_stop() {
	guest_run $guest "kill -TERM \$(cat /run/balloond.pid); $bln_ended; tail -n 1 $bln_log | grep -q '^ended with 0'"
}
bln_kill() { guest_run $guest "kill -9 \$(cat /run/balloond.pid); $bln_ended"; }

bln_log() {
	if [ $# -eq 0 ]; then guest_run $guest "cat $bln_log"
	else guest_run $guest "grep -E '$1' $bln_log"; fi
}
bln_status() {
	guest_run $guest "curl -sf --unix-socket /run/xenpv/xen-balloond.sock http://x/devices |
		sed -n 's/.*\"$1\": \"\\{0,1\\}\\([^,\"]*\\).*/\\1/p'"
}
bln_metric() {
	guest_run $guest "curl -sf --unix-socket /run/xenpv/xen-balloond.sock http://x/metrics |
		awk -v n='$1' '\$1 == n { print \$2 }'"
}
bln_targets() {
	guest_run $guest "curl -sf --unix-socket /run/xenpv/xen-balloond.sock http://x/metrics |
		awk '/^xenpv_balloon_targets_total/ { n += \$2 } END { print n }'"
}

kernel_file() { case $1 in current_kb) echo $bln_memory/info/$1 ;; *) echo $bln_memory/$1 ;; esac; }
kernel_has() { guest_run $guest "cat $(kernel_file "$1")"; }
kernel_near() {
	guest_until $guest "${4:-60}" "v=\$(cat $(kernel_file "$1")); echo \$v
		[ \$v -ge $(($2 - $3)) ] && [ \$v -le $(($2 + $3)) ]"
}
host_free() { xl info | awk '$1 == "free_memory" { print $3 }'; }
near() { [ "$1" -ge $(($2 - $3)) ] && [ "$1" -le $(($2 + $3)) ]; }
is_host_free() { near "$(host_free)" "$1" "$2"; }
host_free_near() { wait_for 60 is_host_free "$@" || { echo "free: $(host_free), wanted: $1"; return 1; }; }
mem_set() { xl mem-set $guest "$1"; }
alive() {
	guest_run $guest "ls / >/dev/null && ! dmesg | grep -E 'Out of memory|oom-kill|BUG|Bad page'"
}
