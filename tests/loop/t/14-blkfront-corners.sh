# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What happens while nobody serves the disk: a worker ended by hand before there is a backend, a
# size announced when the worker is dead, a detach before there was an offer, a changed file.

settings() { printf 'rundir = "%s"\ndevdir = "%s"\n' "$1" "$1/dev"; }
settings "$run_dir" >"$TEST_DIR/blkfront.conf"
blk_dirs=(-c "$TEST_DIR/blkfront.conf")
front=/local/domain/1/device/vbd/51712
back=/local/domain/0/backend/qdisk/1/51712
supervisor() { cat "$TEST_DIR/blkfrontd.pid"; }

need "the daemon starts" blk_start
truncate -s 32M "$image"
need "a disk is offered, and nobody serves it" loop attach-disk g1 xvda "$image" --type qdisk
# It waits when it has its handler for SIGTERM (bit 14).
worker_waits() {
	worker=$(blk_worker) &&
		(($(sed -n 's/^SigCgt:[[:space:]]*/0x/p' "/proc/$worker/status") >> 14 & 1))
}
need "its worker waits" wait_for 10 worker_waits
kill -TERM "$worker"
another_worker() { now=$(blk_worker) && [ "$now" != "$worker" ]; }
ok "ended by hand, it gets a successor" wait_for 10 another_worker
need "QEMU serves disks" qemu_start
size_is() { [ "$(nbdinfo --size "$(blk_uri)")" = "$1" ]; }
ok "which connects" wait_for 10 size_is 33554432

mkdir "$TEST_DIR/elsewhere"
settings "$TEST_DIR/elsewhere" >"$TEST_DIR/blkfront.conf"
kill -HUP "$(supervisor)"
logged() { grep -q "$1" "$blk_log"; }
ok "a file with another rundir is read" wait_for 10 logged 'configuration read again'
ok "and the log says that it is too late for that" logged 'rundir is read at the start only'
worker=$(blk_worker)
kill -9 "$worker"
ok "the next worker finds its way" wait_for 10 another_worker
ok "and serves" wait_for 10 fio_verify --size=1M

worker=$(blk_worker)
kill -STOP "$(supervisor)"
kill -9 "$worker"
dom0 xenstore-write "$back/sectors" 32768 "$back/state" 4
kill -CONT "$(supervisor)"
ok "a size that was announced while the worker was dead is seen" wait_for 10 size_is 16777216

dom0 xenstore-write "$back/sectors" 65536 "$back/state" 4
ok "as is one announced while it lives" wait_for 10 size_is 33554432
ok "detach" loop detach-disk g1 xvda
qemu_stop

need "another disk that nobody serves" loop attach-disk g1 xvda "$image" --type qdisk
need "its worker waits" wait_for 10 worker_waits
dom0 xenstore-write "$back/online" 0 "$back/state" 5
closed() { [ "$(store "$front/state")" = 6 ]; }
ok "a detach before there was an offer is answered at once" wait_for 4 closed
ok "the daemon ends" blk_stop
