# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# The part of bench/blk that compares frontends, in dom0: prints "sample" lines.

. "$XENPV_TESTS/guest/blkfront.sh"
. "$XENPV_SRC/bench/blk-measure.sh"
trap 'blk_cleanup >/dev/null 2>&1; guest_stop g1; end_measuring' EXIT
disk=/dev/ram0

memory_available() { guest_run $guest "sync; echo 3 >/proc/sys/vm/drop_caches; sleep 0.5; sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo"; }

kernel_run() {
	local before
	config=kernel
	before=$(memory_available)
	guest_run $guest "modprobe xen-blkfront" || return
	disk_attach $guest xvda phy $disk && guest_until $guest 15 "test -b /dev/xvda" || return
	measure /dev/xvda
	sample memory used $((before - $(memory_available))) KiB
	disk_detach $guest xvda
	guest_run $guest "rmmod xen-blkfront"
}

# How often the daemon's threads were woken in ten idle seconds.
idle_wakeups() {
	guest_run $guest "sleep 2
	n() { cat /proc/[0-9]*/task/*/status 2>/dev/null | awk '/^Name:/ { us = /xen-blkfrontd|xvda|queue-/ } us && /ctxt_switches/ { s += \$2 } END { print s + 0 }'; }
	a=\$(n); sleep 10; b=\$(n); echo \$(((b - a) / 10)).\$(((b - a) % 10))" 30
}

daemon_run() {
	local before
	config=$1
	before=$(memory_available)
	blk_start "$1" && blk_attach phy $disk || return
	sample idle wakeups "$(idle_wakeups)" wakeups/s
	measure $dev/xvda
	sample memory used $((before - $(memory_available))) KiB
	blk_detach
	blk_stop
}

guest_stop $guest
guest_start $guest "$TYPE" kernel="$KERNEL" mem=384 || exit 1
for run in $(seq "$RUNS"); do
	kernel_run
	for attachment in $ATTACH; do daemon_run "$attachment"; done
done
