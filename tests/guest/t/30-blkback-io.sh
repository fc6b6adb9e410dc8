# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Kernels' xen-blkfront uses a block device and an image file through xen-blkbackd: with one ring
# and several, small and large, with persistent grants and without.
#
# matrix: pv/6.1 pvh/6.12
# more: pv/6.12 pvh/next
# timeout: 400

. "$XENPV_TESTS/guest/blkback.sh"
queues=1 vcpus=()
case $TYPE/$KERNEL in
pv/6.12) pages=4 persistent=true
	front="max_ring_page_order=2 max_indirect_segments=64" ;;
pvh/6.12) pages=16 persistent=false queues=2 vcpus=(vcpus=2)
	front="max_queues=2 max_ring_page_order=4 feature_persistent=0" ;;
pv/6.1) pages=1 persistent=true front="" ;;
*) pages=1 persistent=false front="max_indirect_segments=256 feature_persistent=0" ;;
esac
back_guest "${vcpus[@]}"
need "there is a file system for images" back_images
truncate -s 64M $images/disk
ok "the daemon starts" back_start
ok "the guest's driver is loaded: ${front:-as it comes}" front_load $front

targets="/dev/ram0 $images/disk"
[ "$TYPE${XENPV_ALL-}" != pvh ] || targets=$images/disk # what PVH differs in is not the image
for target in $targets; do
	it="$target:"
	need "$it the disk appears" back_attach $target
	is "$(disk_state $guest xvda)" 4/4 "$it both ends are connected"
	is "$(guest_run $guest "blockdev --getsize64 /dev/xvda")" \
		"$(blockdev --getsize64 $target 2>/dev/null || stat -c %s $target)" "$it it has the right size"
	is "$(back_json '.[0] | "\(.queues) \(.ring_pages) \(.persistent)"')" \
		"$queues $pages $persistent" \
		"$it queues, ring pages, persistent grants as agreed"
	guest_ok $guest "$it mkfs.ext4" "mkfs.ext4 -q -F /dev/xvda 48M"
	guest_ok $guest "$it mount" "mount -o discard /dev/xvda /mnt"
	guest_ok $guest "$it random mixed I/O at depth 32 is right" \
		"truncate -s 12M /mnt/f; $(fio_verify /mnt/f --size=6M --numjobs=$queues --offset_increment=6M)" 120
	guest_ok $guest "$it many fsyncs" \
		"fio --name=s --filename=/mnt/s --size=384k --bs=4k --rw=write --fsync=1 --minimal >/dev/null" 90
	guest_ok $guest "$it unmount" "umount /mnt"
	guest_ok $guest "$it fsck finds nothing" "fsck.ext4 -f -n /dev/xvda"
	ok "$it the image is what the guest sees" same_image $target
	if [ -f $target ]; then
		guest_ok $guest "$it 8 MB are written at the end" \
			"dd if=/dev/urandom of=/dev/xvda bs=1M seek=56 count=8 oflag=direct"
		before=$(stat -c %b $target)
		guest_ok $guest "$it discard of 4 MB of them" "blkdiscard -o $((58 << 20)) -l $((4 << 20)) /dev/xvda"
		ok "$it they are a hole in the file" test $((before - $(stat -c %b $target))) -ge 8000
		is "$(dd if=$target bs=1M skip=58 count=4 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" 0 \
			"$it of zeros"
		ok "$it the image is still what the guest sees" same_image $target
	fi
	ok "$it detach" back_detach
done
ok "the guest's driver unloads" front_unload
ok "the daemon ends on SIGTERM with status 0" back_stop
