# shellcheck shell=bash disable=SC2154,SC2034
# SPDX-License-Identifier: BSD-2-Clause
#
# xen-blkbackd where io_uring may not be used: it says so and has threads do the I/O, in the sandbox,
# with what 20-blkback asks of it in short.

back_under=$XENPV_BUILD/tests/loop/src/no_io_uring
need "the backend starts" back_start
need "the frontend starts" blk_start --ring-page-order 1 --queues 2
need "a disk" blk_attach xvda
ok "random mixed I/O at depth 32 is right" fio_verify
said() { grep -c 'no io_uring: .*falling back to threads' "$TEST_DIR/blkbackd.log"; }
is "$(said)" 1 "two queues fall back with one line"
ok "the image is what the client sees" same_image
blocks() { stat -c %b "$image"; }
was=$(blocks)
ok "a discard" qemu-io -f raw -c 'discard 8M 16M' "$(blk_uri)"
ok "makes a hole" test $((was - $(blocks))) -ge 10000
ok "a flush" qemu-io -f raw -c 'write 1M 64k' -c flush "$(blk_uri)"
ok "the image is still what the client sees" same_image

back_kill_under_load 4

truncate -s 48M "$image"
kill -HUP "$(cat "$TEST_DIR/blkbackd.pid")"
ok "a new size is seen" wait_for 10 blk_has_size $((48 << 20))
truncate -s 32M "$image"
ok "the backend ends" back_stop

before=$(said)
back_under=''
need "one that is to use threads starts" back_start --io threads
ok "the disk goes on" fio_verify
is "$(said)" "$before" "it has nothing to fall back from"
ok "detach" loop detach-disk g1 xvda
ok "the frontend ends" blk_stop
ok "the backend ends" back_stop
