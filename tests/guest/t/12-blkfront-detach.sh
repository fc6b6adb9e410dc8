# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Detaching a disk in use is refused with a reason and happens when the use ends;
# by force it happens at once, and only that disk's I/O fails. Where a worker may be
# killed under load, it is dead when the toolstack asks.
#
# matrix: pv/6.12
# timeout: 600

. "$XENPV_TESTS/guest/blkfront.sh"
blk_guest
for attach in $(blk_attachments nbd); do
	ok "$attach: the daemon starts" blk_start "$attach"
	need "$attach: a disk is there" blk_attach phy /dev/ram0
	guest_ok $guest "$attach: mounted" "mkfs.ext4 -q -F $dev/xvda 16M; modprobe ext4; mount $dev/xvda /mnt"
	if [ "$attach" = "$(blk_sturdy_attachments)" ]; then
		need "$attach: there is a worker" wait_for 30 next_blk_worker
		guest_ok $guest "$attach: it is killed" "kill -STOP \$(cat /run/blkfrontd.pid); kill -9 $blk_victim"
	fi
	not_ok "$attach: detach is refused while it is mounted" disk_detach $guest xvda
	guest_run $guest "kill -CONT \$(cat /run/blkfrontd.pid)"
	ok "$attach: the log names the mount" guest_until $guest 10 "grep -q 'in use by the mount on /mnt' $blk_log"
	like "$(xenstore-read "/local/domain/$(guest_id $guest)/error/device/vbd/51712/error")" \
		"in use by" "$attach: the toolstack can read why"
	guest_ok $guest "$attach: I/O goes on meanwhile" "dd if=/dev/zero of=/mnt/x bs=64k count=16 oflag=direct"
	guest_ok $guest "$attach: unmounted" "umount /mnt"
	guest_ok $guest "$attach: then it goes by itself" \
		"i=0; while test -e $dev/xvda; do [ \$i -lt 50 ] || exit 1; sleep 0.2; i=\$((i+1)); done"
	xl block-detach $guest xvda >/dev/null 2>&1

	need "$attach: it can come back" blk_attach phy /dev/ram0
	guest_ok $guest "$attach: a loop device on it is mounted" \
		"modprobe loop; losetup /dev/loop0 $dev/xvda && mount /dev/loop0 /mnt"
	not_ok "$attach: detach is refused while a loop device is on it" disk_detach $guest xvda
	ok "$attach: the log names it" guest_until $guest 10 "grep -q 'in use by /dev/loop0' $blk_log"
	guest_ok $guest "$attach: which is taken off" "umount /mnt; losetup -d /dev/loop0"
	guest_ok $guest "$attach: then the disk goes" \
		"i=0; while test -e $dev/xvda; do [ \$i -lt 50 ] || exit 1; sleep 0.2; i=\$((i+1)); done"
	xl block-detach $guest xvda >/dev/null 2>&1

	need "$attach: it comes back once more" blk_attach phy /dev/ram0
	need "$attach: with a second one" blk_attach phy /dev/ram1 w xvdb
	guest_ok $guest "$attach: in use again" "mount $dev/xvda /mnt"
	ok "$attach: detach by force" xl block-detach --force $guest xvda
	guest_ok $guest "$attach: it is gone" \
		"i=0; while test -e $dev/xvda; do [ \$i -lt 50 ] || exit 1; sleep 0.2; i=\$((i+1)); done"
	guest_not_ok $guest "$attach: its I/O fails" "dd if=/mnt/x of=/dev/null bs=64k iflag=direct"
	guest_ok $guest "$attach: the other one's does not" "dd if=$dev/xvdb of=/dev/null bs=64k count=16 iflag=direct"
	guest_run $guest "umount -l /mnt" >/dev/null 2>&1
	ok "$attach: the other one detaches" blk_detach xvdb
	ok "$attach: the daemon ends" blk_stop
done
