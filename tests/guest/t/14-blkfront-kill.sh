# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# kill -9 of the worker, and of the whole supervisor with ublk, at random moments
# under verified I/O: a pause, no error, no lost byte.
#
# matrix: pv/6.12 pvh/next
# more: pv/next
# timeout: 900

. "$XENPV_TESTS/guest/blkfront.sh"
# PVH: with two CPUs and two queues; what does not depend on that is the PV guest's to show.
if [ "$TYPE" = pv ]; then vcpus=1 backends="phy ${XENPV_ALL:+qdisk}"; else vcpus=2 backends=phy; fi
blk_guest vcpus=$vcpus
for attach in $(blk_sturdy_attachments); do
	for backend in $backends; do
		it="$attach, $backend:"
		ok "$it the daemon starts" blk_start "$attach" --queues $vcpus
		need "$it a disk is there" blk_attach $backend /dev/ram0
		like "$(blk_log 'connected to')" "$vcpus queue" "$it a queue per CPU"
		guest_ok $guest "$it mounted" "mkfs.ext4 -q -F $dev/xvda 64M; modprobe ext4; mount $dev/xvda /mnt"
		guest_bg $guest fio "$(fio_verify /mnt/f --size=24M --time_based --runtime=25 --fsync=16 --numjobs=$vcpus --group_reporting)"
		kills=0
		for _ in $(seq 14); do
			sleep 0.$((RANDOM % 10))
			guest_run $guest "p=\$(cat /run/blkfrontd.pid); w=\$(pidof xen-blkfrontd | tr ' ' '\n' | grep -v \"^\$p\$\" | head -n 1)
				[ -n \"\$w\" ] && kill -9 \$w" && kills=$((kills + 1))
		done
		[ $kills -ge 8 ] || diag "only $kills of 14 rounds found a worker to kill"
		ok "$it the worker was killed again and again" test $kills -ge 8
		ok "$it fio ends well" guest_wait $guest fio 120
		guest_ok $guest "$it unmount" "umount /mnt" 90
		guest_ok $guest "$it fsck finds nothing" "fsck.ext4 -f -n $dev/xvda"
		ok "$it the image is what the guest sees" same_image /dev/ram0
		ok "$it detach" blk_detach
		ok "$it the daemon ends" blk_stop
	done
done

if [ "$TYPE/$(blk_sturdy_attachments)" = pv/ublk ]; then
	it="supervisor:"
	ok "$it the daemon starts" blk_start ublk
	need "$it a disk is there" blk_attach phy /dev/ram0
	guest_ok $guest "$it mounted" "mkfs.ext4 -q -F $dev/xvda 64M; mount $dev/xvda /mnt"
	guest_bg $guest fio "$(fio_verify /mnt/f --size=24M --time_based --runtime=25 --fsync=16)"
	for _ in $(seq 6); do
		sleep 2.$((RANDOM % 10))
		guest_run $guest "kill -9 \$(cat /run/blkfrontd.pid)" >/dev/null
	done
	ok "$it fio saw neither an error nor a wrong byte" guest_wait $guest fio 120
	is "$(blk_count 'ended with 137')" 6 "$it it was killed six times"
	guest_ok $guest "$it everything at once is killed too" "$(fio_verify /mnt/g --size=8M) & f=\$!
		sleep 1; kill -9 \$(pidof xen-blkfrontd); wait \$f" 90
	guest_ok $guest "$it unmount" "umount /mnt" 90
	guest_ok $guest "$it fsck finds nothing" "fsck.ext4 -f -n $dev/xvda"
	ok "$it the image is what the guest sees" same_image /dev/ram0
	ok "$it detach" blk_detach
	ok "$it the daemon ends" blk_stop
fi
