# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# The commands that make sessions and devices: names and numbers, what is left behind, who is killed.

# --- domains by number -------------------------------------------------------

is "$(loop run --domain 1 -- xenstore-read name)" g1 "a program in a domain by its number"
is "$(loop run --domain 1 -- sh -c 'echo $XENLOOP_DOMAIN')" g1 "it is known by its name"
"$xenloop" run --domain g1 -- sleep 600 &
sleeper=$!
is "$(loop run --domain 0 -- xenstore-read domid)" 0 "domain 0 by its number"
need "a program runs" wait_for 30 runs $sleeper sleep
ok "a disk by number" loop attach-disk 1 xvda /disk --backend 0
ok "suspend by number" loop suspend 1
ok "its programs are stopped" wait_for 30 in_state $sleeper T
loop suspend g1 2>/dev/null
is $? 69 "not a second time"
is "$(loop resume g1)" 2 "resume"
ok "its programs go on" wait_for 30 in_state $sleeper S
is "$(store /local/domain/2/device/vbd/51712/virtual-device)" 51712 "its disk came along"
loop destroy 1 2>/dev/null
is $? 69 "the old number is nobody's"
ok "shutdown by number" loop shutdown 2 crash
like "$(loop list)" "g1 +2 +[0-9 ]+  shutdown" "the domain has shut down"
loop shutdown g1 tea 2>/dev/null
is $? 64 "but for no such reason"
ok "destroy by number" loop destroy 2
wait $sleeper
is $? 137 "its programs are killed"
loop run --domain g1 -- true 2>/dev/null
is $? 69 "it has gone"

# --- devices -----------------------------------------------------------------

records() { cat "$XENLOOP_DIR/devices-g1" 2>/dev/null; }
is "$(loop create g1)" 3 "a new domain of that name"
is "$(records)" "" "has no devices of the old one"
ok "a disk" loop attach-disk g1 xvda /disk
front=/local/domain/3/device/vbd/51712 back=/local/domain/0/backend/vbd/3/51712
# All that is there, in order.
tree() { dom0 xenstore-ls "$1" | sed 's/ = "\(.*\)"$/=\1/' | LC_ALL=C sort; }
is "$(tree $front)" "backend-id=0
backend=$back
device-type=disk
state=1
virtual-device=51712" "what its frontend finds"
described="bootable=1
dev=xvda
device-type=disk
discard-enable=1
frontend-id=3
frontend=$front
mode=w
online=1
params=/disk
removable=0
script=/etc/xen/scripts/block
state=1
type=phy"
is "$(tree $back)" "$(LC_ALL=C sort <<<"$described")" "what its backend finds, as with xl"
is "$(tree /libxl/3/device/vbd/51712)" "$(LC_ALL=C sort <<<"$described
backend=$back")" "and the toolstack keeps it"
dom0 xenstore-write $front/state 4
loop attach-disk g1 51712 /other 2>"$TEST_DIR/err"
is $? 71 "a disk that is there is not attached again"
like "$(cat "$TEST_DIR/err")" "File exists" "which it says"
is "$(store $front/state):$(store $back/params)" "4:/disk" "and not touched"
loop attach-disk g1 xvdb /disk mode 2>/dev/null
is $? 64 "a setting without a value is refused"
is "$(store /local/domain/3/device/vbd/51728/state)" "" "before anything is written"
ok "taken away by force" loop detach-disk g1 51712 --force
is "$(store $front/state)$(store $back/state)$(store /libxl/3/device/vbd/51712/dev)" "" "all of it"
is "$(records)" "" "it will not come back"
ok "a disk for QEMU" loop attach-disk g1 xvda1 /image --type qdisk mode=r
like "$(tree /local/domain/0/backend/qdisk/3/51713)" "mode=r.*params=aio:/image.*type=qdisk" "as with xl"
ok "another one" loop attach-disk g1 xvda2 /image --type qdisk
closed=/local/domain/0/backend/qdisk/3/51714
told_to_close() { [ "$(store $closed/state)" = 5 ]; }
dom0 xenstore-write /local/domain/3/device/vbd/51714/state 6 $closed/state 4
loop detach-disk g1 xvda2 2>"$TEST_DIR/err" &
detach=$!
ok "its backend is told to close" wait_for 30 told_to_close
dom0 xenstore-write $closed/state 6
wait $detach
is $? 75 "one that is closed is QEMU's to remove"
like "$(cat "$TEST_DIR/err")" "QEMU has not removed it" "which is said"
is "$(store $closed/state)$(store /local/domain/3/device/vbd/51714/state)" 66 "and it stays"
loop detach-disk g1 xvda2 &
detach=$!
ok "asked again" wait_for 30 told_to_close
dom0 xenstore-rm $closed
wait $detach
is $? 0 "it is detached when that is removed"
is "$(store /local/domain/3/device/vbd/51714/state)" "" "all of it"
ok "one that nobody serves" loop attach-disk g1 xvda2 /image --type qdisk
ok "is detached" loop detach-disk g1 xvda2

is "$(loop create driver)" 4 "a driver domain"
ok "an interface that it serves" loop attach-net g1 0 --backend 4 mac=00:16:3e:01:02:03
front=/local/domain/3/device/vif/0 back=/local/domain/4/backend/vif/3/0
is "$(tree $front)" "backend-id=4
backend=$back
handle=0
mac=00:16:3e:01:02:03
mtu=1500
state=1" "what its frontend finds"
like "$(tree $back)" "frontend-id=3.*frontend=$front.*handle=0.*mac=00:16:3e:01:02:03.*type=vif" \
	"what its backend finds"
is "$(loop run --domain driver -- xenstore-read backend/vif/3/0/mac)" "00:16:3e:01:02:03" \
	"in its own folder"
ok "suspend the driver domain" loop suspend driver
ok "resume it" loop resume driver
ok "suspend the guest" loop suspend g1
ok "resume it" loop resume g1
is "$(store /local/domain/6/device/vif/0/backend)" /local/domain/5/backend/vif/6/0 \
	"its interface finds the backend by its new number"
closes() { wait_for 30 closing && dom0 xenstore-write $1/state 6; }
closing() { [ "$(store /local/domain/5/backend/vif/6/0/state)" = 5 ]; }
dom0 xenstore-write /local/domain/5/backend/vif/6/0/state 4
dom0 xenstore-write /local/domain/6/device/vif/0/state 4
{ closes /local/domain/6/device/vif/0; closes /local/domain/5/backend/vif/6/0; } &
ok "detach: both sides close" loop detach-net g1 0
loop detach-net g1 0 2>/dev/null
is $? 69 "it has gone"
loop attach-net g1 300 2>/dev/null
is $? 64 "no interface 300"

# --- a suspend that nobody waits for any more --------------------------------

broker=$(cat "$XENLOOP_DIR/broker.pid") xenstored=$(cat "$XENLOOP_DIR/xenstored.pid")
ticks() { awk '{ print $14 + $15 }' "/proc/$broker/stat"; }
kill -STOP "$xenstored"
"$xenloop" run --domain g1 -- xenstore-read name >"$TEST_DIR/name" &
reader=$!
timeout -k 1 1 "$xenloop" suspend g1
before=$(ticks)
sleep 0.5
idle=$(($(ticks) - before))
ok "the broker rests ($idle ticks)" test $idle -lt 20
kill -CONT "$xenstored" $reader
ok "the request is answered" wait_for 30 grep -q g1 "$TEST_DIR/name"
wait $reader
ok "suspend" loop suspend g1
ok "resume" loop resume g1
is "$(guest xenstore-read name)" g1 "the store is there"

# --- names that are too long -------------------------------------------------

long=$(printf 'n%.0s' {1..31})
deep=$TEST_DIR/$(printf 'd%.0s' {1..80})
deep=${deep:0:78}
is "$(loop create "$long")" 8 "a name of 31 characters"
is "$(loop run --domain "$long" -- xenstore-read name)" "$long" "it works"
ok "a session in a deep folder" loop --dir "$deep" start
not_ok "has no room for the socket of such a name" loop --dir "$deep" create "$long"
ok "for another it has" loop --dir "$deep" create short
is "$(loop --dir "$deep" run --domain short -- xenstore-read name)" short "which works"
loop --dir "$deep" stop

# --- the end -----------------------------------------------------------------

# This has the folder in its environment, and is no program of the session.
sleep 600 &
bystander=$!
# What "run" has started is one, whatever it has made of itself.
"$xenloop" run -- sh -c 'sleep 600 & wait' &
program=$!
need "a program runs" wait_for 30 pgrep -P $program -x sleep
child=$(pgrep -P $program -x sleep)
ok "stop" loop stop
ok "a process beside the session lives" kill -0 $bystander
kill $bystander
wait $program
is $? 137 "a program of it is killed"
ok "so is its child" wait_for 30 has_ended "$child"
is "$(find "$XENLOOP_DIR" -mindepth 1 -printf '%f\n' | sort | xargs)" "broker.log xenstored.log" \
	"the folder has the logs"

mkdir "$TEST_DIR/here"
(cd "$TEST_DIR/here" && loop --dir there start)
is "$(cd "$TEST_DIR/here" && loop --dir there run -- sh -c 'cd /; xenstore-read domid; echo $XENLOOP_DIR')" \
	"0
$TEST_DIR/here/there" "a folder by its relative name"
(cd "$TEST_DIR/here" && loop --dir there stop)
is "$(ls "$TEST_DIR/here/there")" "broker.log
xenstored.log" "its end"

for signal in INT TERM HUP; do
	rm -f "$TEST_DIR/session-folder"
	"$xenloop" session -- sh -c 'xenstore-read domid && echo "$XENLOOP_DIR" >"$0.new" &&
		mv "$0.new" "$0"; exec env --default-signal sleep 600' "$TEST_DIR/session-folder" &
	session=$!
	need "a session of its own" wait_for 30 test -e "$TEST_DIR/session-folder"
	folder=$(cat "$TEST_DIR/session-folder")
	store_pid=$(cat "$folder/xenstored.pid")
	kill -$signal $session
	wait $session
	is "$(kill -l $?)" $signal "SIG$signal ends its program"
	not_ok "and its folder" test -e "$folder"
	ok "and its xenstored" wait_for 30 has_ended "$store_pid"
done
