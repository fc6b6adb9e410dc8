# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What is missing is said in a way that helps, with an exit status of sysexits(3).
#
# matrix: pv/6.12
# timeout: 600

. "$XENPV_TESTS/guest/blkfront.sh"
blk_guest

# says NAME STATUS REGEX COMMAND...: the daemon, run by hand, ends so and says so.
says() {
	local out rc
	out=$(guest_run $guest "timeout 15 $4 2>&1")
	rc=$?
	is $rc "$2" "$1: exit status"
	like "$out" "$3" "$1: message"
}

says "no event channels" 69 "/dev/xen/evtchn.*modprobe xen-evtchn" \
	"sh -c 'mv /dev/xen/evtchn /dev/xen/evtchn.off; xen-blkfrontd --attach nbd; rc=\$?; mv /dev/xen/evtchn.off /dev/xen/evtchn; exit \$rc'"
says "no granting" 69 "/dev/xen/gntalloc.*modprobe xen-gntalloc" \
	"sh -c 'mv /dev/xen/gntalloc /dev/xen/gntalloc.off; xen-blkfrontd --attach nbd; rc=\$?; mv /dev/xen/gntalloc.off /dev/xen/gntalloc; exit \$rc'"
says "no xenstore" 69 "/dev/xen/xenbus" \
	"sh -c 'mv /dev/xen/xenbus /dev/xen/xenbus.off; umount /proc/xen 2>/dev/null; xen-blkfrontd --attach nbd; rc=\$?; mv /dev/xen/xenbus.off /dev/xen/xenbus; exit \$rc'"
says "no permission" 69 "ermission|ot permitted|root" "start-stop-daemon -S -c nobody -x /usr/sbin/xen-blkfrontd -- --attach nbd --rundir /tmp/run-nobody --devdir /tmp/dev-nobody"
says "no ublk" 69 "ublk.*modprobe ublk_drv|modprobe ublk_drv" "sh -c 'rmmod ublk_drv; mv /lib/modules /lib/modules.off; xen-blkfrontd --attach ublk; rc=\$?; mv /lib/modules.off /lib/modules; modprobe ublk_drv; exit \$rc'"
says "ggate" 69 "ggate is FreeBSD" "xen-blkfrontd --attach ggate"
says "an unknown option" 64 "frobnicate" "xen-blkfrontd --frobnicate"
says "a bad value" 64 "depth" "xen-blkfrontd --depth 0"
says "a bad configuration" 78 "blkfront.conf.*:2.*" "sh -c 'printf \"depth = 64\nspeed = 11\n\" >/tmp/blkfront.conf; xen-blkfrontd -t -c /tmp/blkfront.conf'"
says "a good configuration" 0 "ok" "sh -c 'echo depth = 32 >/tmp/blkfront.conf; xen-blkfrontd -t -c /tmp/blkfront.conf'"

ok "a disk is there" disk_attach $guest xvda phy /dev/ram0
guest_ok $guest "the kernel's driver takes it" "modprobe xen-blkfront; i=0; until test -b /dev/xvda; do [ \$i -lt 50 ] || exit 1; sleep 0.1; i=\$((i+1)); done"
says "a competing kernel driver" 69 "driven by the kernel.*unbind" "xen-blkfrontd --attach nbd"
ok "freed as the message says" guest_run $guest "echo vbd-51712 >/sys/bus/xen/drivers/vbd/unbind; rmmod xen-blkfront"
ok "then the daemon can serve it" blk_start nbd
guest_ok $guest "and does" "i=0; until test -b $dev/xvda; do [ \$i -lt 100 ] || exit 1; sleep 0.1; i=\$((i+1)); done; dd if=$dev/xvda of=/dev/null bs=64k count=4 iflag=direct"
says "a second daemon" 75 "already|another" "xen-blkfrontd --attach nbd"
ok "the disk detaches" blk_detach
ok "the daemon ends" blk_stop

ok "with an automatic choice the daemon starts" blk_start auto
ok "and says why it does not take this kernel's ublk" blk_log "ublk is not taken unless asked for.*Linux 6.15"
ok "the daemon ends" blk_stop

guest_run $guest "echo 64 >/sys/module/xen_gntalloc/parameters/limit"
ok "with too small a gntalloc limit the daemon starts" blk_start nbd
ok "and raises it for a disk" blk_attach phy /dev/ram0
guest_ok $guest "the limit is higher now" "[ \$(cat /sys/module/xen_gntalloc/parameters/limit) -gt 1000 ]"
ok "the disk detaches" blk_detach
ok "the daemon ends" blk_stop

# Where root may not raise it either.
limit=/sys/module/xen_gntalloc/parameters/limit
guest_ok $guest "a limit that cannot be raised" "echo 64 >$limit; mount -o bind $limit $limit && mount -o remount,bind,ro $limit"
ok "the daemon starts" blk_start nbd
ok "the disk is offered" disk_attach $guest xvda phy /dev/ram0
guest_ok $guest "a disk that it is too small for fails" \
	"i=0; until curl -s --unix-socket /run/xenpv/xen-blkfrontd.sock http://x/devices | grep -q '\"failed\"'; do
		[ \$i -lt 100 ] || exit 1; sleep 0.1; i=\$((i+1)); done"
ok "and the log says what to do" blk_log "limit cannot be raised.*options xen-gntalloc"
ok "the daemon ends" blk_stop
xl block-detach --force $guest xvda >/dev/null 2>&1
guest_run $guest "umount $limit; echo 0 >$limit; mount -o bind $limit $limit && mount -o remount,bind,ro $limit"
says "no room for a single page" 69 "limit cannot be raised.*options xen-gntalloc" "xen-blkfrontd --attach nbd"
guest_ok $guest "the limit is free again" "umount $limit; echo 1024 >$limit"
