# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A frontend that breaks the protocol, as on a real Xen (tests/guest/t/33), with persistent grants and
# without: errors, or its disk closed with one line; an honest guest's disk goes on.

hostile=$XENPV_BUILD/tests/xen/src/hostile_frontend
need "the backend starts" back_start
need "an honest frontend starts" blk_start
need "it has a disk" blk_attach xvda
truncate -s 16M "$TEST_DIR/hostile.img"
need "a hostile guest is made" loop create g2

no_hostile_disk() { [ "$(back_json length)" = 1 ]; }
hostile_disk() {	# mode
	loop detach-disk g2 xvdb --force 2>/dev/null
	wait_for 10 no_hostile_disk || return
	loop attach-disk g2 xvdb "$TEST_DIR/hostile.img" --type vbd "${disk_nodes[@]}" "mode=$1"
}
# The supervisor's word; the worker says more about it.
closed() { grep -cE 'the frontend (broke the protocol|cannot be served)' "$TEST_DIR/blkbackd.log"; }
closed_once() { [ $(($(closed) - before)) -eq 1 ]; }

fio_verify --loops=1000 --rate_iops=20 >"$TEST_DIR/honest.out" 2>&1 &
load=$!
for persistent in '' --persistent; do
	attached=''
	while read -r mode expect access text; do
		# Those to which it makes a difference how data is moved.
		case $persistent,$mode in
		,*|*,honest|*,bogus-gref|*,indirect-*|*,revoked-*|*,fuzz|*,entry-*|*,close-*|*,start-over) ;;
		*) continue ;;
		esac
		if [ "$attached" != "$access" ]; then
			ok "a disk for $mode" hostile_disk "$access"
			attached=$access
		fi
		before=$(closed)
		# shellcheck disable=SC2086
		ok "$mode $persistent: $text: $expect" \
			env ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" "$xenloop" run --domain g2 -- \
			"$hostile" --seconds 1 --seed $RANDOM $persistent "$mode" 51728 || attached=bad
		case ${expect#expect=} in
		refused)
			ok "$mode: the log has one line about it" wait_for 60 closed_once
			attached=bad
			;;
		any) attached=bad ;;
		esac
	done < <("$hostile" --list)
done
ok "the honest guest's I/O went on" pkill -P $load -x fio
wait $load
is "$(grep -ci 'verify\|error' "$TEST_DIR/honest.out")" 0 "without an error"
ok "and is right" fio_verify
ok "its image is what the client sees" same_image
is "$(ends blkbackd)" 0 "the supervisor never ended"
is "$(grep -c 'worker killed by' "$TEST_DIR/blkbackd.log")" 0 "no worker crashed"
ok "the frontend ends" blk_stop
ok "the backend ends" back_stop
