# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# kill -9 of the worker under verified I/O: a pause, no error, no wrong byte. With ublk only where the
# kernel stands it (see ublk_sound() in src/blkfront/attach_ublk.c).
#
# matrix: nbd/phy
# more: nbd/qdisk

attach=$TYPE backend=$KERNEL
. "$XENPV_TESTS/xen/blkfront.sh"
case $backend in phy) target=/dev/ram0 ;; qdisk) target=/tmp/store.img ;; esac
truncate -s 64M /tmp/store.img
at_end "rm -f /tmp/store.img"
[ "$backend" != qdisk ] || need "QEMU serves disks" qemu_start
need "the daemon starts" blk_start "$attach"
need "a disk is there" blk_disk "$backend" "$target"
ok "it has a file system" mkfs.ext4 -q -F $dev/xvda 48M
need "it is mounted" mount $dev/xvda /mnt

load() {
	until [ -e "$XENPV_TEST_DIR/enough" ]; do fio_verify /mnt/f --size=8M --fsync=16 || return; done
}
load >"$XENPV_TEST_DIR/load.out" 2>&1 &
load=$!
at_end "pkill -P $load; kill $load 2>/dev/null"
# Not before it works: 2 more seconds of requests than the last time.
requests() { echo $(($(blk_metric requests_total xvda read) + $(blk_metric requests_total xvda write))); }
more_requests() { [ "$(requests)" -gt $((seen + 100)) ]; }
for round in 1 2; do
	seen=$(requests)
	need "round $round: I/O goes on" wait_for 60 more_requests
	worker=$(blk_worker)
	ok "round $round: kill -9 of the worker" kill -9 "$worker"
	another_worker() { [ "$(blk_worker)" != "$worker" ] && blk_json '.[0] | select(.state == "ready")'; }
	need "round $round: another one serves" wait_for 60 another_worker
done
seen=$(requests)
need "I/O goes on" wait_for 60 more_requests
: >"$XENPV_TEST_DIR/enough"
ok "fio saw neither an error nor a wrong byte" wait $load
ok "the daemon says that it was killed" blk_logged 'killed by signal 9'
ok "unmount" umount /mnt
ok "fsck finds nothing" fsck.ext4 -f -n $dev/xvda
ok "the store holds what the device has" same_bytes $dev/xvda "$target"
ok "detach" blk_gone
ok "SIGTERM ends the daemon" blk_stop
