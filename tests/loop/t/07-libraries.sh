# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# The libraries have the names, symbols and versions of the distribution's: whatever is linked with
# those runs with these.

# Symbols with their versions, and the name that programs ask for.
symbols() { nm -D --with-symbol-versions --defined-only "$1" | awk '$2 == "T" { print $3 }' | sort; }
soname() { readelf -d "$1" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p'; }

for name in evtchn gnttab foreignmemory call devicemodel; do
	ours=$XENPV_BUILD/src/xenloop/libxen$name.so
	theirs=$(ldconfig -p | sed -n "s/.*libxen$name\.so\.1 .*=> //p" | head -n 1)
	need "libxen$name of the distribution" test -n "$theirs"
	is "$(soname "$ours")" "$(soname "$theirs")" "its soname is ours"
	symbols "$theirs" >"$TEST_DIR/theirs"
	symbols "$ours" >"$TEST_DIR/ours"
	ok "it has symbols" test -s "$TEST_DIR/theirs"
	is "$(comm -23 "$TEST_DIR/theirs" "$TEST_DIR/ours")" "" "each of them is there, in the same version"
	is "$(comm -13 "$TEST_DIR/theirs" "$TEST_DIR/ours")" "" "and no other"
done
