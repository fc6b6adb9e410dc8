# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Limits of a disk, by configuration and in xenstore, are kept over some seconds; another disk is not
# held up. Only that something takes long enough is asked of the clock; that nothing was held up, of
# the counters.

conf=$TEST_DIR/blkback.conf
printf 'bytes-per-second = 4000000\nburst-ms = 200\n' >"$conf"
need "the backend starts" back_start --config "$conf"
need "the frontend starts" blk_start --queues 2
back=/local/domain/0/backend/vbd/1
need "a limited disk" blk_attach xvda
export image=$TEST_DIR/free.img
need "and another" blk_attach xvdb
limits() { back_json ".[] | select(.name == \"1/$1\") | .limits | \"\(.iops) \(.bytes_per_second)\""; }
limits_are() { [ "$(limits "$1")" = "$2 $3" ]; }
throttled() {	# of a disk, all its queues
	curl -sf --max-time 5 --unix-socket "$run_dir/xen-blkbackd.sock" http://x/metrics |
		awk -v disk="\"1/$1\"" '/^xenpv_blkback_throttled/ && index($0, disk) { n += $2 } END { print n + 0 }'
}
io() {	# disk, options
	fio --name=l --ioengine=nbd --uri="$(blk_uri "$1")" --iodepth=16 --randrepeat=0 --minimal "${@:2}"
}
milliseconds() {	# command
	local begun
	begun=$(date +%s%N)
	"$@" >"$TEST_DIR/fio.out" 2>&1 || { cat "$TEST_DIR/fio.out"; return 1; }
	echo $((($(date +%s%N) - begun) / 1000000))
}

ok "the configuration's limit holds for both" limits_are xvdb 0 4000000
dom0 xenstore-write $back/51728/xenpv-bytes-per-second 0
ok "the other's is lifted" wait_for 10 limits_are xvdb 0 0

# 16 MB are 4 s at the limit, less the burst of 0.2 s.
io xvdb --rw=randrw --bs=64k --size=16M --loops=1000 >"$TEST_DIR/free.out" 2>&1 &
free=$!
for rw in write read; do
	took=$(milliseconds io xvda --rw=$rw --bs=64k --size=16M)
	ok "16 MB take 3.5 s or more ($rw: $took ms)" test "$took" -ge 3500
done
pkill -P $free -x fio
wait $free
ok "because the disk was held up" test "$(throttled xvda)" -gt 0
is "$(throttled xvdb)" 0 "the other one was not"

dom0 xenstore-write $back/51712/xenpv-bytes-per-second 0
dom0 xenstore-write $back/51712/xenpv-iops 100
ok "a limit of requests, by xenstore" wait_for 10 limits_are xvda 100 0
took=$(milliseconds io xvda --rw=randread --bs=4k --size=32M --number_ios=400)
ok "400 requests take 3.5 s or more ($took ms)" test "$took" -ge 3500

before=$(throttled xvda)
dom0 xenstore-rm $back/51712/xenpv-iops
dom0 xenstore-rm $back/51712/xenpv-bytes-per-second
printf 'iops = 100\nburst-ms = 60000\n' >"$conf"
kill -HUP "$(cat "$TEST_DIR/blkbackd.pid")"
ok "the configuration is read again" wait_for 10 limits_are xvda 100 0
ok "400 requests" io xvda --rw=randread --bs=4k --size=32M --number_ios=400
is "$(throttled xvda)" "$before" "are within a burst of a minute"
ok "the frontend ends" blk_stop
ok "the backend ends" back_stop
