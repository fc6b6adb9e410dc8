# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Disks come and go and nothing leaks; thirty at once; a new size; read-only disks, CD-ROMs and
# large sectors; what an image cannot do comes back to the request that asked, and to who attached.
#
# matrix: pv/6.12
# timeout: 600

. "$XENPV_TESTS/guest/blkback.sh"
# The hypervisor's list of grants, which we ask for.
allow_log 'gnttab_usage_print_all|grant-table for remote|grant table (entries|usage)'

back_guest
need "there is a file system for images" back_images
truncate -s 16M $images/disk
ok "the daemon starts" back_start
ok "the guest's driver is loaded" front_load

# --- nothing leaks ----------------------------------------------------------

# Entries in use of all grant tables.
grants() {
	xl debug-keys g
	xl dmesg | awk "/key 'g' pressed/ { n = 0 } /\\(XEN\\) *\\[ *(0x)?[0-9a-f]+\\]/ { n++ } END { print n + 0 }"
}

inventory() {
	echo "descriptors: $(find "/proc/$(back_pid)/fd" -type l | wc -l)"
	echo "maps: $(wc -l <"/proc/$(back_pid)/maps")"
	echo "workers: $(back_workers | wc -w)"
	echo "processes: $(pgrep -f -c "^$back_program")"
	echo "files: $(find /run/xenpv | wc -l)"
	echo "ports: $(lsevtchn 0 | wc -l)"
	echo "grants: $(grants)"
	echo "nodes: $(xenstore-ls -f /local/domain/0/backend/vbd 2>/dev/null | wc -l)"
}

again() {	# times
	local round
	for round in $(seq "$1"); do
		back_attach $images/disk || { echo "round $round: attach"; return 1; }
		guest_run $guest "dd if=/dev/xvda of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null" ||
			{ echo "round $round: I/O"; return 1; }
		back_detach || { echo "round $round: detach"; return 1; }
	done
}
no_more() { inventory >/run/bench/now && diff /run/bench/before /run/bench/now; }
ok "attach, read, detach" again 2
inventory >/run/bench/before
rounds=${XENPV_ALL:+20}
ok "${rounds:=4} times more" again $rounds
wait_for 10 no_more
ok "nothing leaked" no_more

# --- many at once -----------------------------------------------------------

ten_disks() {	# guest
	local n letter
	for n in 0 1 2 3 4 5 6 7 8 9; do
		letter=$(printf %s "abcdefghij" | cut -c$((n + 1)))
		head -c 1M /dev/urandom >"$images/$1-$letter"
		disk_attach "$1" "xvd$letter" xenpv "$images/$1-$letter" || return
	done
}
right_disks() {	# guest
	local letter sums
	sums=$(cd $images && md5sum "$1"-? | cut -d' ' -f1)
	guest_run "$1" "for d in a b c d e f g h i j; do
		i=0; until test -b /dev/xvd\$d || [ \$i -ge 100 ]; do sleep 0.1; i=\$((i+1)); done
		dd if=/dev/xvd\$d bs=1M iflag=direct 2>/dev/null | md5sum | cut -d' ' -f1; done" 90 >"/run/bench/sums-$1"
	diff /dev/stdin "/run/bench/sums-$1" <<<"$sums"
}
for g in g2 g3; do
	need "guest $g runs" guest_need $g "$TYPE" "$KERNEL"
	guest_run $g "modprobe xen-blkfront"
done
jobs=()
for g in g1 g2 g3; do ten_disks $g >"$XENPV_TEST_DIR/ten-$g.log" 2>&1 & jobs+=($!); done
bad=0
for job in "${jobs[@]}"; do wait "$job" || bad=$((bad + 1)); done
is $bad 0 "ten disks are attached to each of three guests at once"
for g in g1 g2 g3; do ok "$g reads its ten disks" right_disks $g; done
is "$(back_workers | wc -w)" 30 "each has a worker of its own"
for g in g2 g3; do guest_stop $g; done
back_detach_all g1
ok "two guests are destroyed, one loses its disks: no worker and no journal stays" wait_for 20 back_idle
guest_until $guest 20 "! ls /dev/xvd*"

# --- size, sectors, modes ---------------------------------------------------

need "a disk is there" back_attach $images/disk
guest_bg $guest holder "exec 3</dev/xvda; sleep 60"
truncate -s 24M $images/disk
kill -HUP "$(back_pid)"
ok "a new size is seen by the guest without reopening" guest_until $guest 15 \
	"[ \$(blockdev --getsize64 /dev/xvda) = $((24 << 20)) ]"
guest_ok $guest "I/O in the new part" "dd if=/dev/zero of=/dev/xvda bs=64k seek=300 count=8 oflag=direct"
guest_run $guest "kill \$(pidof sleep)" >/dev/null 2>&1
guest_wait $guest holder >/dev/null 2>&1
ok "it detaches" back_detach

before=$(md5sum <$images/disk)
need "a read-only disk" back_attach $images/disk xvda r
is "$(guest_run $guest "blockdev --getro /dev/xvda")" 1 "the guest sees it read-only"
guest_not_ok $guest "writing fails" "dd if=/dev/zero of=/dev/xvda bs=4k count=1 oflag=direct"
ok "the same image once more, read-only" back_attach $images/disk xvdb r
ok "the guest reads it" same_image $images/disk xvdb
ok "they detach" back_detach xvdb
ok "both" back_detach
need "a CD-ROM" back_attach $images/disk xvdc r devtype=cdrom
guest_not_ok $guest "it cannot be written" "dd if=/dev/zero of=/dev/xvdc bs=4k count=1 oflag=direct"
ok "the guest reads it" same_image $images/disk xvdc
back_detach_all $guest
is "$(md5sum <$images/disk)" "$before" "the image has not changed"
guest_until $guest 15 "! test -e /dev/xvdc"

modprobe null_blk nr_devices=1 bs=4096 gb=1 memory_backed=1
need "a disk with 4096-byte sectors" back_attach /dev/nullb0
is "$(guest_run $guest "blockdev --getss /dev/xvda")" 4096 "the guest sees them"
guest_ok $guest "data is right" "$(fio_verify /dev/xvda --size=6M)" 90
ok "it detaches" back_detach
wait_for 10 rmmod null_blk

# --- what an image cannot do ------------------------------------------------

modprobe dm-mod
export DM_DISABLE_UDEV=1
dmsetup remove bad 2>/dev/null
# 8 MiB good, 1 MiB that fails, the rest good.
dmsetup create bad <<-TABLE
0 16384 linear /dev/ram0 0
16384 2048 error
18432 65536 linear /dev/ram0 18432
TABLE
need "a disk with a bad spot" back_attach /dev/mapper/bad
guest_ok $guest "the good part works" "dd if=/dev/zero of=/dev/xvda bs=128k count=64 oflag=direct"
guest_not_ok $guest "reading the bad spot fails" "dd if=/dev/xvda of=/dev/null bs=4k skip=2048 count=1 iflag=direct"
guest_not_ok $guest "writing it fails" "dd if=/dev/zero of=/dev/xvda bs=4k seek=2100 count=1 oflag=direct"
guest_ok $guest "what lies beyond works" "dd if=/dev/xvda of=/dev/null bs=128k skip=72 count=8 iflag=direct"
ok "it detaches" back_detach
wait_for 10 dmsetup remove bad

mkdir -p /mnt/small
mkfs.ext4 -q -F -m 0 /dev/ram2 8M
mount /dev/ram2 /mnt/small
truncate -s 16M /mnt/small/disk
head -c 3M /dev/zero >/mnt/small/filler
sync
need "a disk larger than the room for it" back_attach /mnt/small/disk
guest_not_ok $guest "it cannot be filled" "dd if=/dev/urandom of=/dev/xvda bs=64k count=256 oflag=direct"
guest_ok $guest "what was written can be read" "dd if=/dev/xvda of=/dev/null bs=64k count=16 iflag=direct"
rm /mnt/small/filler
sync
guest_ok $guest "with more room, more can be written" \
	"dd if=/dev/urandom of=/dev/xvda bs=64k seek=128 count=8 oflag=direct"
ok "it detaches" back_detach
wait_for 10 umount /mnt/small

refused() {	# regex, target, mode: xl says so
	local out
	out=$(disk_attach $guest xvdb xenpv "$2" "$3" 2>&1) && { echo "attached"; return 1; }
	xl block-detach --force $guest xvdb >/dev/null 2>&1
	grep -E "$1" <<<"$out" || { echo "$out"; return 1; }
}

need "a disk is there" back_attach $images/disk
ok "a second writer is refused, and xl says why" refused "$images/disk: in use" $images/disk w
ok "the log says why" back_log "$images/disk: in use"
ok "so is a reader beside a writer" refused "$images/disk: in use" $images/disk r
ok "a missing image is refused" refused "$images/none: there is no such file" $images/none w
ok "the log says why" back_log "$images/none: there is no such file"
ok "a folder is refused" refused "$images: this is a directory" $images w
ok "the log says why" back_log "$images: this is a directory"
guest_ok $guest "the first disk works on" "dd if=/dev/zero of=/dev/xvda bs=64k count=16 oflag=direct"
ok "it detaches" back_detach
ok "the driver unloads" front_unload
is "$(back_count '^ended with')" 0 "the daemon was never restarted"
ok "the daemon ends" back_stop
ok "without it, the script says what to do" refused "xen-blkbackd does not serve this disk.*systemctl start" $images/disk w
