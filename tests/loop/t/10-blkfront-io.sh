# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# xen-blkfrontd and QEMU's qdisk: programs of other projects read and write the disk as an NBD
# export on a Unix socket.

need "QEMU serves disks" qemu_start
need "the daemon starts" blk_start
before=$(leftovers)
need "a disk" blk_attach xvda
is "$(store /local/domain/1/device/vbd/51712/state)" 4 "the frontend is connected"
like "$(nbdinfo "$(blk_uri)")" "export-size: 33554432" "nbdinfo sees its size"
ok "random mixed I/O at depth 32 is right" fio_verify
ok "the backend's image is what the client sees" same_image
ok "qemu-img reads it" qemu-img convert -f raw "$(blk_uri)" -O qcow2 "$TEST_DIR/copy.qcow2"
ok "qemu-img finds no difference" qemu-img compare -f raw -F qcow2 "$(blk_uri)" "$TEST_DIR/copy.qcow2"
head -c 32M /dev/urandom >"$TEST_DIR/new"
ok "nbdcopy writes it" nbdcopy --flush "$TEST_DIR/new" "$(blk_uri)"
ok "and the image has it" cmp "$TEST_DIR/new" "$image"
ok "two clients at once" sh -c "nbdcopy '$(blk_uri)' '$TEST_DIR/a' & nbdcopy '$(blk_uri)' '$TEST_DIR/b'; wait; cmp '$TEST_DIR/a' '$TEST_DIR/b'"
mkdir "$TEST_DIR/fuse"
nbdfuse "$TEST_DIR/fuse" "$(blk_uri)" >"$TEST_DIR/nbdfuse.log" 2>&1 &
fuse=$!
mounted() { [ -s "$TEST_DIR/fuse/nbd" ] || has_ended $fuse; }
wait_for 30 mounted
if [ -s "$TEST_DIR/fuse/nbd" ]; then
	ok "nbdfuse has it as a file" cmp "$TEST_DIR/fuse/nbd" "$image"
	ok "which can be written" dd if=/dev/zero of="$TEST_DIR/fuse/nbd" bs=64k count=4 conv=notrunc,fsync status=none
	ok "and the image has that" cmp -n 262144 /dev/zero "$image"
	kill $fuse
	wait $fuse
	not_ok "nbdfuse ends" test -e "$TEST_DIR/fuse/nbd"
else
	diag "nbdfuse cannot mount here: $(cat "$TEST_DIR/nbdfuse.log")"
fi
ok "detach" loop detach-disk g1 xvda
ok "the export goes" wait_for 30 sh -c "! nbdinfo --size '$(blk_uri)'"
nothing_left() { [ "$(leftovers)" = "$before" ]; }
ok "no page stays shared" wait_for 30 nothing_left

# Those with high numbers are the session's: see src/xenloop/hidden.h.
daemon_fds() { find "/proc/$(cat "$TEST_DIR/blkfrontd.pid")/fd" -name '[0-9]' -o -name '[0-9][0-9]' | wc -l; }
fds=$(daemon_fds)
again() {
	for _ in $(seq 10); do
		blk_attach xvda && loop detach-disk g1 xvda || return
	done
}
ok "ten times attached and detached" again
no_more_fds() { [ "$(daemon_fds)" -le "$fds" ]; }
ok "no descriptor leaks" wait_for 30 no_more_fds
ok "no grant leaks" wait_for 30 nothing_left
ok "the daemon ends on SIGTERM with status 0" blk_stop
