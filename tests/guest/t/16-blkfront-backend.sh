# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# I/O errors of the backend's disk come back for the requests that had them; several
# disks are independent; multi-page rings and several queues are used when asked for. A
# backend that stops, or is taken away and comes back, is waited for.
#
# matrix: pvh/6.12
# timeout: 900

. "$XENPV_TESTS/guest/blkfront.sh"
blk_guest vcpus=2
modprobe dm-mod
export DM_DISABLE_UDEV=1
for attach in $(blk_attachments ublk); do
	dmsetup remove bad 2>/dev/null
	# 8 MiB good, 1 MiB that fails, the rest good.
	dmsetup create bad <<-TABLE
	0 16384 linear /dev/ram0 0
	16384 2048 error
	18432 65536 linear /dev/ram0 18432
	TABLE
	ok "$attach: the daemon starts, with 2 queues of 4 pages" blk_start "$attach" --queues 2 --ring-page-order 2
	need "$attach: a disk with a bad spot" blk_attach phy /dev/mapper/bad
	# A disk of the kernel's NBD has one connection: see attach_nbd.c.
	rings="2 queues of 4 pages"
	[ "$attach" = ublk ] || rings="1 queue of 4 pages"
	like "$(blk_log 'connected to')" "$rings" "$attach: rings as asked for"
	guest_ok $guest "$attach: the good part works" "dd if=/dev/zero of=$dev/xvda bs=128k count=64 oflag=direct"
	like "$(guest_run $guest "dd if=$dev/xvda of=/dev/null bs=4k skip=2048 count=1 iflag=direct 2>&1")" \
		"Input/output error" "$attach: reading the bad spot fails with EIO"
	like "$(guest_run $guest "dd if=/dev/zero of=$dev/xvda bs=4k seek=2100 count=1 oflag=direct 2>&1")" \
		"Input/output error" "$attach: so does writing it"
	guest_ok $guest "$attach: what lies beyond works" "dd if=$dev/xvda of=/dev/null bs=128k skip=72 count=8 iflag=direct"
	guest_ok $guest "$attach: verified I/O from two CPUs" "$(fio_verify $dev/xvda --size=6M --numjobs=2 --offset_increment=16M --offset=10M)" 90
	need "$attach: a second disk from the other backend" blk_attach qdisk /dev/ram1 w xvdb
	guest_ok $guest "$attach: both at once" "($(fio_verify $dev/xvda --size=6M --offset=12M)) & other=\$!
($(fio_verify $dev/xvdb --size=6M)) && wait \$other" 120
	guest_ok $guest "$attach: figures can be read" \
		"curl -s --unix-socket /run/xenpv/xen-blkfrontd.sock http://x/metrics | grep -q 'blkfront_requests_total.*xvdb'"
	ok "$attach: the second goes" blk_detach xvdb

	# The kernel looks every 2 s now, not every 30, at what takes long.
	name=$(guest_run $guest "basename \$(readlink -f $dev/xvda)")
	guest_run $guest "echo 2000 >/sys/block/$name/queue/io_timeout; dmesg -c" >/dev/null
	dmsetup suspend --noflush bad
	guest_bg $guest late "dd if=/dev/zero of=$dev/xvda bs=64k count=16 oflag=direct"
	if [ "$attach" = nbd ]; then
		ok "$attach: a backend stops, and the kernel notices" \
			guest_until $guest 60 "dmesg | grep -qE 'stuck request|timed out'"
	else
		guest_until $guest 10 "[ \$(awk '{ print \$9 }' /sys/block/$name/stat) -gt 0 ]"
	fi
	dmsetup resume bad
	ok "$attach: a backend that stops for long is waited for" guest_wait $guest late 60
	is "$(guest_run $guest "dmesg | grep -E 'timed out|[Dd]ead conn'")" "" "$attach: its requests were not sent again"
	guest_run $guest "echo 30000 >/sys/block/$name/queue/io_timeout"

	blk_load $dev/xvda --size=4M
	vbd=vbd-$(guest_id $guest)-51712 driver=/sys/bus/xen-backend/drivers/vbd
	connected() { [ "$(blk_count 'connected to .*51712')" -gt "$before" ]; }
	for round in 1 2 3; do
		before=$(blk_count 'connected to .*51712')
		echo $vbd >$driver/unbind
		echo $vbd >$driver/bind
		ok "$attach: round $round: a backend that restarts is connected anew" wait_for 30 connected
	done
	ok "$attach: the load saw no error and no wrong byte" blk_load_end
	ok "$attach: the first goes" blk_detach
	dmsetup remove bad
	ok "$attach: the daemon ends" blk_stop
done
