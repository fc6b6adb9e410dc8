# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Another image, and another offer, under a connected guest: sectors of another size are refused with
# one line and the disk stays as it is; a next xen-blkbackd that offers less keeps to what was offered.

node=/local/domain/0/backend/vbd/1/51712
large=$TEST_DIR/large.img
truncate -s 48M "$large"
nbdkit -f -U "$TEST_DIR/4k.sock" --filter=blocksize-policy memory 32M blocksize-minimum=4096 \
	blocksize-preferred=4096 blocksize-error-policy=error >"$TEST_DIR/nbdkit.log" 2>&1 &
nbdkit=$!
need "a server of 4096-byte sectors starts" wait_for 30 test -S "$TEST_DIR/4k.sock"
need "the backend starts" back_start
need "the frontend starts" blk_start
need "a disk" blk_attach xvda
is "$(store $node/feature-max-indirect-segments) $(store $node/discard-secure)" "256 0" "what is offered"

change() { dom0 xenstore-write $node/params "$1"; }
refusals() { grep -c 'refused: its sectors have 4096 bytes' "$TEST_DIR/blkbackd.log"; }
refused() { [ "$(refusals)" -ge 1 ]; }
serves() { back_json ".[0] | select(.state == \"connected\" and .target == \"$1\")"; }
load_begin
change "nbd+unix:///?socket=$TEST_DIR/4k.sock"
ok "sectors of another size are refused" wait_for 30 refused
ok "the disk stays with its image" wait_for 30 serves "$image"
ok "no error and no wrong byte" load_end
is "$(refusals)" 1 "the log has one line about it"
is "$(store $node/sector-size) $(store $node/sectors)" "512 65536" "the guest was told nothing"

change "$large"
ok "an image of the same sectors is taken" wait_for 30 serves "$large"
ok "its size is seen" wait_for 30 blk_has_size $((48 << 20))
change "$image"
ok "and the first one again" wait_for 30 serves "$image"
ok "I/O is right" fio_verify

ok "the backend ends" back_stop
need "one that offers less starts" back_start --max-indirect 0 --discard=no
ok "it goes on with the disk" wait_for 30 serves "$image"
ok "what was offered holds: large requests" fio_verify --bsrange=128k-128k
was=$(stat -c %b "$image")
qemu-io -f raw -c 'discard 8M 16M' "$(blk_uri)" >/dev/null 2>&1 # it takes "not supported" for an answer
is "$(stat -c %b "$image")" "$was" "a discard that this one does not do makes no hole"
ok "and I/O goes on" fio_verify
ok "detach" loop detach-disk g1 xvda
need "the disk is attached again" blk_attach xvda
is "$(store $node/feature-max-indirect-segments)$(store $node/feature-discard)" "" "with what is offered now"
ok "I/O is right without" fio_verify
kill $nbdkit
ok "the frontend ends" blk_stop
ok "the backend ends" back_stop
