# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# kill -9 of workers under load: a client sees a pause. And of the backend: it is waited for.

need "QEMU serves disks" qemu_start
need "the daemon starts" blk_start
need "a disk" blk_attach xvda
load_begin
for round in $(seq 12); do
	need "round $round: there is a new worker" wait_for 30 next_blk_worker
	sleep "0.0$((RANDOM % 90 + 10))" # at any moment of its life
	ok "it is killed under load" kill -9 "$blk_victim"
	load_runs || break
done
ok "no error and no wrong byte" load_end
ok "the image is what the client sees" same_image
ok "detach" loop detach-disk g1 xvda
ok "the daemon ends" blk_stop
