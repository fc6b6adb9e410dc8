# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# The part of bench/blk that compares backends, in dom0: prints "sample" lines. The frontend is the
# guest's kernel's.

. "$XENPV_TESTS/guest/blkback.sh"
. "$XENPV_SRC/bench/blk-measure.sh"
trap 'back_cleanup >/dev/null 2>&1; guest_stop g1; end_measuring' EXIT
disk=/dev/ram0
workloads+='
qd1.4k.randwrite --rw=randwrite --bs=4k --iodepth=1
qd32.4k.randwrite --rw=randwrite --bs=4k --iodepth=32'

memory_available() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
	sleep 0.5
	sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo
}

# blkbackd_poll2000: with --poll-us 2000.
daemon_for() {
	local options=()
	[[ $1 != blkbackd_poll* ]] || options=(--poll-us "${1#blkbackd_poll}")
	[ "$daemon_options" != "${options[*]}" ] || return 0
	daemon_options=${options[*]}
	back_end && back_start "${options[@]}"
}
daemon_options=

# QEMU and the daemon run all the time: memory is what one more disk costs, in dom0.
backend_run() {
	local before kind
	config=$1
	[[ $config != blkbackd* ]] || daemon_for "$config" || return
	case $config in
	kernel) kind=phy ;;
	blkbackd*) kind=xenpv ;;
	*) kind=$config ;;
	esac
	before=$(memory_available)
	disk_attach $guest xvda $kind $disk && guest_until $guest 15 "test -b /dev/xvda" || return
	measure /dev/xvda
	sample memory used $((before - $(memory_available))) KiB
	back_detach
}

guest_stop $guest
guest_start $guest "$TYPE" kernel="$KERNEL" mem=384 qemu=1 || exit 1
back_start && front_load || exit 1
for run in $(seq "$RUNS"); do
	for backend in $BACKENDS; do backend_run "$backend"; done
done
