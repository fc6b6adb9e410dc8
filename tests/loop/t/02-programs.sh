# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Programs of Xen's own run here unchanged: xenconsoled and xenconsole, vchan, xenstore-*, xl.

of_package() { dom0 env "$package_libraries" timeout 120 "$xen_bin/$1" "${@:2}" 2>>"$TEST_DIR/programs.log"; }

"$xenloop" run -- "$xen_bin/xenconsoled" -i --log=none >"$TEST_DIR/xenconsoled.log" 2>&1 </dev/null &
console_tty() { [ -c "$(store /local/domain/1/console/tty)" ]; }
ok "xenconsoled gives the guest's console a terminal" wait_for 30 console_tty
"$xenloop" run --domain g1 --console -- sh -c 'stty -echo; echo ready; while read -r line; do echo "got:$line:"; done' &
# xenconsole wants a terminal.
mkfifo "$TEST_DIR/keys"
script -qefc "'$xenloop' run -- '$xen_bin/xenconsole' 1" /dev/null <"$TEST_DIR/keys" >"$TEST_DIR/talk" 2>&1 &
talk=$!
exec 8>"$TEST_DIR/keys"
heard() { wait_for 30 grep -q "$1" "$TEST_DIR/talk"; }
ok "xenconsole hears a program in the guest" heard ready
echo hello >&8
ok "and speaks with it" heard "got:hello:"
echo $((6 * 7)) >&8
ok "more than once" heard "got:42:"
exec 8>&-
kill $talk

python3 -c "
import os, socket
s = socket.socket(socket.AF_UNIX); s.bind('$TEST_DIR/served.new'); s.listen(1)
os.rename('$TEST_DIR/served.new', '$TEST_DIR/served')
c, _ = s.accept()
data = b''
while len(data) < 300000:
    data += c.recv(65536)
c.sendall(data[::-1])
c.recv(1)
" &
# It connects there when its client comes, and only once.
ok "a program listens" wait_for 60 test -S "$TEST_DIR/served"
"$xenloop" run --domain g1 -- "$xen_bin/vchan-socket-proxy" --mode=server 0 data/vchan "$TEST_DIR/served" \
	>"$TEST_DIR/vchan-server.log" 2>&1 </dev/null &
ok "a vchan server in the guest" wait_for 30 store /local/domain/1/data/vchan/ring-ref
"$xenloop" run -- "$xen_bin/vchan-socket-proxy" --mode=client 1 /local/domain/1/data/vchan \
	"$TEST_DIR/client" >"$TEST_DIR/vchan-client.log" 2>&1 </dev/null &
ok "a client in domain 0" wait_for 30 test -S "$TEST_DIR/client"
ok "300 kB go there and come back reversed" timeout 300 python3 -c "
import os, socket, threading
s = socket.socket(socket.AF_UNIX); s.connect('$TEST_DIR/client')
sent = os.urandom(300000)
threading.Thread(target=s.sendall, args=(sent,)).start()
got = b''
while len(got) < len(sent):
    got += s.recv(65536)
assert got == sent[::-1]
"
ok "xenstore-write" dom0 xenstore-write /tool/a/b value
is "$(dom0 xenstore-list /tool/a)" b "xenstore-list"
is "$(dom0 xenstore-exists /tool/a/b; echo $?)" 0 "xenstore-exists"
ok "xenstore-chmod" dom0 xenstore-chmod /tool/a/b r1
is "$(guest xenstore-read /tool/a/b)" value "which lets the guest read it"
ok "xenstore-rm" dom0 xenstore-rm /tool/a
timeout 60 "$xenloop" run --domain g1 -- xenstore-watch -n 2 data/w >"$TEST_DIR/watched" &
watch=$!
ok "xenstore-watch has begun" wait_for 30 test -s "$TEST_DIR/watched"
guest xenstore-write data/w 1
wait $watch
is "$(cat "$TEST_DIR/watched")" "data/w
data/w" "xenstore-watch tells of the watch and of a change"
ok "xenstored's self check" of_package xenstore-control check
like "$(of_package test-xenstore -i 20)" "ta rmw x" "Xen's own measurements of xenstored"
like "$(of_package xl list)" "Domain-0 +0 .*g1 +1 " "xl list"
is "$(of_package xl domid g1)" 1 "xl domid"
ok "xl rename" of_package xl rename g1 other
is "$(guest xenstore-read name)" other "which the guest sees"
ok "a disk" loop attach-disk g1 xvda /dev/null
like "$(of_package xl block-list other)" "51712 .*/local/domain/0/backend/vbd/1/51712" "xl block-list"
guest xenstore-write control/feature-poweroff 1
# What the guest's kernel would do, and xl waits for it. A watch fires when it is made, so that no
# request is missed.
cat >"$TEST_DIR/answer" <<'END'
xenstore-watch control/shutdown | while read -r _; do
	request=$(xenstore-read control/shutdown)
	[ -n "$request" ] || continue
	echo "$request"
	xenstore-write control/shutdown ""
done
END
"$xenloop" run --domain g1 -- sh "$TEST_DIR/answer" >"$TEST_DIR/asked" &
ok "xl shutdown" of_package xl shutdown other
ok "which asks the guest" wait_for 30 grep -qx poweroff "$TEST_DIR/asked"
ok "xl reboot" of_package xl reboot other
ok "asks it, too" wait_for 30 grep -qx reboot "$TEST_DIR/asked"
ok "xl sysrq" of_package xl sysrq other s
is "$(guest xenstore-read control/sysrq)" s "which the guest sees"
is "$(of_package xl domname 1)" other "xl domname"
ok "an interface" loop attach-net g1 0 mac=00:16:3e:11:22:33
like "$(of_package xl network-list other)" "00:16:3e:11:22:33 .*/local/domain/0/backend/vif/1/0" \
	"xl network-list"
