# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Helpers for the tests of xen-controld. The guest is $guest. Its actions only write a line, and so
# do its hooks and whatever its kernel runs.
#
#   control_guest              the guest, with hooks and stand-ins for poweroff and reboot
#   control_start [OPTIONS]    the daemon, with an action for each request; waits until it is there.
#                              $control_crash: another option for crash, or none
#   control_stop               ends it; fails if its status is not 0
#   control_is_idle            it has nothing to do
#   control_status NAME        a value of its /status
#   control_log                what it said
#   control_says REGEX         it said that
#   console_says REGEX         the guest's console did
#   hook NAME LINES            one more hook, a script
#   forget                     empties the files of lines
#   lines FILE                 the lines of /run/FILE in the guest: actions, hooks, helpers
#   has_lines FILE N           it has so many
#   ask REQUEST                writes it where the toolstack does
#   node                       what is there now
#   is_taken                   nothing is

guest=ctl

control_guest() {
	guest_need $guest "$TYPE" "$KERNEL" || return
	# The programs that the kernel runs are found by these paths. If there is none, it reboots
	# without asking.
	guest_run $guest "mkdir -p /run/control.d /run/xenpv
	cat >/run/action <<'END'
#!/bin/sh
echo \"\$XENPV_REQUEST \$XENPV_FROM\" >>/run/actions
END
	cat >/run/control.d/10-first <<'END'
#!/bin/sh
echo \"first \$*\" >>/run/hooks
END
	sed s/first/second/ /run/control.d/10-first >/run/control.d/20-second
	cat >/sbin/poweroff <<'END'
#!/bin/sh
echo \"kernel poweroff\" >>/run/helpers
END
	cat >/sbin/reboot <<'END'
#!/bin/sh
echo \"asks reboot\" >>/run/helpers
exec xen-controld --kernel-request reboot /run/xenpv -- /run/instead
END
	cat >/run/instead <<'END'
#!/bin/sh
echo \"kernel reboot\" >>/run/helpers
END
	chmod 755 /run/action /run/control.d/* /sbin/poweroff /sbin/reboot /run/instead
	touch /run/actions /run/hooks /run/helpers"
}

control_start() {
	guest_run $guest "setsid xen-controld -v --hooks /run/control.d --poweroff /run/action --reboot /run/action \
		--halt /run/action ${control_crash---crash /run/action} --again-after 0 $* </dev/null >>/run/control.log 2>&1 &
	echo \$! >/run/control.pid" &&
		guest_until $guest 30 "curl -sf --unix-socket /run/xenpv/xen-controld.sock http://x/status"
}

control_stop() {
	guest_run $guest "kill \$(cat /run/control.pid); i=0; while kill -0 \$(cat /run/control.pid) 2>/dev/null; do
		[ \$i -lt 300 ] || exit 1; sleep 0.1; i=\$((i + 1)); done"
}

# Nothing is under way, and nobody is about to ask.
control_is_idle() {
	guest_run $guest "! ps | grep -q '[k]ernel-request' &&
		curl -sf --unix-socket /run/xenpv/xen-controld.sock http://x/status | grep -q '\"state\": \"idle\"'"
}

control_status() {
	guest_run $guest "curl -sf --unix-socket /run/xenpv/xen-controld.sock http://x/status" |
		sed -n "s/.*\"$1\": \"*\([^\",]*\).*/\1/p" | tr -d '\r'
}

control_log() { guest_run $guest "cat /run/control.log" | tr -d '\r'; }
control_says() { control_log | grep -qE -- "$1"; }
console_says() { guest_log $guest | grep -qE -- "$1"; }

hook() {	# name, lines
	guest_run $guest "cat >/run/control.d/$1 <<'END'
#!/bin/sh
$2
END
	chmod 755 /run/control.d/$1"
}

lines() { guest_run $guest "cat /run/$1" | tr -d '\r' | sed '/^$/d'; }
forget() { guest_run $guest "for f in actions hooks helpers; do : >/run/\$f; done"; }
has_lines() { guest_until $guest 60 "[ \$(wc -l </run/$1) -ge $2 ]"; }

home() {
	local id
	read -r id <"$state/$guest/id" && echo "/local/domain/$id"
}
ask() { xenstore-write "$(home)/control/shutdown" "$1"; }
node() { xenstore-read "$(home)/control/shutdown"; }
is_taken() { [ -z "$(node)" ]; }
