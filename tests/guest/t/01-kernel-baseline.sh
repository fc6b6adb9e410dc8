# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# The kernel's own frontend and backends do what our tests will ask of ours.
# This proves the bench: a failure here is none of xenpv's.
#
# matrix: pv/6.12

need "a $TYPE guest starts" guest_need g1 "$TYPE" "$KERNEL" qemu=1
guest_ok g1 "the kernel's frontend loads" "modprobe xen-blkfront"
for backend in phy qdisk; do
	need "$backend: a disk is attached" disk_attach g1 xvda $backend /dev/ram0
	need "$backend: it appears" guest_until g1 15 "test -b /dev/xvda"
	is "$(disk_state g1 xvda)" 4/4 "$backend: both ends are connected"
	guest_ok g1 "$backend: a file system is made" "mkfs.ext4 -q -F /dev/xvda"
	guest_ok g1 "$backend: and mounted" "mount /dev/xvda /mnt"
	guest_ok g1 "$backend: fio's data is right" \
		"fio --name=v --filename=/mnt/f --size=4M --bs=16k --rw=randwrite --verify=crc32c --ioengine=libaio --iodepth=8 --direct=1" 90
	guest_ok g1 "$backend: it is unmounted" "umount /mnt"
	guest_ok g1 "$backend: and found clean" "fsck.ext4 -f -n /dev/xvda"
	ok "$backend: the disk is detached" disk_detach g1 xvda
	guest_ok g1 "$backend: it is gone" "sleep 0.2; ! test -e /dev/xvda"
done
guest_ok g1 "the kernel's frontend unloads" "rmmod xen-blkfront"
