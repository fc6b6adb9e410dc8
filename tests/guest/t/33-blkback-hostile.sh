# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A frontend that breaks the protocol gets errors for what it asks, or its disk closed with one
# clear line; the daemon and an honest guest's disk go on.
#
# matrix: pvh/6.12
# timeout: 600

. "$XENPV_TESTS/guest/blkback.sh"
vdev=51728 # xvdb
back_guest
need "an honest guest runs" guest_need g2 "$TYPE" "$KERNEL"
need "there is a file system for images" back_images
head -c 16M /dev/urandom >$images/honest
truncate -s 16M $images/hostile
honest=$(md5sum <$images/honest)
ok "the daemon starts" back_start
guest_ok g2 "its driver is loaded" "modprobe xen-blkfront"
need "it has a disk" disk_attach g2 xvda xenpv $images/honest
guest_until g2 20 "test -b /dev/xvda"

no_hostile_disk() { [ "$(back_json length)" = 1 ]; }
# The supervisor's word; the worker says more about it.
closed() { back_count 'the frontend (broke the protocol|cannot be served)'; }
attached='' number=0
# The rest is told apart on xenloop as well (tests/loop/t/21), and here with --all.
some=' honest sector-across-end sector-wrap first-gt-last nr-segments-255 indirect-257
indirect-bogus-gref bogus-gref write-to-read-only unknown-op discard-wrap revoked-in-flight
ring-index-jump flood fuzz ring-ref-bogus order-huge queues-1000 states-in-no-order
close-while-busy vanish '
while read -r mode expect access text; do
	[[ -n ${XENPV_ALL-} || ${some//$'\n'/ } == *" $mode "* ]] || continue
	number=$((number + 1))
	if [ "$attached" != "$access" ]; then
		back_detach_all g1
		wait_for 20 no_hostile_disk
		ok "a disk for $mode" disk_attach g1 xvdb xenpv $images/hostile "$access"
		attached=$access
	fi
	before=$(closed)
	persistent=$([ $((number % 2)) = 0 ] && echo --persistent)
	guest_ok g1 "$mode: $text: $expect" \
		"hostile_frontend --seed $RANDOM $persistent $mode $vdev 2>&1" 120 || attached=bad
	case ${expect#expect=} in
	refused)
		is $(($(closed) - before)) 1 "$mode: the log has one line about it"
		attached=bad
		;;
	any) attached=bad ;;
	*) is "$(closed)" "$before" "$mode: the disk was not closed for it" ;;
	esac
	if ! guest_run g2 "dd if=/dev/xvda of=/dev/null bs=64k count=2 iflag=direct 2>/dev/null" 20; then
		fail "$mode: the honest disk works"
		break
	fi
done < <("$XENPV_BUILD/tests/xen/src/hostile_frontend" --list)

is "$(guest_run g2 "dd if=/dev/xvda bs=1M iflag=direct 2>/dev/null | md5sum")" "$honest" \
	"the honest guest's disk has its bytes"
is "$(md5sum <$images/honest)" "$honest" "and so has its image"
is "$(back_count '^ended with')" 0 "the supervisor never ended"
is "$(back_count 'worker killed by|AddressSanitizer')" 0 "and no worker crashed"
back_detach_all g1
back_detach_all g2
ok "nothing is left of the disks" wait_for 20 back_idle
ok "the daemon ends" back_stop
