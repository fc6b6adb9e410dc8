# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# The main job: a vbd becomes a block device, without a driver in the kernel, from each backend that
# is not ours, by each way to attach it.
#
# matrix: nbd/phy nbd/qdisk ublk/phy ublk/qdisk

attach=$TYPE backend=$KERNEL
. "$XENPV_TESTS/xen/blkfront.sh"
# The backing store is a disk with a cache, in which each flush is counted.
truncate -s 48M /tmp/store.img
store=$(losetup -f --show /tmp/store.img)
at_end "losetup -d $store; rm -f /tmp/store.img /tmp/file"
case $backend in phy) target=$store ;; qdisk) target=/tmp/store.img ;; esac
flushes_of_disk() { awk '{ print $16 }' "/sys/block/${store#/dev/}/stat"; }

[ "$backend" != qdisk ] || need "QEMU serves disks" qemu_start
need "the daemon starts" blk_start "$attach"
holds() { echo "$(ls "/proc/$blk_pid/fd" | wc -l) descriptors, $(lsevtchn 0 | wc -l) ports, $(gntalloc_used) pages"; }
no_worker() { ! pgrep -P "$blk_pid" >/dev/null; } # it ends after its disk
# What the first disk leaves in the daemon, a handle that all use, no other adds to.
if [ "$backend" = phy ]; then
	need "a disk comes" blk_disk "$backend" "$target"
	need "and goes" eval 'blk_gone && wait_for 30 no_worker'
	held=$(holds)
fi
need "the disk becomes a block device" blk_disk "$backend" "$target"
is "$(disk_state Domain-0 xvda)" 4/4 "both ends are connected"
like "$(readlink $dev/xvda)" "^/dev/($attach|${attach}b)[0-9]+$" "by its name it is a device of $attach"
ok "the kernel has no frontend" test ! -e /sys/bus/xen/drivers/vbd
# Before there is a filesystem, which has flushes of its own when it likes.
if [ "$backend" = phy ]; then
	flushed=$(flushes_of_disk) before=$(blk_metric requests_total xvda flush)
	ok "24 fsyncs" fio --name=s --filename=$dev/xvda --size=96k --bs=4k --rw=write --direct=1 \
		--fsync=1 --minimal --output=/dev/null
	sent=$(($(blk_metric requests_total xvda flush) - before))
	ok "each is a flush, but perhaps the last" test $sent -ge 23
	is $(($(flushes_of_disk) - flushed)) $sent "and none is lost on its way to the store"
fi
ok "mkfs.ext4" mkfs.ext4 -q -F $dev/xvda
ok "mount" mount $dev/xvda /mnt
ok "random mixed I/O at depth 32 is right" fio_verify /mnt/f --size=6M
ok "a file is written" eval 'head -c 1M /dev/urandom >/tmp/file && dd if=/tmp/file of=/mnt/file bs=64k conv=fsync'
ok "unmount" umount /mnt
ok "fsck finds nothing" fsck.ext4 -f -n $dev/xvda
ok "the store holds what the device has" same_bytes $dev/xvda "$target"
ok "detach" blk_gone
ok "its worker ends" wait_for 30 no_worker
[ "$backend" != phy ] || is "$(holds)" "$held" "the daemon holds not a descriptor, port or page more than before"
ok "SIGTERM ends the daemon" blk_stop
# Not through any of ours: from the store itself.
[ "$backend" = phy ] || losetup -c "$store"
ok "the store can be mounted" mount -o ro "$store" /mnt
ok "and has the file" cmp /mnt/file /tmp/file
ok "it can be unmounted" umount /mnt
