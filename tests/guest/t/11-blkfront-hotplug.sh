# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Twenty times attach and detach leave nothing behind: no process, descriptor,
# device node, port or grant.
#
# matrix: pv/6.12
# more: pvh/6.12
# timeout: 900

. "$XENPV_TESTS/guest/blkfront.sh"
blk_guest

# All that could leak, as one text to compare.
inventory() {
	guest_run $guest "p=\$(cat /run/blkfrontd.pid)
		echo descriptors: \$(ls /proc/\$p/fd | wc -l)
		echo processes: \$(pidof xen-blkfrontd | wc -w)
		echo nodes: \$(ls -d /dev/ublkb* /dev/ublkc* /dev/xenpv/* 2>/dev/null)
		echo nbd: \$(cat /sys/block/nbd*/pid 2>/dev/null)
		echo limit: \$(cat /sys/module/xen_gntalloc/parameters/limit)
		echo granted pages: \$(gntalloc_used)
		echo maps: \$(grep -c gntalloc /proc/\$p/maps)"
	echo "ports: $(lsevtchn "$(guest_id $guest)" | wc -l)"
	echo "backends: $(xenstore-list "/local/domain/0/backend/vbd/$(guest_id $guest)" 2>/dev/null | wc -l)"
}

attachments=$(blk_attachments nbd) rounds=20
# The other kind of guest has other grants and ports below, and the same daemon above.
[ "$TYPE" = pv ] || attachments=nbd rounds=4
granted=$(guest_run $guest gntalloc_used)
for attach in $attachments; do
	ok "$attach: the daemon starts" blk_start "$attach"
	bad=0
	for round in $(seq $rounds); do
		blk_attach phy /dev/ram0 >/dev/null 2>&1 || { diag "round $round: attach failed"; bad=1; break; }
		guest_run $guest "dd if=$dev/xvda of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null" ||
			{ diag "round $round: no I/O"; bad=1; break; }
		blk_detach >/dev/null 2>&1 || { diag "round $round: detach failed"; bad=1; break; }
		[ "$round" -ne 2 ] || before=$(inventory)
	done
	is $bad 0 "$attach: $rounds rounds of attach, read, detach"
	is "$(inventory)" "$before" "$attach: nothing leaked since the second round"
	ok "$attach: the daemon ends" blk_stop
	is "$(guest_run $guest gntalloc_used)" "${granted:?}" "$attach: not a page is granted any more"
done
