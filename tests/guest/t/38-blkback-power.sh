# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What fsync has acknowledged in a guest is in the image after a power cut: of the host, backend and
# guest together, in the middle of it. The image is sparse and its file system commits by itself
# every five minutes only, so without the backend's flush nothing would be left of it.
#
# matrix: pv/6.12
# power-cut: yes

. "$XENPV_TESTS/guest/blkback.sh"
acknowledged=$XENPV_TEST_DIR/acknowledged	# on the host
line=%04095.0f	# a block each, so that each is in a new place
mkdir -p $images
modprobe ext4

count_acknowledged() { grep -c . "$acknowledged"; }
enough() { [ "$(count_acknowledged)" -ge 20 ]; }

if [ "$PHASE" = before ]; then
	need "dom0's disk has a file system" mkfs.ext4 -q -F /dev/vda
	need "it is mounted" mount -o commit=300 /dev/vda $images
	truncate -s 64M $images/disk
	ok "the daemon starts" back_start
	back_guest
	ok "the guest's driver is loaded" front_load
	need "a disk is there" back_attach $images/disk
	guest_ok $guest "mkfs.ext4 and mount" "mkfs.ext4 -q -F /dev/xvda && mount /dev/xvda /mnt"
	guest_bg $guest log "n=0; while :; do
		printf '${line%.0f}d\n' \$n | dd of=/mnt/log bs=4096 seek=\$n conv=notrunc,fsync 2>/dev/null || exit 1
		echo \"fsync \$n is done\" >/dev/hvc0; n=\$((n+1)); done"
	tail -n +1 --pid=$$ -f "$xen_log/guest-$guest.log" 2>/dev/null </dev/null |
		sed -u -n 's/^fsync \([0-9]*\) is done\r*$/\1/p' >"$acknowledged" 2>/dev/null &
	need "fsyncs are acknowledged" wait_for 120 enough
	power_cut
fi

lines=$(count_acknowledged)
diag "$lines lines were acknowledged"
ok "dom0's disk can be mounted" mount /dev/vda $images
modprobe loop
mkdir -p /mnt/look
ok "so can the image" mount -o loop $images/disk /mnt/look
seq -f $line 0 $((lines - 1)) >/run/bench/wanted
head -n "$lines" /mnt/look/log >/run/bench/found
ok "all acknowledged lines are there" cmp /run/bench/wanted /run/bench/found
umount /mnt/look
is "$(fsck.ext4 -f -n $images/disk >/dev/null 2>&1; echo $?)" 0 "fsck finds nothing"
