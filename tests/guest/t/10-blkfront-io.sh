# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A guest without a block driver of its own uses a disk through xen-blkfrontd:
# each way to attach it, each backend that is not ours.
#
# matrix: pv/6.12 pvh/6.12 pv/6.1
# timeout: 900

. "$XENPV_TESTS/guest/blkfront.sh"
blk_guest
# All pairs of attachment and backend in one kind of guest, each of both in the others.
backends() {	# attachment
	case $TYPE/$KERNEL${XENPV_ALL:+/all}/$1 in
	*/all/*|pv/6.12/*) echo phy qdisk ;;
	*/ublk) echo qdisk ;;
	*) echo phy ;;
	esac
}
guest_ok $guest "the kernel has no frontend driver loaded" "! grep -q xen_blkfront /proc/modules"

# A loop device is a disk with a cache: each fsync is a flush, and the disk counts them.
modprobe loop
truncate -s 16M /tmp/flush.img
loop=$(losetup -f --show /tmp/flush.img)
flushes_of_disk() { awk '{ print $16 }' "/sys/block/${loop#/dev/}/stat"; }
flushes_of_daemon() {
	guest_run $guest "curl -s --unix-socket /run/xenpv/xen-blkfrontd.sock http://x/metrics" |
		sed -n 's/^xenpv_blkfront_requests_total.*"xvdb".*op="flush".* //p' | awk '{ n += $1 } END { print n + 0 }'
}

for attach in $(blk_attachments); do
	ok "$attach: the daemon starts" blk_start "$attach"
	for backend in $(backends "$attach"); do
		it="$attach, $backend:"
		need "$it the disk becomes a block device" blk_attach $backend /dev/ram0
		is "$(disk_state $guest xvda)" 4/4 "$it both ends are connected"
		# The next backend may have a cache, even if this one has none.
		is "$(guest_run $guest "cat /sys/block/\$(basename \$(readlink -f $dev/xvda))/queue/write_cache")" \
			"write back" "$it the host sends flushes"
		# Blocks as large as the RAM disk's pages: of a page that is discarded in part dom0's page cache,
		# which is what QEMU reads, has another view than the disk.
		guest_ok $guest "$it mkfs.ext4" "mkfs.ext4 -q -F -b 4096 $dev/xvda 48M"
		guest_ok $guest "$it mount" "modprobe ext4; mount -o discard $dev/xvda /mnt"
		guest_ok $guest "$it random mixed I/O at depth 32 is right" \
			"$(fio_verify /mnt/f --size=6M)" 120
		guest_ok $guest "$it many fsyncs" \
			"fio --name=s --filename=/mnt/s --size=384k --bs=4k --rw=write --fsync=1 --minimal >/dev/null" 90
		# The RAM disk of an older dom0 has no discard to offer.
		if [ "$(xenstore-read "$(disk_back $guest xvda)/feature-discard" 2>/dev/null)" = 1 ]; then
			guest_ok $guest "$it discard" "rm /mnt/f; sync; fstrim /mnt"
		fi
		guest_ok $guest "$it unmount" "umount /mnt"
		guest_ok $guest "$it fsck finds nothing" "fsck.ext4 -f -n $dev/xvda"
		ok "$it the backend's image is what the guest sees" same_image /dev/ram0
		ok "$it detach" blk_detach
	done

	need "$attach: a disk with a cache" blk_attach phy "$loop" w xvdb
	flushed=$(flushes_of_disk) before=$(flushes_of_daemon)
	guest_ok $guest "$attach: 64 fsyncs" \
		"fio --name=s --filename=$dev/xvdb --size=256k --bs=4k --rw=write --fsync=1 --minimal >/dev/null" 90
	sent=$(($(flushes_of_daemon) - before))
	ok "$attach: each is a flush, but perhaps the last" test $sent -ge 63
	is $(($(flushes_of_disk) - flushed)) $sent "$attach: and none is lost on its way to the disk"
	ok "$attach: it detaches" blk_detach xvdb
	ok "$attach: the daemon ends on SIGTERM with status 0" blk_stop
done
losetup -d "$loop"
rm -f /tmp/flush.img
