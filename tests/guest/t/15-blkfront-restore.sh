# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# xl save and xl restore of a guest with a disk whose file system is under verified
# load, and another one.
#
# matrix: pv/next
# more: pv/6.12
# timeout: 900

. "$XENPV_TESTS/guest/blkfront.sh"
for attach in $(blk_sturdy_attachments); do
	blk_guest
	ok "$attach: the daemon starts" blk_start "$attach"
	need "$attach: a disk is there" blk_attach phy /dev/ram0
	need "$attach: and another" blk_attach phy /dev/ram1 w xvdb
	guest_ok $guest "$attach: the first is mounted" \
		"mkfs.ext4 -q -F $dev/xvda 64M; modprobe ext4; mount -o commit=300 $dev/xvda /mnt; dd if=/dev/urandom of=/mnt/file bs=64k count=64 2>/dev/null; dd if=/dev/zero of=/mnt/load bs=64k count=384 2>/dev/null; sync; md5sum /mnt/file >/run/sum"
	# In blocks that have been written before, and with a journal that is seldom written:
	# see below.
	blk_load /mnt/load --size=24M --overwrite=1
	guest_until $guest 60 "[ \$(awk '{ print \$3 }' /sys/block/\$(basename \$(readlink -f $dev/xvda))/stat) -gt 8000 ]"
	# A kernel thread that waits for I/O just when all programs are frozen keeps Linux
	# from suspending (docs/lifecycle.md): then the guest goes on, and xl tries again.
	saved=
	for try in 1 2 3; do
		guest_save $guest /tmp/guest.save >/dev/null 2>&1 && { saved=1; break; }
		diag "attempt $try: the guest's kernel could not freeze"
		allow_log 'Call Trace|Freezing|refusing to freeze'
	done
	need "$attach: the guest is saved" test -n "$saved"
	need "$attach: and restored" guest_restore $guest /tmp/guest.save
	rm -f /tmp/guest.save
	ok "$attach: the load went on without an error or a wrong byte" blk_load_end
	is "$(disk_state $guest xvda)" 4/4 "$attach: the first disk is connected"
	is "$(disk_state $guest xvdb)" 4/4 "$attach: the second disk is connected"
	guest_ok $guest "$attach: and works" "dd if=$dev/xvdb of=/dev/null bs=64k count=16 iflag=direct"
	guest_ok $guest "$attach: the mounted file is whole" "echo 3 >/proc/sys/vm/drop_caches; md5sum -c /run/sum"
	guest_ok $guest "$attach: unmount" "umount /mnt" 60
	guest_ok $guest "$attach: fsck finds nothing" "fsck.ext4 -f -n $dev/xvda"
	ok "$attach: the image is what the guest sees" same_image /dev/ram0
	ok "$attach: detach" blk_detach
	ok "$attach: the other one too" blk_detach xvdb
	ok "$attach: the daemon ends" blk_stop
done
