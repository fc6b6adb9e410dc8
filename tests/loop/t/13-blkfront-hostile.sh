# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A backend that breaks the protocol, as on a real Xen (tests/guest/t/17): its disk is closed with one
# clear line each time, an honest disk beside it goes on.

hostile=$XENPV_BUILD/tests/xen/src/hostile_backend
need "QEMU serves disks" qemu_start
need "the daemon starts" blk_start
need "an honest disk" blk_attach xvda

refused() { grep -cE 'device closed: the backend' "$blk_log"; }
xvdb_is_there() { nbdinfo --size "$(blk_uri xvdb)"; }
no_xvdb() { ! xvdb_is_there; }
over() { ! kill -0 $backend; }
over_or_there() { over || xvdb_is_there; }
over_or_alive() { over || grep -q 'alive: the frontend' "$out"; }

# All of them with XENPV_ALL (scripts/test --area hostile); otherwise one of each kind.
modes() {
	if [ -n "${XENPV_ALL-}" ]; then "$hostile" --list; else "$hostile" --list | grep -E "^($few) "; fi
}
few='honest|unknown-id|double-response|response-flood|entry-scribble|sectors-garbage|state-flap|resize-garbage'

# More requests than the backend serves before it misbehaves.
while read -r mode expect _; do
	before=$(refused) out=$TEST_DIR/hostile-$mode.out
	ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 "$xenloop" run -- "$hostile" "$mode" 1 51728 >"$out" 2>&1 &
	backend=$!
	wait_for 20 over_or_there && xvdb_is_there &&
		timeout 5 fio --name=h --ioengine=nbd --uri="$(blk_uri xvdb)" --rw=read --bs=16k --size=4M \
			--minimal >/dev/null 2>&1
	# It ends by itself when all is as expected, or too late for that; an honest end is asked for.
	case ${expect#expect=} in
	alive) wait_for 40 over_or_alive; kill -TERM $backend 2>/dev/null ;;
	*) wait_for 60 over || kill -TERM $backend ;;
	esac
	wait $backend
	is $? 0 "$mode: as expected" || cat "$out"
	is $(($(refused) - before)) "$(grep -c 'refused: ' "$out")" "$mode: one line for each refusal"
	wait_for 30 no_xvdb
done < <(modes)
ok "the honest disk works" fio_verify
is "$(grep -c 'ended with' "$blk_log")" 0 "the daemon never ended"
ok "the daemon ends" blk_stop
