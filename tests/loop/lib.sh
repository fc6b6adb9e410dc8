# shellcheck shell=bash disable=SC2034	# tests use what is set here
# SPDX-License-Identifier: BSD-2-Clause
#
# What tests on xenloop use, besides tests/tap.sh:
#
#   loop ARGS...                xenloop, in this test's session, which has been started
#   dom0 CMD...                 runs in domain 0
#   guest CMD...                runs in the guest, which is "g1" and has been created
#   store PATH                  a value from xenstore as domain 0 sees it; empty: not there
#   qemu_start [GUEST]          QEMU serves the guest's disks of type qdisk
#   qemu_stop                   ends it
#   blk_start [OPTIONS]         xen-blkfrontd in the guest, started again when it is killed
#   blk_stop                    ends it; fails if its status is not 0
#   back_start [OPTIONS]        xen-blkbackd in domain 0, started again when it is killed; from then
#                               on the disks are its
#   back_stop                   ends it; fails if its status is not 0
#   back_workers                the pids of its workers
#   back_json FILTER            what jq makes of its /devices
#   back_worker                 the pid of the first disk's worker; fails if there is none
#   next_back_worker            as back_victim, once it is another one than that
#   back_kill_under_load N      kills the worker N times while load_begin's I/O goes on
#   blk_attach [VDEV] [K=V...]  a disk of 32 MB in $image, served by QEMU or xen-blkbackd; waits for
#                               the export
#   blk_uri [VDEV]              where nbdinfo and the like find it
#   blk_has_size BYTES          so large it is
#   blk_worker                  the pid of the first disk's worker; fails if there is none
#   next_blk_worker             as blk_victim, once it is another one than that
#   runs PID NAME               it is that program by now
#   process_state PID           S: sleeps, T: is stopped, ...
#   in_state PID STATE
#   has_ended PID
#   load_begin, load_end        random I/O that is verified, without end in between
#   leftovers                   pages, ports and mappings of each domain: one line

set -uo pipefail
. "$XENPV_SRC/tests/tap.sh"
. "$XENPV_SRC/tests/fio.sh"

# The seconds are what is enough on a machine that has nothing else to do, sanitizers included.
eval "$(declare -f wait_for | sed '1s/wait_for/wait_for_exactly/')"
wait_for() { wait_for_exactly $(($1 * 5)) "${@:2}"; }

export XENLOOP_DIR=$TEST_DIR/session XENLOOP_XENSTORED=$XENPV_TREE/usr/lib/xen-4.17/bin/xenstored
tap_tmp=$TEST_DIR
xen_bin=$XENPV_TREE/usr/lib/xen-4.17/bin
image=$TEST_DIR/disk.img
blk_log=$TEST_DIR/blkfrontd.log
blk_socket=$TEST_DIR/nbd
run_dir=$TEST_DIR/run
blk_dirs=(--rundir "$run_dir" --devdir "$run_dir/dev")

xenloop=$XENPV_BUILD/src/xenloop/xenloop
loop() { "$xenloop" "$@"; }
dom0() { "$xenloop" run -- "$@"; }
guest() { "$xenloop" run --domain g1 -- "$@"; }
store() { dom0 xenstore-read "$1" 2>/dev/null; }

# Programs of the distribution's packages that want libraries of them too.
package_libraries=LD_LIBRARY_PATH=$XENPV_BUILD/src/xenloop:$XENPV_TREE/usr/lib/x86_64-linux-gnu

runs() { [ "$(cat "/proc/$1/comm")" = "$2" ]; }
process_state() { sed 's/.*) \(.\).*/\1/' "/proc/$1/stat"; }
in_state() { [ "$(process_state "$1")" = "$2" ]; }
has_ended() { [ ! -e "/proc/$1" ] || in_state "$1" Z; }

leftovers() {
	dom0 "$XENPV_BUILD/src/xenloop/xenloop" list | awk 'NR > 1 { print $1, $3, $4, $5 }' | xargs
}

# --- daemons -----------------------------------------------------------------

# Started again when it is killed, as by a service manager. NAME.log and NAME.pid are its own.
keep_running() {	# name, command...
	local name=$1 rc
	shift
	while :; do
		"$@" 2>>"$TEST_DIR/$name.log" &
		echo $! >"$TEST_DIR/$name.pid"
		wait $!
		rc=$?
		echo "ended with $rc" >>"$TEST_DIR/$name.log"
		[ $rc -ge 128 ] || return
	done
}

ends() { grep -c '^ended with' "$TEST_DIR/$1.log"; }
ended_since() { [ "$(ends "$1")" -gt "$2" ]; }

stop_running() {	# name: ok if its status is 0
	local before
	before=$(ends "$1")
	kill -TERM "$(cat "$TEST_DIR/$1.pid")"
	wait_for 30 ended_since "$1" "$before" || return
	[ "$(grep '^ended with' "$TEST_DIR/$1.log" | tail -n 1)" = "ended with 0" ]
}

# --- xen-blkfrontd and a backend ---------------------------------------------

disk_type=qdisk disk_nodes=()

qemu_start() {
	local guest=${1:-g1} id
	id=$(loop list | awk -v name="$guest" '$1 == name { print $2 }')
	"$xenloop" run -- env "$package_libraries" \
		"$XENPV_TREE/usr/libexec/xen-qemu-system-i386" -machine xenpv -xen-domid "$id" \
		-xen-attach -name "$guest" -display none -m 64 -nodefaults -monitor none \
		>>"$TEST_DIR/qemu.log" 2>&1 </dev/null &
	qemu=$!
	wait_for 30 qemu_runs "$id"
}

qemu_stop() {
	kill "${qemu-}" || return 0
	wait "$qemu" || :
} 2>/dev/null

qemu_runs() { [ "$(store "/local/domain/0/device-model/$1/state")" = running ]; }

blk_start() {
	mkdir -p "$run_dir"
	keep_running blkfrontd "$xenloop" run --domain g1 -- \
		"$XENPV_BUILD/src/blkfront/xen-blkfrontd" -v --attach "nbd-unix:$blk_socket" \
		"${blk_dirs[@]}" "$@" </dev/null >/dev/null 2>&1 &
	wait_for 30 test -S "$run_dir/xen-blkfrontd.sock"
}

blk_stop() { stop_running blkfrontd; }

back_start() {
	mkdir -p "$run_dir"
	disk_type=vbd disk_nodes=(script=/etc/xen/scripts/block-xenpv)
	keep_running blkbackd "$xenloop" run -- ${back_under:+"$back_under"} \
		"$XENPV_BUILD/src/blkback/xen-blkbackd" -v --rundir "$run_dir" "$@" </dev/null >/dev/null 2>&1 &
	wait_for 30 back_json .
}

back_stop() { stop_running blkbackd; }

back_workers() {
	local pid
	pid=$(cat "$TEST_DIR/blkbackd.pid")
	cat "/proc/$pid/task/$pid/children"
}

back_json() {
	curl -sf --max-time 5 --unix-socket "$run_dir/xen-blkbackd.sock" http://x/devices | jq -er "$1"
}

back_worker() { back_json '.[0].worker | select(. > 0)'; }

# One that was killed is told of until its supervisor has heard of it.
back_victim=
next_back_worker() {
	local now
	now=$(back_worker) && [ "$now" != "$back_victim" ] && back_victim=$now
}

back_kill_under_load() {
	local round
	load_begin
	for round in $(seq "$1"); do
		need "round $round: there is a new worker" wait_for 30 next_back_worker
		sleep "0.$((RANDOM % 4))$((RANDOM % 10))" # at any moment of its life
		ok "the worker is killed under load" kill -9 "$back_victim"
	done
	ok "no error and no wrong byte" load_end
	ok "the image is what the client sees" same_image
}

blk_has_size() { [ "$(nbdinfo --size "$(blk_uri)")" = "$1" ]; }	# bytes

blk_uri() { echo "nbd+unix:///${1:-xvda}?socket=$blk_socket"; }

blk_attach() {
	local vdev=${1:-xvda}
	shift
	[ -e "$image" ] || truncate -s 32M "$image"
	loop attach-disk g1 "$vdev" "$image" --type $disk_type ${disk_nodes[@]+"${disk_nodes[@]}"} "$@" || return
	wait_for 30 nbdinfo --size "$(blk_uri "$vdev")"
}

blk_json() {
	curl -sf --max-time 5 --unix-socket "$run_dir/xen-blkfrontd.sock" http://x/devices | jq -er "$1"
}

# Not 0, which it is told to be between two: kill takes that for all of us.
blk_worker() { blk_json '.[0].worker | select(. > 0)'; }

blk_victim=
next_blk_worker() {
	local now
	now=$(blk_worker) && [ "$now" != "$blk_victim" ] && blk_victim=$now
}

# Random mixed I/O whose every block is verified; and again and again, until load_end, which fails if
# anything did.
load_begin() {
	rm -f "$TEST_DIR/enough"
	: >"$TEST_DIR/passes"
	until [ -e "$TEST_DIR/enough" ]; do
		fio_verify && echo >>"$TEST_DIR/passes" || exit
	done >"$TEST_DIR/load.out" 2>&1 &
	load=$!
}
load_passes() { wc -l <"$TEST_DIR/passes"; }
load_runs() { kill -0 "$load"; }
load_end() {
	touch "$TEST_DIR/enough"
	wait "$load" || { cat "$TEST_DIR/load.out"; return 1; }
}

# shellcheck disable=SC2120	# options, if there are any
fio_verify() {
	# shellcheck disable=SC2086	# several
	fio $fio_verify_options --ioengine=nbd --uri="$(blk_uri)" --size=32M --output="$TEST_DIR/fio.out" "$@" ||
		{ cat "$TEST_DIR/fio.out"; return 1; }
}

same_image() { nbdcopy "$(blk_uri "${1:-xvda}")" "$TEST_DIR/copy" && cmp "$TEST_DIR/copy" "$image"; }

need "a session starts" loop start
need "a guest is made" loop create g1
