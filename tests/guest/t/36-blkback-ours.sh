# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Both ends are ours: xen-blkfrontd in the guest, xen-blkbackd in dom0. Either is killed under load.
#
# matrix: pvh/next
# more: pv/6.12
# timeout: 300

. "$XENPV_TESTS/guest/blkback.sh"
. "$XENPV_TESTS/guest/blkfront.sh" # its names, and its cleaning before the other's
need "a $TYPE guest with Linux $KERNEL runs" guest_need $guest "$TYPE" "$KERNEL"
need "there is a file system for images" back_images
truncate -s 64M $images/disk
ok "xen-blkbackd starts" back_start
ok "xen-blkfrontd starts" blk_start "$(blk_sturdy_attachments)" --ring-page-order 2
need "the disk appears" blk_attach xenpv $images/disk
is "$(disk_state $guest xvda)" 4/4 "both ends are connected"
is "$(back_json '.[0] | "\(.ring_pages) \(.persistent)"')" "4 true" "ring pages and persistent grants as agreed"
guest_ok $guest "mkfs.ext4 and mount" "mkfs.ext4 -q -F $dev/xvda && modprobe ext4 && mount -o discard $dev/xvda /mnt"
guest_bg $guest fio "$(fio_verify /mnt/f --size=12M --time_based --runtime=15 --fsync=16)"
for round in 1 2 3; do
	sleep 1.$((RANDOM % 10))
	ok "round $round: the backend's worker is killed" back_kill_worker
	sleep 1.$((RANDOM % 10))
	need "round $round: the frontend has a new worker" wait_for 30 next_blk_worker
	ok "round $round: which is killed" guest_run $guest "kill -9 $blk_victim"
done
ok "fio saw neither an error nor a wrong byte" guest_wait $guest fio 120
guest_ok $guest "discard" "rm /mnt/f; sync; fstrim /mnt"
guest_ok $guest "unmount" "umount /mnt" 90
guest_ok $guest "fsck finds nothing" "fsck.ext4 -f -n $dev/xvda"
ok "the image is what the guest sees" same_image $images/disk
ok "detach" blk_detach
ok "xen-blkfrontd ends" blk_stop
ok "xen-blkbackd ends" back_stop
