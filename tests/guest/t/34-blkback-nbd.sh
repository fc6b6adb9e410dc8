# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A qcow2 image through qemu-nbd on a Unix socket: verified I/O, the server restarted meanwhile,
# which is a pause for the guest; the image is whole afterwards.
#
# matrix: pv/6.12

. "$XENPV_TESTS/guest/blkback.sh"
command -v qemu-nbd >/dev/null || skip "there is no qemu-nbd"
back_guest
need "there is a file system for images" back_images
image=$images/disk.qcow2
socket=/run/bench/nbd.sock
server_pid=/run/bench/qemu-nbd.pid

server_start() {
	qemu-nbd -t -e 16 --fork --pid-file=$server_pid -f qcow2 --cache=none --discard=unmap -k $socket $image
}
# By SIGTERM: what qemu-nbd has acknowledged and not written of qcow2's tables would be lost by a
# kill, and no client could know.
server_stop() {
	local pid
	pid=$(cat $server_pid) && kill -TERM "$pid" && wait_for 20 test ! -e "/proc/$pid"
}

ok "an image is made" qemu-img create -q -f qcow2 $image 64M
need "a server for it" server_start
ok "the daemon starts" back_start
ok "the guest's driver is loaded" front_load max_ring_page_order=1
need "the disk appears" back_attach "nbd+unix:///?socket=$socket"
is "$(guest_run $guest "blockdev --getsize64 /dev/xvda")" $((64 << 20)) "it has the right size"
guest_ok $guest "mkfs.ext4 and mount" "mkfs.ext4 -q -F /dev/xvda && mount /dev/xvda /mnt"
guest_ok $guest "random mixed I/O at depth 32 is right" "$(fio_verify /mnt/f --size=6M)" 120

guest_bg $guest fio "$(fio_verify /mnt/g --size=12M --time_based --runtime=12)"
for round in 1 2; do
	sleep 2
	ok "round $round: the server ends" server_stop
	guest_bg $guest write "dd if=/dev/zero of=/mnt/w bs=4k count=1 conv=fsync"
	not_ok "round $round: without it, a write waits" guest_run $guest "sleep 2; test -e /run/job/write.rc"
	ok "round $round: the server comes back" server_start
	ok "round $round: the write succeeds" guest_wait $guest write 60
done
ok "fio saw neither an error nor a wrong byte" guest_wait $guest fio 120
guest_ok $guest "unmount" "umount /mnt" 90
guest_ok $guest "fsck finds nothing" "fsck.ext4 -f -n /dev/xvda"
sum=$(guest_run $guest "dd if=/dev/xvda bs=1M iflag=direct 2>/dev/null | md5sum" 120)
ok "detach" back_detach
ok "the driver unloads" front_unload
ok "the daemon ends" back_stop
ok "the server ends" server_stop
ok "qemu-img finds the image whole" qemu-img check -q $image
qemu-img convert -f qcow2 -O raw $image $images/raw
is "$(md5sum <$images/raw)" "$sum" "it holds what the guest saw"
