# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What fsync has acknowledged in a guest is in the image, when backend and guest are killed in the
# middle of it.
#
# matrix: pv/6.12

. "$XENPV_TESTS/guest/blkback.sh"
need "there is a file system for images" back_images
ok "the daemon starts" back_start

for round in 1 2; do
	back_guest
	rm -f $images/disk
	truncate -s 32M $images/disk
	ok "round $round: the guest's driver is loaded" front_load
	need "round $round: a disk is there" back_attach $images/disk
	guest_ok $guest "round $round: mkfs.ext4 and mount" "mkfs.ext4 -q -F /dev/xvda && mount /dev/xvda /mnt"
	# Lines of eight digits; each is announced on the console, whose log dom0 keeps.
	guest_bg $guest log "n=0; while :; do
		printf '%07d\n' \$n | dd of=/mnt/log bs=8 seek=\$n conv=notrunc,fsync 2>/dev/null || exit 1
		echo \"fsync \$n is done\" >/dev/hvc0; n=\$((n+1)); done"
	acknowledged() { guest_log $guest | tr -d '\r' | sed -n 's/^fsync \([0-9]*\) is done$/\1/p' | tail -n 1; }
	enough() { [ "$(acknowledged)" -ge $((20 * round)) ]; }
	ok "round $round: there are acknowledged fsyncs" wait_for 60 enough
	back_kill_worker
	guest_stop $guest
	last=$(acknowledged)
	ok "round $round: the disk is gone" wait_for 20 back_idle
	mkdir -p /mnt/look
	modprobe loop
	ok "round $round: the image can be mounted in dom0" mount -o loop $images/disk /mnt/look
	seq -f %07.0f 0 "$last" >/run/bench/wanted
	head -n $((last + 1)) /mnt/look/log >/run/bench/found
	ok "round $round: all $((last + 1)) acknowledged lines are there" cmp /run/bench/wanted /run/bench/found
	umount /mnt/look
	is "$(fsck.ext4 -f -n $images/disk >/dev/null 2>&1; echo $?)" 0 "round $round: fsck finds nothing"
done
ok "the daemon ends" back_stop
