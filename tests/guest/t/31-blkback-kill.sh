# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# kill -9 of workers, of the supervisor and of all at once, at random moments under verified I/O
# on a mounted file system, with persistent grants and with copies: a pause, no error, no lost byte.
#
# matrix: pv/6.12
# more: pvh/6.12
# timeout: 600

. "$XENPV_TESTS/guest/blkback.sh"
back_guest
need "there is a file system for images" back_images
truncate -s 64M $images/disk

kill_some() {	# supervisor|worker|all: ok if there was something to kill
	local victims
	case $1 in
	supervisor) victims=$(back_pid) ;;
	worker) victims=$(back_workers) ;;
	all) victims="$(back_pid) $(back_workers)" ;;
	esac
	# shellcheck disable=SC2086
	[ -n "$victims" ] && kill -9 $victims
} 2>/dev/null

# As often as wanted while fio runs, with time enough in between for some I/O, and for a supervisor
# to take the disk over.
kill_while_busy() {	# whom, times
	local kills=0
	for _ in $(seq $(($2 * 4))); do
		[ $kills -lt "$2" ] || return 0
		sleep 0.$((RANDOM % 10))
		if kill_some "$1"; then
			kills=$((kills + 1))
			[ "$1" = worker ] || wait_for 20 back_json '.[0].worker' || return
		fi
	done
	echo "only $kills of $2"
	return 1
}

for persistent in 1 0; do
	it="persistent=$persistent:"
	ok "$it the daemon starts" back_start
	ok "$it the guest's driver is loaded" front_load max_ring_page_order=1 feature_persistent=$persistent
	need "$it a disk is there" back_attach $images/disk
	guest_ok $guest "$it mounted" "mkfs.ext4 -q -F /dev/xvda && mount /dev/xvda /mnt"
	guest_bg $guest fio "$(fio_verify /mnt/f --size=24M --time_based --runtime=30 --fsync=16)"
	ok "$it workers are killed" kill_while_busy worker 8
	ok "$it supervisors are killed" kill_while_busy supervisor 4
	ok "$it all at once are killed" kill_while_busy all 3
	ok "$it fio saw neither an error nor a wrong byte" guest_wait $guest fio 150
	is "$(back_count '^ended with 137')" 7 "$it the supervisor was killed seven times"
	guest_ok $guest "$it unmount" "umount /mnt" 90
	guest_ok $guest "$it fsck finds nothing" "fsck.ext4 -f -n /dev/xvda"
	ok "$it the image is what the guest sees" same_image $images/disk
	is "$(guest_run $guest "dmesg | grep -cE 'I/O error|xen_blkfront.*(bad|invalid|wrong)'")" 0 \
		"$it the guest's kernel noticed nothing"
	ok "$it detach" back_detach
	ok "$it the driver unloads" front_unload
	ok "$it the daemon ends" back_stop
done
