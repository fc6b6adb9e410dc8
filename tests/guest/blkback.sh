# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What the tests of xen-blkbackd use, besides lib.sh. The daemon runs in dom0, and guests use its
# disks through their kernel's xen-blkfront, if not said otherwise. A test that includes this leaves
# dom0 without daemon and images, and its guests without disks and driver, whatever happens.
#
#   back_guest [OPTIONS]          the guest $guest, "g1"
#   back_start [OPTIONS]          the daemon; started again whenever it is killed
#   back_stop                     SIGTERM; ok when it ends with 0
#   back_pid, back_workers        the supervisor's pid, the workers'; back_kill_worker (kill -9)
#   back_idle                     true when there are no disks, workers, journals
#   back_log [REGEX], back_count REGEX     its log; whether, how often it has a line like that
#   back_json FILTER              what jq makes of /devices; fails if that is nothing
#   back_images                   an empty file system of its own for images: $images
#   back_attach TARGET [VDEV] [r|w] [EXTRA]   until it is usable in the guest
#   back_detach [VDEV]            and that it has gone from the guest
#   back_detach_all GUEST         by force, also what the guest has removed by itself
#   front_load [PARAMETERS]       the guest's xen-blkfront; front_unload
#   same_image PATH [VDEV]        the guest and dom0 see the same bytes

guest=g1
dev=/dev
images=/mnt/images
back_program=$XENPV_BUILD/src/blkback/xen-blkbackd
back_socket=/run/xenpv/xen-blkbackd.sock
back_logfile=/run/bench/blkbackd.log
back_pidfile=/run/bench/blkbackd.pid

back_pid() { cat $back_pidfile; }
back_workers() { cat "/proc/$(back_pid)/task/$(back_pid)/children"; }

# A loop stands for the service manager.
back_loop() {
	local rc
	while :; do
		"$back_program" -v "$@" 2>>$back_logfile &
		echo $! >$back_pidfile
		wait $!
		rc=$?
		echo "ended with $rc" >>$back_logfile
		[ $rc -ge 128 ] || return 0
	done
}

back_start() {
	rm -f $back_logfile
	back_loop "$@" </dev/null >/dev/null 2>&1 &
	wait_for 20 back_json .
}

back_ended() { [ "$(back_count '^ended with')" -gt "$1" ]; }

back_end() {
	local before
	before=$(back_count '^ended with')
	kill -TERM "$(back_pid)" && wait_for 20 back_ended "$before" && rm -f $back_pidfile
}

back_stop() { back_end && [ "$(grep '^ended with' $back_logfile | tail -n 1)" = "ended with 0" ]; }

back_has_worker() { [ -n "$(back_workers)" ]; }

back_kill_worker() {
	wait_for 20 back_has_worker || return
	# shellcheck disable=SC2046
	kill -9 $(back_workers)
}

# Every disk has gone, and all that was kept for it.
back_idle() { [ "$(back_json length)" = 0 ] && ! back_has_worker && [ -z "$(ls /run/xenpv/blkback)" ]; }

back_log() {
	if [ $# -eq 0 ]; then cat $back_logfile
	else grep -E -e "$1" $back_logfile; fi
}

back_count() { grep -cE -e "$1" $back_logfile; }

back_json() { curl -sf --max-time 5 --unix-socket $back_socket http://x/devices | jq -er "$1"; }

back_images() {
	mkdir -p $images
	mkfs.ext4 -q -F -m 0 /dev/ram3 && modprobe ext4 && mount /dev/ram3 $images
}

back_guest() { need "a $TYPE guest with Linux $KERNEL runs" guest_need $guest "$TYPE" "$KERNEL" "$@"; }

front_load() { guest_run $guest "modprobe ext4; modprobe xen-blkfront $*"; }
front_unload() { guest_run $guest "rmmod xen-blkfront"; }

back_attach() {	# target, vdev, mode, extra
	local vdev=${2:-xvda}
	disk_attach $guest "$vdev" xenpv "$1" "${3:-w}" "${4-}" || return
	guest_until $guest 20 "test -b $dev/$vdev"
}

back_detach() {
	disk_detach $guest "${1:-xvda}" || return
	guest_until $guest 15 "! test -e $dev/${1:-xvda}"
}

back_detach_all() {
	local vdev
	for vdev in $(xenstore-list "/libxl/$(guest_id "$1")/device/vbd" 2>/dev/null); do
		xl block-detach --force "$1" "$vdev" >/dev/null 2>&1
	done
}

same_image() { same_bytes $guest "$1" "$dev/${2:-xvda}"; }	# path, vdev

back_cleanup() {
	local g
	for g in $(guest_list); do
		[ -e "$state/$g/tty" ] || continue
		guest_run "$g" "umount /mnt 2>/dev/null" 40 >/dev/null 2>&1
		back_detach_all "$g"
		guest_run "$g" "i=0; until rmmod xen-blkfront 2>/dev/null || ! grep -q ^xen_blkfront /proc/modules ||
			[ \$i -ge 50 ]; do sleep 0.1; i=\$((i+1)); done" 40 >/dev/null 2>&1
	done
	if [ -e $back_pidfile ]; then
		back_end 2>/dev/null || kill -KILL "$(back_pid)" 2>/dev/null
		rm -f $back_pidfile
	fi
	umount /mnt/small /mnt/look $images 2>/dev/null
	cp $back_logfile "$XENPV_TEST_DIR/blkbackd.log" 2>/dev/null
	[ "$tap_failed" -eq 0 ] || {
		diag "the end of xen-blkbackd's log:"
		tail -n 40 $back_logfile 2>/dev/null | indent_diag
	}
}
at_end back_cleanup
