# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Read-only, 4096-byte sectors, discard, a new size while open.
#
# matrix: pv/6.12 pv/next
# timeout: 600

. "$XENPV_TESTS/guest/blkfront.sh"
blk_guest
image=/tmp/resize.img
queue="/sys/block/\$(basename \$(readlink -f $dev/xvda))/queue"

attachments=$(blk_attachments nbd)
# NBD is the same on all kernels.
[ "$KERNEL" != next ] || attachments=ublk

for attach in $attachments; do
	ok "$attach: the daemon starts" blk_start "$attach"

	need "$attach: a read-only disk" blk_attach phy /dev/ram0 r
	before=$(md5sum </dev/ram0)
	is "$(guest_run $guest "blockdev --getro $dev/xvda")" 1 "$attach: the host sees it read-only"
	guest_not_ok $guest "$attach: writing fails" "dd if=/dev/zero of=$dev/xvda bs=4k count=1 oflag=direct"
	is "$(dd if=/dev/ram0 bs=1M iflag=direct 2>/dev/null | md5sum)" "$before" "$attach: and the image is as before"
	guest_ok $guest "$attach: reading works" "dd if=$dev/xvda of=/dev/null bs=4k count=16 iflag=direct"
	ok "$attach: it detaches" blk_detach

	modprobe null_blk nr_devices=1 bs=4096 gb=1 memory_backed=1 discard=1 2>/dev/null ||
		modprobe null_blk nr_devices=1 bs=4096 gb=1
	need "$attach: a disk with 4096-byte sectors" blk_attach phy /dev/nullb0
	is "$(guest_run $guest "blockdev --getss $dev/xvda")" 4096 "$attach: the host sees them"
	is "$(guest_run $guest "blockdev --getsize64 $dev/xvda")" "$(blockdev --getsize64 /dev/nullb0)" \
		"$attach: and the right size"
	guest_ok $guest "$attach: data is right" "$(fio_verify $dev/xvda --size=6M)" 90
	ok "$attach: it detaches" blk_detach

	modprobe loop
	truncate -s 32M $image
	loop=$(losetup -f --show $image)
	need "$attach: a disk that can grow and discard" blk_attach phy "$loop"
	guest_ok $guest "$attach: discard is offered" "[ \$(cat $queue/discard_max_bytes) -gt 0 ]"
	dd if=/dev/urandom of="$loop" bs=1M count=8 oflag=direct 2>/dev/null
	guest_ok $guest "$attach: discard" "blkdiscard -o 1048576 -l 4194304 $dev/xvda"
	is "$(dd if="$loop" bs=1M skip=1 count=4 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" 0 \
		"$attach: what was discarded is gone from the image"
	ok "$attach: and not more" test "$(dd if="$loop" bs=1M count=1 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" -gt 1000000
	guest_bg $guest holder "exec 3<$dev/xvda; sleep 30"
	truncate -s 64M $image
	losetup -c "$loop"
	# The kernel's backend looks at its size when the next request comes.
	guest_run $guest "dd if=$dev/xvda of=/dev/null bs=4k count=1 iflag=direct" >/dev/null 2>&1
	if [ "$attach" = nbd ] || [ "$KERNEL" = next ]; then
		guest_ok $guest "$attach: the new size is seen without reopening" \
			"i=0; until [ \$(blockdev --getsize64 $dev/xvda) = 67108864 ]; do [ \$i -lt 50 ] || exit 1; sleep 0.2; i=\$((i+1)); done"
		guest_ok $guest "$attach: I/O in the new part" "dd if=/dev/zero of=$dev/xvda bs=64k seek=600 count=8 oflag=direct"
	else
		guest_until $guest 10 "grep -q 'cannot resize' $blk_log"
		ok "$attach: this kernel's ublk cannot grow a device, and the log says so" blk_log "new size .*cannot resize"
	fi
	guest_run $guest "pkill -f 'exec 3' ; kill \$(pidof sleep)" >/dev/null 2>&1
	ok "$attach: it detaches" blk_detach
	losetup -d "$loop"
	rm -f $image
	ok "$attach: the daemon ends" blk_stop
done
