# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# scripts/demo --loop, without its build: it ends well, and leaves nothing.

loop stop
timeout 150 "$XENPV_SRC/scripts/demo-loop.sh" >"$TEST_DIR/demo.out" 2>&1
is $? 0 "the demonstration ends well" || cat "$TEST_DIR/demo.out"
like "$(tail -n 1 "$TEST_DIR/demo.out")" "Done, in [0-9]+ s" "and says how long it took"
