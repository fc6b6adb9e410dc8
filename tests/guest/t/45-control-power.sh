# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Requests of xl, in a guest whose kernel watches the same node: each is done once, whoever of the
# two takes it.
#
# matrix: pvh/6.12
# more: pv/6.12
# timeout: 900

. "$XENPV_TESTS/guest/control.sh"
need "a guest" control_guest

# --- the kernel alone --------------------------------------------------------

ok "xl shutdown, without a daemon" xl shutdown $guest
need "the kernel runs its helper" has_lines helpers 1
is "$(lines helpers)" "kernel poweroff" "which is /sbin/poweroff"
ok "and has taken the request" wait_for 10 is_taken

# --- with the daemon ---------------------------------------------------------

need "the daemon starts" control_start
like "$(guest_run $guest "cat /proc/sys/kernel/poweroff_cmd")" "--kernel-request poweroff /run/xenpv -- /sbin/poweroff" \
	"the kernel will ask it"
is "$(xenstore-read "$(home)/control/feature-poweroff")$(xenstore-read "$(home)/control/feature-reboot")" 11 \
	"it says what it can"
forget
ok "xl shutdown" xl shutdown $guest
need "the action is done" has_lines actions 1
need "and hooks run" has_lines hooks 4
is "$(lines hooks)" "first before poweroff
second before poweroff
first after poweroff done
second after poweroff done" "in order"
diag "taken by: $(lines actions)"

# One after the other, as fast as they are done with: another one before that would be the same, or too
# late. Each line of "actions" is an action of ours, each of "helpers" one that the kernel has done by
# itself.
forget
number=6
for ((i = 1; i <= number; i++)); do
	ask "$([ $((i % 2)) = 0 ] && echo halt || echo poweroff)"
	has_lines actions $i && wait_for 30 control_is_idle || break
done
ok "each request is taken" wait_for 10 is_taken
is "$(lines actions | wc -l)" $number "$number requests, one action each"
is "$(lines hooks | wc -l)" $((number * 4)) "and each hook before and after"
is "$(lines helpers)" "" "and nothing else was done"
diag "$(lines actions | sort | uniq -c)"

# As fast as they can be written: what comes while one is under way is the same wish or the next.
forget
started() { control_log | grep -cE 'poweroff asked for, by way of the [a-z]+$'; }
before=$(started)
for ((i = 1; i <= 12; i++)); do ask poweroff; done
ok "many at once: all are taken" wait_for 30 is_taken
need "an action is done" has_lines actions 1
same_as_before() {
	local before=$count
	count=$(lines actions | wc -l)
	control_is_idle && [ "$count" = "$before" ] && sleep 1 && [ "$(lines actions | wc -l)" = "$count" ]
}
count=''
ok "and all comes to an end" wait_for 60 same_as_before
is "$(lines actions | wc -l)" $(($(started) - before)) "with one action for each that was not under way already"
is "$(lines helpers)" "" "and all were ours"

# The kernel tells of a halt as of a poweroff: then it is the same one; if it is taken from xenstore it
# is another, and too late.
forget
guest_run $guest "touch /run/wait"
hook 05-waits "touch /run/waits; while [ -e /run/wait ]; do sleep 0.1; done"
ask poweroff
need "a hook waits" guest_until $guest 30 "[ -e /run/waits ]"
heard() { control_log | grep -cE 'poweroff asked for again|halt asked for'; }
before=$(heard)
ask halt
more() { [ "$(heard)" -gt "$before" ]; }
ok "halt, meanwhile" wait_for 30 more
is "$(lines actions)" "" "nothing is done as long as it waits"
guest_run $guest "rm /run/wait /run/control.d/05-waits"
ok "it comes to an end" wait_for 60 control_is_idle
is "$(lines actions | wc -l)$(lines actions | cut -d ' ' -f 1)$(lines helpers)" 1poweroff "with one action"

# --- what the kernel leaves --------------------------------------------------

forget
ask crash
need "crash" has_lines actions 1
is "$(lines actions)$(lines hooks | grep before)" "crash toolstack" "is done at once, without hooks before it"
ok "and comes to an end" wait_for 60 control_is_idle
printf -v long 'poweroff%.0s' {1..250}
some=(tea "$long" $'\x01\xff' none)
# The rest is told apart on xenloop as well (tests/loop/t/50), and here with --all.
[ -z "${XENPV_ALL-}" ] || some=(POWEROFF "poweroff reboot" " poweroff" ../x "%s%n" shutdown "${some[@]}")
for garbage in "${some[@]}"; do
	before=$(control_status refused)
	ask "$garbage"
	more() { [ "$(control_status refused)" -gt "$before" ]; }
	ok "refused: $(printf '%q' "${garbage:0:20}")" wait_for 30 more
done
is "$(node)" none "and not taken"
ok "it is told what" control_says 'refused: "tea": it is not known here'
ask ""
forget
ok "xl sysrq" xl sysrq $guest h
ok "is the kernel's" guest_until $guest 30 "dmesg | grep -q 'sysrq: HELP'"
is "$(guest_run $guest "dmesg | grep -c 'sysrq: HELP'" | tr -d '\r')" 1 "once"
xl trigger $guest nmi 0
allow_log 'NMI'
sleep 1
is "$(lines actions)" "" "xl trigger is no request"

# --- without the daemon ------------------------------------------------------

guest_run $guest "kill -9 \$(cat /run/control.pid)"
forget
ok "the daemon is killed; xl shutdown" xl shutdown $guest
need "the kernel's helper runs" has_lines helpers 1
is "$(lines helpers)$(lines actions)" "kernel poweroff" "what it ran before"
need "the daemon starts again" control_start
forget
ok "xl shutdown" xl shutdown $guest
need "the action is done" has_lines actions 1
is "$(lines helpers)$(lines actions)" "poweroff kernel" "once"
ok "the daemon ends" control_stop
is "$(guest_run $guest "cat /proc/sys/kernel/poweroff_cmd" | tr -d '\r')" /sbin/poweroff "and leaves the kernel as it was"

# --- one that was there before, and hooks that do not as they should ---------

forget
ask crash
need "a request that the kernel leaves is there; the daemon starts" control_start --hook-timeout 1
need "it is done" has_lines actions 1
ok "to its end" wait_for 60 control_is_idle
is "$(lines actions)" "crash toolstack" "once"
forget
hook 15-hangs "exec sleep 60"
hook 16-fails "exit 1"
ask poweroff
need "a request, with hooks that hang and fail" has_lines actions 1
ok "comes to an end" wait_for 60 control_is_idle
is "$(lines actions | wc -l)$(lines actions | cut -d ' ' -f 1)$(lines helpers)" 1poweroff "and is done once"
is "$(lines hooks)" "first before poweroff
second before poweroff
first after poweroff done
second after poweroff done" "between the other hooks"
ok "it is told which hung" control_says 'hook 15-hangs before poweroff: ended because it took too long'
ok "and which failed" control_says 'hook 16-fails before poweroff: status 1'
ok "the daemon ends" control_stop
guest_run $guest "rm /run/control.d/15-hangs /run/control.d/16-fails"

# --- reboot ------------------------------------------------------------------

# The kernel runs /sbin/reboot, and after that takes no more requests: they are all the daemon's.
need "the daemon starts" control_start
forget
ok "xl reboot" xl reboot $guest
need "the action is done" has_lines actions 1
is "$(lines actions)" "reboot kernel" "as the kernel's helper has asked"
is "$(lines helpers)" "asks reboot" "once"
ok "and is done with" wait_for 30 control_is_idle
for ((i = 2; i <= 6; i++)); do
	ask "$([ $((i % 2)) = 0 ] && echo reboot || echo poweroff)"
	has_lines actions $i && wait_for 30 control_is_idle || break
done
is "$(lines actions | tail -n +2 | sort | uniq -c | xargs)" "2 poweroff toolstack 3 reboot toolstack" "one action each"
is "$(lines helpers)" "asks reboot" "and none of the kernel's"
ok "the daemon ends" control_stop
control_log | grep -E 'action:|hooks in' | tail -n 4 | indent_diag

# --- for real ----------------------------------------------------------------

# The kernel's last lines are printed at any log level. A PV guest has no other way to power off than
# to halt.
gone() { ! guest_id $guest; }
need "the daemon starts" control_start --poweroff "'busybox poweroff -f'" --reboot "'busybox reboot -f'"
ok "xl shutdown" xl shutdown $guest
ok "the guest is gone" wait_for 60 gone
ok "it powered off" wait_for 10 console_says "reboot: (Power down|.*System halted)"
not_ok "without a panic" console_says "Kernel panic"
guest_stop $guest
need "a guest" control_guest
need "the daemon starts, with its own action for crash" eval "control_crash='' control_start"
ask crash
ok "the guest is gone" wait_for 60 gone
ok "it crashed" wait_for 10 console_says "sysrq: Trigger a crash"
guest_stop $guest
[ -n "${XENPV_ALL-}" ] || finish
need "a guest" control_guest
need "the daemon starts" control_start --poweroff "'busybox poweroff -f'" --reboot "'busybox reboot -f'"
ok "xl reboot" xl reboot $guest
ok "the guest is gone" wait_for 60 gone
ok "it rebooted" wait_for 10 console_says "reboot: Restarting system"
not_ok "without a panic" console_says "Kernel panic"
guest_stop $guest
