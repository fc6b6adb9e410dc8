# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# xen-controld: each request gives its action once, between hooks in order; whatever the hooks, the
# toolstack or a kernel that watches too does.

controld=$XENPV_BUILD/src/controld/xen-controld
dir=$TEST_DIR/control
mkdir -p "$dir/d" "$run_dir"
id=1
node=/local/domain/$id/control/shutdown

# Every action and hook writes a line; a hook "waits" as long as there is a file of that name.
cat >"$dir/act" <<END
#!/bin/sh
echo "act \$XENPV_REQUEST \$XENPV_FROM" >>"$dir/lines"
END
cat >"$dir/d/10-first" <<END
#!/bin/sh
echo "first \$*" >>"$dir/lines"
echo "\$1 \$XENPV_REQUEST \$XENPV_FROM" >>"$dir/env"
while [ -e "$dir/wait" ]; do sleep 0.05; done
END
cat >"$dir/d/20-second" <<END
#!/bin/sh
echo "second \$*" >>"$dir/lines"
[ ! -e "$dir/fail" ]
END
chmod 755 "$dir/act" "$dir"/d/*
: >"$dir/lines"

# A quarter of a second for the kernel that is not there.
control_start() {
	local actions=()
	local name
	for name in poweroff reboot halt crash s4; do actions+=("--$name" "$dir/act"); done
	keep_running controld "$xenloop" run --domain g1 -- "$controld" -v --config "$dir/conf" \
		--divert=no --rundir "$run_dir" --hooks "$dir/d" --grace-ms 250 --again-after 0 \
		"${actions[@]}" "$@" </dev/null >/dev/null 2>&1 &
	wait_for 30 status state
}
control_stop() { stop_running controld; }
control_log() { cat "$TEST_DIR/controld.log"; }
said() { grep -qF -- "$1" "$TEST_DIR/controld.log"; }
status() { curl -sf --max-time 5 --unix-socket "$run_dir/xen-controld.sock" http://x/status | jq -er ".\"$1\""; }
is_idle() { [ "$(status state)" = idle ]; }
ask() { dom0 xenstore-write "$node" "$1"; }
is_taken() { [ -z "$(store "$node")" ]; }
lines() { cat "$dir/lines"; }
actions() { grep -c '^act' "$dir/lines"; }
has_actions() { [ "$(actions)" -ge "$1" ]; }
has_line() { grep -qxF -- "$1" "$dir/lines"; }
forget() { : >"$dir/lines"; }
# What one request is to give.
all_of() {
	echo "first before $1"
	echo "second before $1"
	echo "act $1 ${2:-toolstack}"
	echo "first after $1 done"
	echo "second after $1 done"
}
through() { has_line "second after $1 ${2:-done}" && is_idle; }

: >"$dir/conf"

# --- what is asked for is done -----------------------------------------------

ask poweroff
need "a request is there; the daemon starts" control_start
ok "it is done" wait_for 30 through poweroff
is "$(lines)" "$(all_of poweroff)" "once, between the hooks"
is "$(cat "$dir/env")" "before poweroff toolstack
after poweroff toolstack" "hooks are told what it is about"
like "$(control_log)" 'poweroff: action: status 0 after [0-9]+\.[0-9]{3} s' "the log has the time of the action"
is "$(control_log | grep -cE ': 2 hooks in [0-9]+\.[0-9]{3} s \(0 failed, 0 took too long\)$')" 2 "and of the hooks"
ok "and taken" is_taken
is "$(store ${node%shutdown}feature-poweroff)$(store ${node%shutdown}feature-reboot)" 11 "what can be asked for is announced"

for request in poweroff reboot halt s4; do
	forget
	ask $request
	wait_for 30 through $request
	is "$(lines)" "$(all_of $request)" "$request"
done
forget
ask crash
ok "crash" wait_for 30 has_line "act crash toolstack"
ok "comes to an end" wait_for 30 is_idle
is "$(head -n 1 "$dir/lines")" "act crash toolstack" "without hooks before it"

# --- what is not, is refused -------------------------------------------------

forget
ask tea
ok "an unknown request is reported" wait_for 30 said 'refused: "tea": it is not known here'
is "$(store $node)" tea "and left where it is"
before=$(status refused)
ask tea
ask suspend
ok "a suspend is the kernel's, and reported after a while" wait_for 30 said 'refused: "suspend": only the kernel'
is "$(store $node)" suspend "and left"
is $(($(status refused) - before)) 1 "what was there already is not reported again"
ask s3
ok "a request without an action is refused" wait_for 30 said 'refused: "s3"'
printf -v long 'poweroff%.0s' {1..250}
for garbage in "$long" "POWEROFF" "poweroff reboot" " poweroff" "../x" "%s%n" $'\x01\xff' "shutdown" "none"; do
	before=$(status refused)
	ask "$garbage"
	more() { [ "$(status refused)" -gt "$before" ]; }
	ok "refused: $(printf '%q' "${garbage:0:20}")" wait_for 30 more
done
dom0 xenstore-rm $node
dom0 xenstore-write $node ""
dom0 xenstore-chmod $node n$id
is "$(lines)" "" "nothing was done"
ask reboot
ok "a request after all that" wait_for 30 through reboot
is "$(lines)" "$(all_of reboot)" "is done"

# --- one at a time -----------------------------------------------------------

forget
touch "$dir/wait"
ask poweroff
need "a hook runs" wait_for 30 has_line "first before poweroff"
ask poweroff
ok "the same again is taken" wait_for 30 is_taken
ok "and is under way" wait_for 30 said "poweroff asked for again"
ask halt
ok "another one" wait_for 30 is_taken
is "$(status waiting)" halt "waits"
ask reboot
ok "and another" wait_for 30 is_taken
is "$(status waiting)" reboot "is wanted in its place"
rm "$dir/wait"
ok "after the first" wait_for 30 is_idle
is "$(lines)" "$(all_of poweroff)" "the others are too late"

forget
touch "$dir/wait"
ask s4
need "a hook runs" wait_for 30 has_line "first before s4"
ask reboot
wait_for 30 is_taken
rm "$dir/wait"
ok "a request after one that leaves the system running" wait_for 30 through reboot
is "$(lines)" "$(all_of s4; all_of reboot)" "is done after it"

forget
touch "$dir/wait"
ask poweroff
need "a hook runs" wait_for 30 has_line "first before poweroff"
ask crash
ok "a crash does not wait" wait_for 30 has_line "act crash toolstack"
rm "$dir/wait"
ok "and comes to an end" wait_for 30 is_idle
not_ok "the other is not done" has_line "act poweroff toolstack"

forget
touch "$dir/wait"
ask reboot
need "a hook runs" wait_for 30 has_line "first before reboot"
kill -TERM "$(cat "$TEST_DIR/controld.pid")"
ok "told to end meanwhile" wait_for 30 said stopping
rm "$dir/wait"
ok "the daemon" wait_for 30 ended_since controld 0
ok "does it first" has_line "act reboot toolstack"

# --- hooks and actions that do not as they should ----------------------------

: >"$TEST_DIR/controld.log"
cat >"$dir/d/15-hangs" <<END
#!/bin/sh
trap '' TERM
echo \$\$ >"$dir/hangs"
sleep 600 &
echo \$! >>"$dir/hangs"
wait
wait
sleep 600
END
printf '#!/bin/sh\necho not run >>"%s/lines"\n' "$dir" >"$dir/d/30-others-write"
cp "$dir/d/30-others-write" "$dir/d/31-not-executable"
cp "$dir/d/30-others-write" "$dir/d/32-old.dpkg-old"
cp "$dir/d/30-others-write" "$dir/d/33 name"
cp "$dir/d/30-others-write" "$dir/d/34-editor~"
printf 'no program' >"$dir/d/40-broken"
chmod 755 "$dir/d/"*
chmod 777 "$dir/d/30-others-write"
chmod 644 "$dir/d/31-not-executable"
touch "$dir/fail"
need "the daemon, with hooks that hang and fail" control_start --hook-timeout 1
forget
ask poweroff
ok "a request is done all the same" wait_for 60 through poweroff
is "$(lines)" "$(all_of poweroff)" "with all hooks that can be run"
ok "it is told which hung" said "hook 15-hangs before poweroff: ended because it took too long"
ok "which failed" said "hook 20-second before poweroff: status 1"
ok "which others can write to" said "30-others-write: is not run"
ok "what could not be run" said "hook 40-broken"
for pid in $(cat "$dir/hangs"); do ok "what hung is gone ($pid)" wait_for 30 has_ended "$pid"; done
rm "$dir"/d/[34]* "$dir/d/15-hangs" "$dir/fail"
ok "the daemon ends" control_stop

need "the daemon, with an action that hangs and one that fails" control_start --action-timeout 1 \
	--poweroff "echo is said; sleep 600 & sleep 600" --reboot "exit 3" --halt /nonexistent
for request in poweroff reboot halt; do
	forget
	ask $request
	ok "$request ends" wait_for 60 through $request failed
	is "$(lines)" "$(all_of $request | sed -e /act/d -e s/done/failed/)" "and the hooks are told"
done
ok "what it says is in the log" said "poweroff: is said"
ok "the daemon ends" control_stop

# --- another one that takes requests -----------------------------------------

forget
printf '#!/bin/sh\necho "kernel $1" >>"%s/lines"\n' "$dir" >"$dir/helper"
chmod 755 "$dir/helper"
"$xenloop" run --domain g1 -- "$XENPV_BUILD/tests/loop/src/linux_control" "$dir/helper" &
kernel=$!
need "the daemon starts" control_start --hooks /nonexistent
number=40
done_so_far() { wc -l <"$dir/lines"; }
has_done() { [ "$(done_so_far)" -ge "$1" ]; }
for ((i = 1; i <= number; i++)); do
	ask "$([ $((i % 2)) = 0 ] && echo reboot || echo poweroff)"
	# The line is there before the daemon has heard of its end; what is asked for until then is late.
	wait_for 30 has_done $i && wait_for 30 is_idle || break
done
ok "all are taken" wait_for 30 is_taken
ok "and done" wait_for 30 is_idle
is "$(done_so_far)" $number "$number requests: each done once"
is "$(sed -E 's/^(kernel|act) ([a-z]+).*/\2/' "$dir/lines" | sort | uniq -c | xargs)" \
	"$((number / 2)) poweroff $((number / 2)) reboot" "and none for another"
taken=$(curl -sf --unix-socket "$run_dir/xen-controld.sock" http://x/status | jq '.taken.poweroff + .taken.reboot')
is "$(actions)" "$taken" "as many by the daemon as it has taken"
diag "$(sort "$dir/lines" | uniq -c)"
ok "the daemon ends" control_stop
# What the kernel takes and does not tell of: then the daemon is stopped in the course of it.
need "the daemon starts" control_start --grace-ms 60000 --poweroff refuse
forget
ask poweroff
ok "a request that only the kernel takes" wait_for 30 has_line "kernel poweroff"
seen() { [ "$(status "taken by the kernel")" -ge 1 ]; }
ok "and counted" wait_for 30 seen
is "$(lines)" "kernel poweroff" "and not done by the daemon"
ok "the daemon ends" control_stop
is "$(lines)" "kernel poweroff
first before shutdown
second before shutdown" "and has hooks run before that"
# One whose helper tells it, and is refused: that is no reboot that nobody has told of.
kill $kernel
wait $kernel 2>/dev/null
echo "\"$controld\" --kernel-request \$1 \"$run_dir\"; echo \"told \$?\" >>\"$dir/lines\"" >>"$dir/helper"
"$xenloop" run --domain g1 -- "$XENPV_BUILD/tests/loop/src/linux_control" "$dir/helper" &
kernel=$!
need "the daemon starts" control_start --grace-ms 60000 --poweroff refuse
forget
ask poweroff
ok "a request whose helper is refused" wait_for 30 has_line "told 77"
ok "is counted, too" wait_for 30 seen
ok "the daemon ends" control_stop
is "$(lines)" "kernel poweroff
told 77" "and runs no hooks for it"
kill $kernel
wait $kernel 2>/dev/null
need "the daemon starts" control_start --hooks /nonexistent

# --- by way of the kernel's helper -------------------------------------------

knock() { "$controld" --kernel-request "$@"; }
forget
printf '#!/bin/sh\necho "instead $*" >>"%s/lines"\n' "$dir" >"$dir/instead"
chmod 755 "$dir/instead"
ok "the kernel's helper is heard" knock poweroff "$run_dir" -- "$dir/instead"
ok "it is done" wait_for 30 has_line "act poweroff kernel"
knock tea "$run_dir" 2>/dev/null
is $? 77 "not with nonsense"
knock s3 "$run_dir" 2>/dev/null
is $? 77 "nor with what is refused"
ok "the daemon lives" wait_for 30 is_idle
is "$(lines)" "act poweroff kernel" "once"
# The script to be /sbin/reboot.
sed -e "s,^controld=.*,controld=$controld," -e "s,^original=.*,original=$dir/instead," \
	-e "s,@rundir@,$run_dir," "$XENPV_SRC/etc/xen-controld-reboot.in" >"$dir/reboot"
forget
ok "the script for reboot" sh "$dir/reboot"
ok "asks" wait_for 30 has_line "act reboot kernel"
ok "with arguments" sh "$dir/reboot" -f
ok "the daemon is idle" wait_for 30 is_idle
is "$(lines)" "act reboot kernel
instead -f" "it does what it always did"
forget
pid=$(cat "$TEST_DIR/controld.pid")
kill -STOP "$pid"
ok "a daemon that does not answer" knock poweroff "$run_dir" -- "$dir/instead" now
kill -CONT "$pid"
is "$(lines)" "instead now" "is done without"
ok "and when it does" wait_for 30 said "does not wait for the answer"
ok "it does not act" wait_for 30 is_idle
is "$(lines)" "instead now" "as well"
ok "the daemon ends" control_stop
forget
ok "no daemon" knock poweroff "$run_dir" -- "$dir/instead" "a b" c
is "$(lines)" "instead a b c" "is done without"
knock poweroff "$run_dir" 2>/dev/null
is $? 69 "if it is told how"

# --- suspended and resumed ---------------------------------------------------

forget
need "the daemon starts" control_start
for ((i = 1; i <= 3; i++)); do
	forget
	ok "$i: suspend" loop suspend g1
	id=$(loop resume g1)
	node=/local/domain/$id/control/shutdown
	ok "$i: hooks run" wait_for 30 through suspend resumed
	is "$(lines)" "first after suspend resumed
second after suspend resumed" "$i: once each"
	is "$(store ${node%shutdown}feature-reboot)" 1 "$i: what can be asked for is announced again"
done
forget
ask reboot
ok "a request afterwards" wait_for 30 through reboot
is "$(lines)" "$(all_of reboot)" "is done"
is "$(status resumed)" 3 "three times"

# The hook that is shipped, with programs that only say that they were called.
mkdir "$dir/tools"
for tool in chronyc arping systemctl; do
	printf '#!/bin/sh\necho "%s $*" >>"%s/lines"\n' $tool "$dir" >"$dir/tools/$tool"
done
echo 'echo "2: eth0    inet 192.0.2.7/24 brd 192.0.2.255 scope global eth0"' >"$dir/tools/ip"
chmod 755 "$dir/tools"/*
shipped() { PATH=$dir/tools:$PATH sh "$XENPV_SRC/etc/xenpv/control.d/50-resume" "$@"; }
clock="chronyc -n makestep
systemctl --no-block try-restart systemd-timesyncd.service"
forget
ok "the shipped hook, resumed" shipped after suspend resumed
is "$(lines)" "$clock
arping -U -c 1 -I eth0 192.0.2.7" "sets the clock and tells the network"
forget
ok "continued" shipped after suspend continued
is "$(lines)" "$clock" "only the clock"
forget
for args in "before suspend" "after suspend done" "after suspend failed" "before reboot" "after poweroff done"; do
	# shellcheck disable=SC2086
	ok "$args" shipped $args
done
is "$(lines)" "" "nothing"
is "$(PATH=/nonexistent /bin/sh "$XENPV_SRC/etc/xenpv/control.d/50-resume" after suspend resumed 2>&1; echo $?)" 0 \
	"without any of them it does nothing"

# --- keys --------------------------------------------------------------------

key=${node%shutdown}sysrq
dom0 xenstore-write $key h
ok "a key that nobody takes is reported" wait_for 30 said 'has "h": the kernel does not take it'
ok "the daemon ends" control_stop
need "the daemon starts" control_start --sysrq "echo key \$1 >>$dir/lines"
ok "with a command for keys" wait_for 30 has_line "key h"
dom0 xenstore-write $key "; rm"
ok "it gets nothing else" wait_for 30 said 'has "; rm": this is no key'
is "$(store $key)" "; rm" "which is left"
dom0 xenstore-write $key z
ok "a key again" wait_for 30 has_line "key z"

# --- the report --------------------------------------------------------------

# The nodes go one by one, this one last.
updated() { store /local/domain/$id/data/updated; }
left() { echo "$(store /local/domain/$id/data/os_name)$(updated)"; }
nothing_left() { [ -z "$(left)" ]; }
reports() { [ "$(store /local/domain/$id/attr/PVAddons/Installed)" = "$1" ]; }
ok "nothing is reported" reports ""
echo "report = yes" >"$dir/conf"
kill -HUP "$(cat "$TEST_DIR/controld.pid")"
need "until it is asked for" wait_for 30 updated
ok "that it is there" reports 1
uname=$(uname -r)
is "$(store /local/domain/$id/data/os_uname)" "$uname" "the kernel"
is "$(store /local/domain/$id/data/os_distro)" "$(. /etc/os-release; echo "$ID")" "the distribution"
is "$(store /local/domain/$id/data/os_name)" "$(. /etc/os-release; echo "$PRETTY_NAME")" "its name"
like "$(store /local/domain/$id/data/meminfo_total)" '^[0-9]+$' "memory"
like "$(updated)" '^[0-9]+$' "and that there is something to see"
: >"$dir/conf"
echo "report = no" >"$dir/conf"
kill -HUP "$(cat "$TEST_DIR/controld.pid")"
ok "and no more" wait_for 30 reports ""
wait_for 30 nothing_left
is "$(left)" "" "all of it"

# --- the configuration -------------------------------------------------------

echo "reboot = \"refuse\"" >"$dir/conf"
ok "the daemon ends" control_stop
like "$(curl -s --unix-socket "$run_dir/xen-controld.sock" http://x/metrics; echo $?)" '^7$' "and its socket is gone"
keep_running controld "$xenloop" run --domain g1 -- "$controld" --config "$dir/conf" --divert=no \
	--rundir "$run_dir" --hooks "$dir/d" </dev/null >/dev/null 2>&1 &
need "a daemon that refuses" wait_for 30 status state
forget
ask reboot
ok "reboot" wait_for 30 said 'refused: "reboot": the configuration refuses it'
is "$(store ${node%shutdown}feature-reboot)" 0 "and says so"
is "$(lines)" "" "does nothing"
like "$(curl -s --unix-socket "$run_dir/xen-controld.sock" http://x/metrics)" 'xenpv_control_refused_total 1.*# EOF' "it is counted"
ok "the daemon ends" control_stop
is "$(store ${node%shutdown}feature-reboot)" "" "and takes back what it said"
