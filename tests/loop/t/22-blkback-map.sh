# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# xen-blkbackd without grant copy, as on FreeBSD, for a guest that keeps no page granted: pages are
# mapped for each request and given back with its answer, also when a worker is killed over it.

need "the backend starts" back_start --transfer map --buffer-pages 256
need "the frontend starts" blk_start --ring-page-order 1 --queues 2 --persistent=no
need "a hostile guest is made" loop create g2
maps() { loop list | awk '$2 == 0 { print $5 }'; }
before=$(maps)
need "a disk" blk_attach xvda
is "$(back_json '.[0] | "\(.queues) \(.persistent)"')" "2 false" "no persistent grants"
metric() {
	curl -sf --max-time 5 --unix-socket "$run_dir/xen-blkbackd.sock" http://x/metrics |
		awk -v name="xenpv_blkback_$1" '$1 ~ "^" name { sum += $2 } END { print sum + 0 }'
}
idle=$(leftovers)
# Depth and sizes ask for more pages than may be lent at a time.
ok "random mixed I/O at depth 32 is right" fio_verify
ok "the image is what the client sees" same_image
is "$(metric copied_pages)" 0 "nothing was copied"
ok "pages were mapped for requests" test "$(metric lent_pages)" -gt 8000
is "$(metric mapped_pages)" 0 "and none was kept"
is "$(leftovers)" "$idle" "all are given back"

back_kill_under_load 4

hostile=$XENPV_BUILD/tests/xen/src/hostile_frontend
truncate -s 16M "$TEST_DIR/hostile.img"
no_hostile_disk() { [ "$(back_json length)" = 1 ]; }
for mode in honest bogus-gref indirect-bogus-gref indirect-bogus-segment revoked-in-flight fuzz \
	entry-scribble close-while-busy; do
	need "a disk for $mode" loop attach-disk g2 xvdb "$TEST_DIR/hostile.img" --type vbd "${disk_nodes[@]}"
	ok "$mode" env ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" "$xenloop" run --domain g2 -- \
		"$hostile" --seconds 1 --seed $RANDOM "$mode" 51728
	loop detach-disk g2 xvdb --force
	need "it goes" wait_for 10 no_hostile_disk
done
is "$(grep -c 'worker killed by' "$TEST_DIR/blkbackd.log")" 4 "no worker crashed"

ok "detach" loop detach-disk g1 xvda
as_before() { [ "$(maps)" = "$before" ]; }
wait_for 20 as_before
is "$(maps)" "$before" "no mapping stays"
ok "the frontend ends" blk_stop
ok "the backend ends" back_stop
