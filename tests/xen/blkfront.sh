# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What the tests of xen-blkfrontd in Domain-0 use, besides lib.sh. A test that includes this leaves
# Domain-0 without daemon and disks, whatever happens.
#
#   blk_start ATTACH [OPTIONS]     the daemon; waits until it serves. blk_stop: ok if it ends with 0
#   blk_disk BACKEND PATH [MODE] [VDEV]   a disk, phy or qdisk, until it is usable
#   blk_gone [VDEV]                xl block-detach, and that nothing of it is left here
#   blk_json FILTER                what jq makes of /devices; fails if that is nothing
#   blk_metric NAME VDEV OP        a counter, summed over its queues
#   blk_worker                     the pid of the (only) worker
#   blk_logged REGEX               the daemon's log has such a line
#   qemu_start                     QEMU serves Domain-0's disks of type qdisk
#   fio_verify FILE [OPTIONS]      random mixed I/O at depth 32, every block verified
#   same_bytes PATH NODE           both hold the same

blk_log=$XENPV_TEST_DIR/blkfrontd.log
blk_socket=/run/xenpv/xen-blkfrontd.sock
blk_pid=''
# shellcheck disable=SC2034	# tests'
dev=/dev/xenpv

blk_serves() { curl -sf --max-time 10 --unix-socket $blk_socket http://x/devices >/dev/null; }

blk_start() {
	mkdir -p /run/xenpv
	"$XENPV_BUILD/src/blkfront/xen-blkfrontd" -v --attach "$@" >>"$blk_log" 2>&1 </dev/null &
	blk_pid=$!
	wait_for 30 blk_serves
}

blk_ended() { ! kill -0 "$blk_pid" 2>/dev/null; }
blk_stop() {
	kill -TERM "$blk_pid" && wait_for 30 blk_ended || return
	wait "$blk_pid" || return
	blk_pid=''
}

blk_disk() {	# backend, path, mode, vdev
	local vdev=${4:-xvda}
	disk_attach Domain-0 "$vdev" "$1" "$2" "${3:-w}" && wait_for 30 test -b "$dev/$vdev"
}

blk_is_gone() { [ ! -e "$dev/$1" ] && ! xenstore-exists "$(disk_front Domain-0 "$1")" 2>/dev/null; }
blk_gone() {
	disk_detach Domain-0 "${1:-xvda}" && wait_for 30 blk_is_gone "${1:-xvda}"
}

blk_json() { curl -sf --max-time 10 --unix-socket $blk_socket http://x/devices | jq -er "$1"; }
blk_worker() { blk_json '.[0].worker | select(. > 0)'; }
blk_metric() {
	curl -sf --max-time 10 --unix-socket $blk_socket http://x/metrics |
		awk -v name="xenpv_blkfront_$1" -v disk="\"$2\"" -v op="op=\"$3\"" \
			'index($1, name) == 1 && index($0, disk) && index($0, op) { n += $2 } END { print n + 0 }'
}
blk_logged() { grep -qE "$1" "$blk_log"; }

# A device whose frontend has died can only be detached once its state is Closed.
blk_cleanup() {
	local disk
	[ "$tap_failed" -eq 0 ] || { diag "the end of xen-blkfrontd's log:"; tail -n 20 "$blk_log" | indent_diag; }
	mountpoint -q /mnt && umount -l /mnt
	if [ -n "$blk_pid" ]; then
		kill -TERM "$blk_pid" 2>/dev/null
		wait_for 20 blk_ended || pkill -KILL -x xen-blkfrontd
		wait "$blk_pid" 2>/dev/null
	fi
	for disk in $(xenstore-list device/vbd 2>/dev/null); do
		xenstore-write "device/vbd/$disk/state" 6
		xl block-detach --force Domain-0 "$disk" >/dev/null 2>&1
	done
	[ -z "${qemu_pid-}" ] || qemu_stop
}
at_end blk_cleanup

# libxl looks for the device model's pid, and takes QEMU's word that it serves.
qemu_serves() { [ "$(xenstore-read device-model/0/state 2>/dev/null)" = running ]; }
qemu_start() {
	/usr/libexec/xen-qemu-system-i386 -xen-domid 0 -xen-attach -name dom0 -M xenpv -display none \
		-monitor none -serial none -parallel none -nodefaults -no-user-config \
		>>"$XENPV_TEST_DIR/qemu.log" 2>&1 </dev/null &
	qemu_pid=$!
	wait_for 60 qemu_serves && xenstore-write /local/domain/0/image/device-model-pid $qemu_pid
}
qemu_stop() {
	kill "$qemu_pid"
	wait "$qemu_pid" 2>/dev/null
	xenstore-rm /local/domain/0/image/device-model-pid
	xenstore-rm device-model/0/state 2>/dev/null
	qemu_pid=''
}

fio_verify() {	# file, options
	local out=$XENPV_TEST_DIR/fio.out
	# shellcheck disable=SC2086	# several
	fio $fio_verify_options --filename="$1" --ioengine=libaio --direct=1 --output="$out" "${@:2}" ||
		{ cat "$out"; return 1; }
}

same_bytes() {
	local one other
	sync "$1" "$2"
	one=$(disk_sum "$1") other=$(disk_sum "$2")
	[ -n "$one" ] && [ "$one" = "$other" ] || { echo "$1: $one $2: $other"; return 1; }
}
