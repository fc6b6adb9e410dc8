# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Domains are made, listed, suspended, resumed and destroyed; each has its own view of xenstore.

like "$(loop list)" "Domain-0 +0 .*g1 +1 +[0-9 ]+  running" "both domains are listed"
is "$(guest xenstore-read name)" g1 "a guest's paths are relative to its folder"
is "$(guest xenstore-read domid)" 1 "it knows its number"
not_ok "a guest may not write its name" guest xenstore-write name other
ok "a guest writes where it may" guest xenstore-write data/note hello
is "$(store /local/domain/1/data/note)" hello "domain 0 reads it"
not_ok "a guest does not read other guests" guest xenstore-read /local/domain/0/domid
ok "a second guest" loop create g2
not_ok "no second guest of that name" loop create g2
is "$(loop run --domain g2 -- xenstore-read domid)" 2 "it is domain 2"

many_watches() {
	python3 - "$TEST_DIR/session/store-g1" <<'END'
import socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
for i in range(200):
    body = b"data/w%d\0t%d\0" % (i, i)
    s.sendall(struct.pack("<IIII", 4, i, 0, len(body)) + body)
seen = set()
errors = 0
while len(seen) + errors < 200:
    head = b""
    while len(head) < 16:
        head += s.recv(16 - len(head))
    kind, req, tx, size = struct.unpack("<IIII", head)
    body = b""
    while len(body) < size:
        body += s.recv(size - len(body))
    if kind == 16:
        errors += 1
        assert body == b"E2BIG\0", body
    elif kind == 15:
        seen.add(body)
print(errors)
END
}
like "$(many_watches)" "^7[12]$" "xenstored's quota of 128 watches holds for a guest"
ok "its watches go with the program" wait_for 30 guest sh -c 'timeout 20 xenstore-watch -n 1 data'

"$xenloop" run --domain g1 -- sleep 600 &
sleeper=$!
need "a program of it runs" wait_for 30 runs $sleeper sleep
ok "suspend" loop suspend g1
like "$(loop list)" "g1 +- +[0-9 ]+  suspended" "it is suspended"
is "$(store /local/domain/1/name)" "" "its folder is gone"
ok "its programs are stopped" wait_for 30 in_state $sleeper T
is "$(loop resume g1)" 3 "resume gives a new number"
is "$(guest xenstore-read domid)" 3 "which it sees"
ok "its programs go on" wait_for 30 in_state $sleeper S
ok "destroy" loop destroy g1
wait $sleeper
is $? 137 "its programs are killed"
is "$(store /local/domain/3/name)" "" "its folder is gone again"
like "$(loop list)" "g2 +2" "the other guest stays"

loop run --domain nobody -- true 2>"$TEST_DIR/err"
is $? 69 "a program in no domain: status"
like "$(cat "$TEST_DIR/err")" "xenloop create nobody" "and what to do"
loop attach-disk g2 sda /x 2>/dev/null
is $? 64 "a disk of a strange name is refused"
loop bogus 2>/dev/null
is $? 64 "so is a strange command"
is "$(loop session -- sh -c 'xenstore-list /local/domain; exit 7' 2>&1; echo $?)" \
	"0
7" "a session of its own for a program"
ok "stop" loop stop
not_ok "stop again" loop stop
