# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What a suspend takes, and what it leaves: as after the restore of a real guest.

"$xenloop" run -- "$XENPV_BUILD/tests/loop/src/suspended" >"$TEST_DIR/ref" &
keeper=$!
need "domain 0 shares a page" wait_for 30 test -s "$TEST_DIR/ref"
mkfifo "$TEST_DIR/go"
"$xenloop" run --domain g1 -- "$XENPV_BUILD/tests/loop/src/suspended" "$(cat "$TEST_DIR/ref")" \
	<"$TEST_DIR/go" >"$TEST_DIR/ready" 2>"$TEST_DIR/program.log" &
program=$!
exec 7>"$TEST_DIR/go"
need "a guest's program has a port, a page and a mapping" wait_for 30 test -s "$TEST_DIR/ready"
like "$(loop list)" "g1 +1 +3 +1 +1  running" "so says list"
ok "suspend" loop suspend g1
ok "resume" loop resume g1
echo >&7
wait $program
is $? 0 "its handles are good for new ones"
cat "$TEST_DIR/program.log"
like "$(loop list)" "g1 +2 +2 +0 +0  running" "the rest is gone"
kill -9 $keeper
wait $keeper 2>/dev/null
nothing() { [[ $(loop list) =~ Domain-0\ +0\ +2\ +[0-9]+\ +[0-9]+ ]]; }
ok "domain 0's page, too" wait_for 30 nothing
