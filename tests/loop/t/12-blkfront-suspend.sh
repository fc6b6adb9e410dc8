# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A guest is suspended and resumed under load: new domain, new ring, new backend; the client waits.

need "QEMU serves disks" qemu_start
need "the daemon starts" blk_start
need "a disk" blk_attach xvda
load_begin
more_passes() { [ "$(load_passes)" -gt "$passes" ]; }
for round in 1 2 3 4 5; do
	passes=$(load_passes)
	need "round $round: the client reads and writes" wait_for 30 more_passes
	sleep "0.$((RANDOM % 3))" # somewhere in the next pass
	need "round $round: suspend" loop suspend g1
	qemu_stop
	need "round $round: resume" loop resume g1
	need "round $round: QEMU for the new domain" qemu_start
done
ok "no error and no wrong byte" load_end
ok "the image is what the client sees" same_image

# The supervisor finds its worker dead only after the resume: the next one has a connection to
# go on with that is no more.
worker=$(blk_worker)
kill -STOP "$(cat "$TEST_DIR/blkfrontd.pid")"
kill -9 "$worker"
need "suspend with a dead worker" loop suspend g1
qemu_stop
need "resume" loop resume g1
need "QEMU for it" qemu_start
ok "the disk works" timeout 300 nbdcopy "$(blk_uri)" "$TEST_DIR/copy"
ok "the daemon ends" blk_stop
