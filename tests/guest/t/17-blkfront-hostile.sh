# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A backend that breaks the protocol gets its disk closed with one clear line each time;
# the daemon and an honest disk beside it go on.
#
# matrix: pv/next
# timeout: 900

. "$XENPV_TESTS/guest/blkfront.sh"
blk_guest
hostile=$XENPV_BUILD/tests/xen/src/hostile_backend
attach=$(blk_sturdy_attachments)
id=$(guest_id $guest)
ok "the daemon starts" blk_start "$attach"
need "an honest disk is there" blk_attach phy /dev/ram0

refused() { blk_count 'device closed: the backend' || :; }
over() { ! kill -0 $backend; }
over_or_there() { over || guest_run $guest "test -b $dev/xvdb"; }
over_or_alive() { over || grep -q 'alive: the frontend' "$out"; }

# The rest is told apart on xenloop as well (tests/loop/t/13), and here with --all.
some=' honest unknown-id double-response wrong-operation response-flood entry-scribble event-storm
sectors-garbage state-jump state-flap vanish resize-garbage '
while read -r mode expect _; do
	[[ -n ${XENPV_ALL-} || ${some//$'\n'/ } == *" $mode "* ]] || continue
	before=$(refused) out=$XENPV_TEST_DIR/hostile-$mode.log
	"$hostile" "$mode" "$id" 51728 >"$out" 2>&1 &
	backend=$!
	wait_for 30 over_or_there 2>/dev/null
	guest_run $guest "test -b $dev/xvdb &&
		timeout 5 dd if=$dev/xvdb of=/dev/null bs=16k count=64 iflag=direct" 30 >/dev/null 2>&1
	# It ends by itself when all is as expected, or too late for that; an honest end is asked for.
	case ${expect#expect=} in
	alive) wait_for 60 over_or_alive; kill -TERM $backend ;;
	*) wait_for 200 over || kill -TERM $backend ;;
	esac 2>/dev/null
	wait $backend
	is $? 0 "$mode: as expected" || indent_diag <"$out"
	is $(($(refused) - before)) "$(grep -c 'refused: ' "$out")" "$mode: one line for each refusal"
	guest_ok $guest "$mode: the honest disk works" "dd if=$dev/xvda of=/dev/null bs=64k count=8 iflag=direct" 20
	guest_run $guest "i=0; while test -e $dev/xvdb && [ \$i -lt 50 ]; do sleep 0.1; i=\$((i+1)); done" >/dev/null
done < <("$hostile" --list)

is "$(blk_count 'ended with')" 0 "the daemon never ended"
guest_ok $guest "no worker but the honest disk's is left" "[ \$(pidof xen-blkfrontd | wc -w) -eq 2 ]"
ok "the honest disk detaches" blk_detach
ok "the daemon ends" blk_stop
