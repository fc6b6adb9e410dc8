# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What the tests of xen-blkfrontd use, besides lib.sh. A test that includes this
# leaves its guest without daemon and disks, whatever happens.
#
#   blk_start ATTACH [OPTIONS]    the daemon in $guest; waits until it serves
#   blk_stop                      SIGTERM; ok when it ends with 0
#   blk_log [REGEX]               its log, or whether it has a line like that
#   blk_attach BACKEND PATH [MODE] [VDEV]   a disk from dom0, until it is usable
#   blk_detach [VDEV]             and that it has gone from the guest
#   blk_attachments [KIND]        what the guest's kernel can do: "ublk nbd"; KIND alone if that is
#                                 enough where not all is asked for (--all)
#   blk_sturdy_attachments        those whose kernel part stands a worker's death under load
#   blk_worker                    the pid of the (only) worker; fails if there is none
#   next_blk_worker               as blk_victim, once it is another one than that
#   same_image PATH [VDEV]        the guest and dom0 see the same bytes
#   blk_load FILE [OPTIONS]       verified I/O in the background, again and again, until
#   blk_load_end                  which is ok if none of it went wrong

guest=g1
blk_log=/run/blkfrontd.log
dev=/dev/xenpv

# The daemon has ended, by its log. Not by its processes: after a resume one of them stays
# for good, to keep dead event channels open (xpv_evtchn_abandon()).
blk_ended="i=0; until tail -n 1 $blk_log | grep -q '^ended with'; do
	[ \$i -lt 150 ] || exit 1; sleep 0.1; i=\$((i+1)); done"

blk_cleanup() {
	guest_run $guest "umount /mnt 2>/dev/null; [ -e /run/blkfrontd.pid ] || exit 0
		kill -TERM \$(cat /run/blkfrontd.pid) 2>/dev/null
		($blk_ended) || killall -q -9 xen-blkfrontd; rm -f /run/blkfrontd.pid" 40 >/dev/null 2>&1
	for vdev in $(blk_vdevs); do
		xl block-detach --force $guest "$vdev" >/dev/null 2>&1
	done
	guest_run $guest "cat $blk_log" >"$XENPV_TEST_DIR/blkfrontd.log" 2>/dev/null
	[ "$tap_failed" -eq 0 ] || {
		diag "the end of xen-blkfrontd's log:"
		tail -n 25 "$XENPV_TEST_DIR/blkfrontd.log" | indent_diag
	}
}
at_end blk_cleanup

blk_vdevs() {
	xenstore-list "/local/domain/$(guest_id $guest)/device/vbd" 2>/dev/null
}

blk_guest() { need "a $TYPE guest with Linux $KERNEL runs" guest_need $guest "$TYPE" "$KERNEL" qemu=1 "$@"; }

blk_attachments() {
	if [ -n "${ATTACH-}" ]; then echo "$ATTACH"; return; fi
	if [ $# -gt 0 ] && [ -z "${XENPV_ALL-}" ]; then echo "$1"; return; fi
	guest_run $guest 'test -c /dev/ublk-control && echo ublk; test -d /sys/module/nbd && echo nbd' |
		tr '\n' ' '
}

# See ublk_sound() in src/blkfront/attach_ublk.c.
blk_sturdy_attachments() {
	case $KERNEL in
	6.*) echo "${ATTACH:-nbd}" ;;
	*) echo "${ATTACH:-ublk}" ;;
	esac
}

# A loop stands for the service manager: the daemon is started again when killed.
blk_start() {	# attach, options
	guest_run $guest "rm -f $blk_log; cat >/run/blkfrontd.sh <<'END'
while :; do
	xen-blkfrontd -v --attach $1 ${*:2} 2>>$blk_log &
	echo \$! >/run/blkfrontd.pid
	wait \$!
	rc=\$?
	echo \"ended with \$rc\" >>$blk_log
	[ \$rc -ge 128 ] || exit \$rc
done
END
setsid sh /run/blkfrontd.sh </dev/null >/dev/null 2>&1 &
i=0; until grep -q . $blk_log 2>/dev/null || [ -S /run/xenpv/xen-blkfrontd.sock ]; do
	[ \$i -lt 100 ] || exit 1; sleep 0.1; i=\$((i+1)); done"
}

blk_stop() {
	guest_run $guest "kill -TERM \$(cat /run/blkfrontd.pid); $blk_ended; tail -n 1 $blk_log | grep -q '^ended with 0'"
}

blk_log() {
	if [ $# -eq 0 ]; then guest_run $guest "cat $blk_log"
	else guest_run $guest "grep -E '$1' $blk_log"; fi
}

blk_count() { guest_run $guest "grep -cE '$1' $blk_log"; }

blk_attach() {	# backend, path, mode, vdev, extra
	local vdev=${4:-xvda}
	disk_attach $guest "$vdev" "$1" "$2" "${3:-w}" "${5-}" || return
	guest_until $guest 20 "test -b $dev/$vdev"
}

blk_detach() {
	disk_detach $guest "${1:-xvda}" || return
	guest_until $guest 15 "! test -e $dev/${1:-xvda}"
}

# Not 0, which it is told to be between two: kill takes that for all of its caller's group.
blk_worker() {
	guest_run $guest "curl -s --max-time 5 --unix-socket /run/xenpv/xen-blkfrontd.sock http://x/devices" |
		jq -er '.[0].worker | select(. > 0)'
}

blk_victim=
next_blk_worker() {
	local now
	now=$(blk_worker) && [ "$now" != "$blk_victim" ] && blk_victim=$now
}

same_image() { same_bytes $guest "$1" "$dev/${2:-xvda}"; }	# path, vdev

blk_load() {
	guest_bg $guest load "rm -f /run/enough; until [ -e /run/enough ]; do
$(fio_verify "$@")
done"
}

blk_load_end() {
	guest_run $guest "touch /run/enough"
	guest_wait $guest load 180
}
