# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# kill -9 of the daemon under verified I/O. The next one takes the device over, with requests waiting
# that are larger than it would allow, and a disk that has grown: no error, no wrong byte.
#
# matrix: none
# more: nbd/phy

attach=$TYPE
. "$XENPV_TESTS/xen/blkfront.sh"
truncate -s 48M /tmp/store.img
store=$(losetup -f --show /tmp/store.img)
at_end "losetup -d $store; rm -f /tmp/store.img"
need "the daemon starts" blk_start "$attach" --max-io-kb 1024
need "a disk is there" blk_disk phy "$store"
ok "it has a file system" mkfs.ext4 -q -F $dev/xvda
need "it is mounted" mount $dev/xvda /mnt

load() {
	until [ -e "$XENPV_TEST_DIR/enough" ]; do
		fio_verify /mnt/f --size=16M --bsrange=4k-1024k --fsync=16 || return
	done
}
load >"$XENPV_TEST_DIR/load.out" 2>&1 &
load=$!
at_end "pkill -P $load; kill $load 2>/dev/null"
requests() { echo $(($(blk_metric requests_total xvda read) + $(blk_metric requests_total xvda write))); }
more_requests() { [ "$(requests)" -gt $((seen + 50)) ]; }
is_ready() { blk_json '.[0] | select(.state == "ready")'; }
seen=0
need "I/O goes on" wait_for 60 more_requests
worker=$(blk_worker)
ok "kill -9 of the daemon" kill -9 "$blk_pid"
worker_ended() { ! kill -0 "$worker" 2>/dev/null; }
ok "its worker ends by itself" wait_for 30 worker_ended
truncate -s 64M /tmp/store.img
ok "the store grows" losetup -c "$store"
need "another one, that allows less, starts" blk_start "$attach" --max-io-kb 64
need "it serves the disk" wait_for 120 is_ready
has_grown() { [ "$(blockdev --getsize64 $dev/xvda)" = $((64 << 20)) ]; }
ok "which has its new size" wait_for 30 has_grown
seen=0
need "I/O goes on" wait_for 120 more_requests
: >"$XENPV_TEST_DIR/enough"
ok "fio saw neither an error nor a wrong byte" wait $load
ok "unmount" umount /mnt
ok "fsck finds nothing" fsck.ext4 -f -n $dev/xvda
ok "the store holds what the device has" same_bytes $dev/xvda "$store"
ok "detach" blk_gone
ok "SIGTERM ends the daemon" blk_stop
