# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# xen-blkfrontd in the guest, xen-blkbackd in domain 0, a file: I/O, discard, a new size; either
# end's processes are killed under load; the guest is suspended and resumed.

mkdir -p "$run_dir/blkback"
touch "$run_dir/blkback/vbd-77-51712.journal"
need "the backend starts" back_start
ok "a journal of a disk that went meanwhile is removed" test ! -e "$run_dir/blkback/vbd-77-51712.journal"
need "the frontend starts" blk_start --ring-page-order 1 --queues 2
# Not the guest's ports: those of before a resume are kept for good (xpv_evtchn_abandon()).
kept() { leftovers | sed 's/\(g1 [0-9]*\) [0-9]*/\1/'; }
before=$(kept)
need "a disk" blk_attach xvda
is "$(store /local/domain/0/backend/vbd/1/51712/hotplug-status)" connected "the toolstack is told"
is "$(store /local/domain/0/backend/vbd/1/51712/state)" 4 "the backend is connected"
is "$(back_json '.[0] | "\(.queues) \(.ring_pages) \(.persistent)"')" "2 2 true" \
	"queues, ring pages, persistent grants as agreed"
ok "random mixed I/O at depth 32 is right" fio_verify
ok "the image is what the client sees" same_image
blocks() { stat -c %b "$image"; }
was=$(blocks)
ok "a discard" qemu-io -f raw -c 'discard 8M 16M' "$(blk_uri)"
ok "makes a hole" test $((was - $(blocks))) -ge 10000 # fio has not written everywhere
ok "the image is still what the client sees" same_image

for whom in worker supervisor; do
	load_begin
	for round in 1 2 3 4 5 6; do
		need "round $round: there is a new worker" wait_for 30 next_back_worker
		sleep "0.$((RANDOM % 4))$((RANDOM % 10))" # at any moment of its life
		case $whom in
		worker) victim=$back_victim ;;
		*) victim=$(cat "$TEST_DIR/blkbackd.pid") ;;
		esac
		ok "the $whom is killed under load" kill -9 "$victim"
	done
	ok "no error and no wrong byte" load_end
	ok "the image is what the client sees" same_image
done

load_begin
for round in $(seq 8); do
	need "round $round: there is a new worker at the back" wait_for 30 next_back_worker
	need "round $round: and at the front" wait_for 30 next_blk_worker
	sleep 0.2
	# The front's may end by itself, to begin again with the back's next one.
	kill -9 "$back_victim" "$blk_victim" 2>/dev/null
done
ok "both ends' workers are killed: no error and no wrong byte" load_end

load_begin
for round in 1 2 3; do
	sleep 0.3
	need "round $round: suspend" loop suspend g1
	need "round $round: resume" loop resume g1
done
ok "no error and no wrong byte" load_end
ok "the image is what the client sees" same_image

truncate -s 48M "$image"
kill -HUP "$(cat "$TEST_DIR/blkbackd.pid")"
ok "a new size is seen" wait_for 10 blk_has_size $((48 << 20))
ok "detach" loop detach-disk g1 xvda
as_before() { [ "$(kept)" = "$before" ]; }
wait_for 20 as_before
is "$(kept)" "$before" "no page stays shared, none mapped"
idle() { [ -z "$(back_workers; ls "$run_dir/blkback")" ]; }
ok "no worker and no journal stays" wait_for 60 idle
ok "the frontend ends" blk_stop
ok "the backend ends" back_stop
