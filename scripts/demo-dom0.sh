# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# The part of scripts/demo that runs in dom0.

disk=/dev/ram0
node=/dev/xenpv/xvda

say() { printf '\n\033[1m--> %s\033[0m\n' "$*"; }
die() {
	printf 'demo: %s\n' "$*" >&2
	guest_run demo "cat /run/blkfrontd.log" 2>/dev/null | tail -n 20 | sed 's/^/demo: xen-blkfrontd.log: /' >&2
	guest_log demo 2>/dev/null | tail -n 20 | sed "s/^/demo: the guest's console: /" >&2
	exit 1
}

# in_guest COMMAND...: shows a command and what it prints, as if typed there.
in_guest() {
	printf 'demo# %s\n' "$1"
	guest_run demo "$1" "${2:-60}" || die "that failed in the guest"
}

rate() {	# label, fio options
	local out
	out=$(guest_run demo "fio --name=b --filename=/mnt/fio --size=32M --ioengine=libaio --direct=1 --time_based --runtime=4 --minimal $2" 60) ||
		die "fio failed: $out"
	awk -F';' -v label="$1" '/^3;/ { printf "  %-32s %8.0f IOPS  %7.1f MB/s\n", label, $8 + $49, ($7 + $48) / 1024 }' <<<"$out"
}

say "Xen $(xl info | awk '/^xen_version/ { print $3 }') runs; dom0 is Linux $(uname -r)"
guest_start demo pv kernel=next || die "the guest did not start"
say "A PV guest runs: Linux $(guest_run demo 'uname -r')"
in_guest "grep -c xen_blkfront /proc/modules || true; ls /dev/xvd* 2>&1 || true"
say "dom0 gives it a disk: xl block-attach demo $disk (backend: the kernel's xen-blkback)"
disk_attach demo xvda phy "$disk" || die "xl block-attach failed"
in_guest "xenstore-ls device/vbd/51712; ls /dev/xvd* 2>&1 || true"
say "xen-blkfrontd makes it a block device ($ATTACH)"
guest_run demo "setsid xen-blkfrontd -v --attach $ATTACH </dev/null >/run/blkfrontd.log 2>&1 &"
guest_until demo 20 "test -b $node" || die "no $node"
in_guest "cat /run/blkfrontd.log; ls -l $node; lsblk $node"
say "A file system, a file, and back"
in_guest "mkfs.ext4 -q $node && modprobe ext4 && mount $node /mnt && df -h /mnt"
in_guest "dd if=/dev/urandom of=/mnt/file bs=1M count=16 2>/dev/null && md5sum /mnt/file && sync && echo 3 >/proc/sys/vm/drop_caches && md5sum /mnt/file"
say "kill -9 of the worker that serves the disk, while it is read and written"
in_guest "fio --name=v --filename=/mnt/v --size=8M --ioengine=libaio --direct=1 --rw=randrw --bs=16k --iodepth=16 --verify=crc32c --minimal >/dev/null & f=\$!
sleep 1; w=\$(curl -s --unix-socket /run/xenpv/xen-blkfrontd.sock http://x/devices | sed -n 's/.*\"worker\": \([0-9]*\).*/\1/p'); echo killing worker \$w; kill -9 \$w; wait \$f && echo fio: every byte verified, no error" 90
in_guest "tail -n 4 /run/blkfrontd.log"
say "Throughput in this emulator (see bench/blk for the kernel's driver beside it)"
rate "4 KiB random read, depth 1" "--rw=randread --bs=4k --iodepth=1"
rate "4 KiB random read, depth 32" "--rw=randread --bs=4k --iodepth=32"
rate "128 KiB sequential read, depth 8" "--rw=read --bs=128k --iodepth=8"
rate "128 KiB sequential write, depth 8" "--rw=write --bs=128k --iodepth=8"
say "Unmount and check"
in_guest "umount /mnt && fsck.ext4 -f -n $node"
here=$(dd if=$disk bs=1M iflag=direct 2>/dev/null | md5sum)
there=$(guest_run demo "dd if=$node bs=1M iflag=direct 2>/dev/null | md5sum" 120)
[ "$here" = "$there" ] || die "the guest and dom0 see different bytes"
say "A second disk, from xen-blkbackd in dom0: both ends are ours, and a process each"
mkdir -p /run/xenpv
"$XENPV_BUILD/src/blkback/xen-blkbackd" -v >/run/bench/blkbackd.log 2>&1 </dev/null &
blkbackd=$!
truncate -s 64M /tmp/demo.img
disk_attach demo xvdb xenpv /tmp/demo.img || die "xl block-attach failed: $(tail -n 5 /run/bench/blkbackd.log)"
guest_until demo 20 "test -b /dev/xenpv/xvdb" || die "no /dev/xenpv/xvdb"
sed 's/^/dom0# /' /run/bench/blkbackd.log
in_guest "mkfs.ext4 -q /dev/xenpv/xvdb && mount /dev/xenpv/xvdb /mnt && dd if=/dev/urandom of=/mnt/file bs=1M count=8 2>/dev/null && sync && umount /mnt && fsck.ext4 -f -n /dev/xenpv/xvdb"
xl block-detach demo xvdb || die "xl block-detach failed"
kill "$blkbackd"
wait "$blkbackd"
say "xl shutdown, with a hook of the guest's own; for the demo the action is only to say so"
guest_run demo "mkdir -p /run/control.d; printf '#!/bin/sh\necho hook: \"\$*\"\n' >/run/control.d/10-tell; chmod 755 /run/control.d/10-tell
setsid xen-controld -v --hooks /run/control.d --poweroff 'echo the guest would power off now' </dev/null >/run/controld.log 2>&1 &"
guest_until demo 20 "test -S /run/xenpv/xen-controld.door" || die "xen-controld did not start"
xl shutdown demo || die "xl shutdown failed"
guest_until demo 20 "grep -q 'after poweroff' /run/controld.log" || die "no request came"
in_guest "cat /run/controld.log"
guest_run demo "killall xen-controld"
say "xl mem-set: xen-balloond gives the guest's memory to the host, and gets it back"
host_free() { xl info | awk '$1 == "free_memory" { print $3 " MiB free on the host" }'; }
size=/sys/devices/system/xen_memory/xen_memory0/info/current_kb
guest_run demo "setsid xen-balloond -v --policy manual </dev/null >/run/balloond.log 2>&1 &"
guest_until demo 20 "test -S /run/xenpv/xen-balloond.sock" || die "xen-balloond did not start"
host_free
xl mem-set demo 190 || die "xl mem-set failed"
guest_until demo 30 "[ \$(cat $size) -le 195000 ]" || die "the guest does not shrink: $(guest_run demo 'cat /run/balloond.log')"
host_free
xl mem-set demo 256 || die "xl mem-set failed"
guest_until demo 30 "[ \$(cat $size) -ge 261000 ]" || die "the guest does not grow: $(guest_run demo 'cat /run/balloond.log')"
in_guest "cat /run/balloond.log"
guest_run demo "killall xen-balloond"
say "Done: dom0's image and the guest's disk have the same checksum, ${here%% *}"
