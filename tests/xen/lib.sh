# shellcheck shell=bash
# SPDX-License-Identifier: BSD-2-Clause
#
# What all tests on a real Xen use, and tests/xen/do has too. All of it runs in dom0.
#
#   ok, not_ok, is, like, need, fail, skip, diag   see tests/tap.sh
#   wait_for SECONDS CMD...      the same, but where everything is slow it waits longer: $SLOW times
#   at_end CMD                   CMD runs when the test ends, whatever way; the last one first
#   allow_log REGEX              kernel messages this test provokes on purpose
#   leftovers                    what there is of devices, ports, granted pages, processes and mounts
#
#   disk_attach NAME VDEV phy|qdisk|xenpv PATH [r|w] [EXTRA]     xenpv: xen-blkbackd
#   disk_detach NAME VDEV [--force]     disk_state NAME VDEV   front/back, as 4/4
#   disk_front NAME VDEV, disk_back NAME VDEV      their folders in xenstore
#
# NAME is that of a domain: Domain-0, or a guest of tests/guest/lib.sh.

: "${XENPV_TESTS:?}"
SLOW=${SLOW:-1}
block_xenpv=$(cd "$XENPV_TESTS/.." && pwd)/etc/xen/block-xenpv
state=/run/bench/guest
# shellcheck disable=SC2034	# others'
xen_log=/var/log/xen share=/xenpv/share
mkdir -p "$state"

tap_tmp=/run/bench
# shellcheck source=../tap.sh
. "$XENPV_TESTS/tap.sh"
# shellcheck source=../fio.sh
. "$XENPV_TESTS/fio.sh"

eval "$(declare -f wait_for | sed '1s/wait_for/wait_for_exactly/')"
wait_for() { wait_for_exactly $(($1 * SLOW)) "${@:2}"; }

allow_log() { printf '%s\n' "$1" >>/run/bench/allow; }

# --- the end of a test ---------------------------------------------------------

end_commands=()
at_end() { end_commands=("$*" ${end_commands[@]+"${end_commands[@]}"}); }

eval "$(declare -f finish | sed '1s/finish/finish_test/')"
finish() {
	local command
	trap - EXIT
	for command in ${end_commands[@]+"${end_commands[@]}"}; do eval "$command"; done
	end_commands=()
	finish_test
}

# A line for each: what is more than before is a line that was not there.
numbered() {	# what, count
	local i
	[[ $2 =~ ^[0-9]+$ ]] || { echo "$1: no count: $2"; return; }
	for ((i = 1; i <= $2; i++)); do echo "$1 $i"; done
}

leftovers() {
	xenstore-list device/vbd 2>/dev/null | sed 's/^/device\/vbd /'
	local class
	for class in vbd qdisk; do # xenstore-list ends at the first that is not there
		xenstore-list backend/$class/0 2>/dev/null | sed "s/^/backend $class /"
	done
	numbered "port of dom0" "$(lsevtchn 0 | wc -l)"
	numbered "granted page" "$(gntalloc_used 2>&1)"
	ps -e -o comm= | grep -E '^(xen-[a-z]+d|fio|xvd)' | sort | sed 's/^/process /'
	awk '$2 ~ "^/(mnt|run/mnt)" { print "mount " $1 " " $2 }' /proc/mounts
	ls /dev/xenpv 2>/dev/null | sed 's/^/\/dev\/xenpv /'
	basename -a /sys/class/block/* | grep -E '^(ublkb|xvd)'
}

# --- disks -------------------------------------------------------------------

disk_number() {	# vdev: xvda -> 51712, xvda1 -> 51713
	local letters=${1#xvd} part n
	part=${letters##*[a-z]}
	letters=${letters%"$part"}
	n=$(($(printf %d "'$letters") - 97))
	echo $((51712 + 16 * n + ${part:-0}))
}

# A guest's number is kept in a file: under emulation asking xl costs half a second.
domain_id() {
	local id
	case $1 in
	Domain-0) echo 0 ;;
	*) read -r id <"$state/$1/id" && echo "$id" ;;
	esac
}
disk_front() {
	local id
	id=$(domain_id "$1") && echo "/local/domain/$id/device/vbd/$(disk_number "$2")"
}
disk_back() { xenstore-read "$(disk_front "$1" "$2")/backend"; }

disk_attach() {	# name, vdev, backend type, path, mode, extra
	local spec="vdev=$2,format=raw,access=rw"
	[ "${5:-w}" = w ] || spec="vdev=$2,format=raw,access=ro"
	case $3 in
	phy) spec+=",backendtype=phy,script=$XENPV_TESTS/xen/dom0/block" ;;
	xenpv) spec+=",script=$block_xenpv" ;;
	*) spec+=",backendtype=$3" ;;
	esac
	xl block-attach "$1" "$spec${6:+,$6},target=$4"
}

disk_detach() { xl block-detach ${3:+"$3"} "$1" "$2"; }

disk_state() {
	local front
	front=$(disk_front "$1" "$2")
	echo "$(xenstore-read "$front/state" 2>/dev/null || echo -)/$(xenstore-read \
		"$(xenstore-read "$front/backend" 2>/dev/null)/state" 2>/dev/null || echo -)"
}
