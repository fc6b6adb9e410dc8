# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A domain's console: program after program has it, over suspend and resume.

"$xenloop" run -- "$xen_bin/xenconsoled" -i --log=none >"$TEST_DIR/xenconsoled.log" 2>&1 </dev/null &
terminal() { store "/local/domain/$domid/console/tty"; }
is_terminal() { [ -c "$(terminal)" ]; }
domid=1
need "xenconsoled gives it a terminal" wait_for 30 is_terminal

# What it prints is in this file; what is written to the terminal is its input.
listen() {
	: >"$TEST_DIR/console"
	cat "$(terminal)" >>"$TEST_DIR/console" &
	listener=$!
}
says() { wait_for 30 grep -q "$1" "$TEST_DIR/console"; }

listen
loop run --domain g1 --console -- sh -c 'stty -echo; echo first; read -r l; echo "got:$l:"'  &
program=$!
ok "a program has it" says first
loop run --domain g1 --console -- true 2>"$TEST_DIR/err"
is $? 69 "no other can have it meanwhile"
like "$(cat "$TEST_DIR/err")" "busy" "which it says"
echo hello >"$(terminal)"
ok "input and output" says "got:hello:"
wait $program
is $? 0 "it ends"
ok "the next program has it" loop run --domain g1 --console -- echo second
ok "and prints" says second
loop run --domain g1 --console -- sh -c 'exit 7'
is $? 7 "its status is the program's"
loop run --domain g1 --console -- /nonexistent 2>/dev/null
is $? 127 "or a shell's, if there is no program"

"$xenloop" run --domain g1 --console -- sh -c \
	'stty -echo; echo before; while read -r l; do echo "again:$l:"; done' &
program=$!
ok "a program that stays" says before
kill $listener
ok "suspend" loop suspend g1
domid=$(loop resume g1)
is "$domid" 2 "resume, with its console in use"
need "a terminal for the new number" wait_for 30 is_terminal
listen
echo "over there" >"$(terminal)"
ok "the program has the console still" says "again:over there:"

# More input than terminal and ring hold: it waits, and none is lost.
kill $program
pkill -P $program 2>/dev/null
wait $program 2>/dev/null
head -c 150000 /dev/urandom >"$TEST_DIR/input"
loop run --domain g1 --console -- sh -c "stty raw -echo; echo ready; until [ -e '$TEST_DIR/go' ]
	do sleep 0.1; done; head -c 150000 >'$TEST_DIR/taken'" &
program=$!
ok "a program that takes nothing yet" says ready
python3 - "$(terminal)" "$TEST_DIR/input" "$TEST_DIR/go" <<'END' &
import os, select, sys, time
tty = os.open(sys.argv[1], os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
data = open(sys.argv[2], "rb").read()
full = 0
while data:
    try:
        data = data[os.write(tty, data):]
        full = 0
    except BlockingIOError:
        full += 1
        if full == 20:
            open(sys.argv[3], "w")
        time.sleep(0.02)
END
wait $program
ok "it takes it all later" cmp "$TEST_DIR/input" "$TEST_DIR/taken"
kill $listener
