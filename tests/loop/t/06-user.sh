# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# All of it as an ordinary user: session, QEMU, xen-blkfrontd and its clients. What the user may not
# read where it is, is copied.

[ "$(id -u)" = 0 ] || skip "all tests run as an ordinary user here"
loop stop

home=$TEST_DIR/home
mkdir -p "$home"/build/src/{xenloop,blkfront,lib} "$home/build/tests/loop/src" "$home/tree/usr/libexec"
cp -a "$XENPV_BUILD"/src/xenloop/{xenloop,lib*.so*} "$home/build/src/xenloop" 2>/dev/null
cp -a "$XENPV_BUILD"/src/lib/lib*.so* "$home/build/src/lib" 2>/dev/null
cp "$XENPV_BUILD/src/blkfront/xen-blkfrontd" "$home/build/src/blkfront"
cp "$XENPV_BUILD/tests/loop/src/churn" "$home/build/tests/loop/src"
cp "$XENLOOP_XENSTORED" "$home/xenstored"
cp "$XENPV_TREE/usr/libexec/xen-qemu-system-i386" "$home/tree/usr/libexec"
XENPV_BUILD=$home/build XENPV_TREE=$home/tree XENLOOP_DIR=$home/session XENLOOP_XENSTORED=$home/xenstored
package_libraries=LD_LIBRARY_PATH=$XENPV_BUILD/src/xenloop:/usr/lib/x86_64-linux-gnu
image=$home/disk.img blk_socket=$home/nbd run_dir=$home/run
blk_dirs=(--rundir "$run_dir" --devdir "$run_dir/dev")
truncate -s 32M "$image"
chown -R nobody "$home"
as_nobody() { setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=-all "$@"; }
cat >"$home/xenloop" <<END
#!/bin/sh
exec setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=-all "$home/build/src/xenloop/xenloop" "\$@"
END
chmod +x "$home/xenloop"
xenloop=$home/xenloop
# The user's session is not the one that the suite ends.
eval "$(declare -f finish | sed '1s/finish/finish_test/')"
finish() {
	trap - EXIT
	loop stop >/dev/null 2>&1
	finish_test
}

need "a session" loop start
need "a guest" loop create g1
is "$(loop run --domain g1 -- id -un)" nobody "its programs are the user's"
ok "channels and grants" loop run --domain g1 -- "$XENPV_BUILD/tests/loop/src/churn" 1 check
need "QEMU serves disks" qemu_start
as_nobody mkdir -p "$run_dir"
need "the daemon starts" blk_start
need "a disk" blk_attach xvda
ok "the user sees the export" as_nobody nbdinfo --size "$(blk_uri)"
head -c 1M /dev/urandom >"$home/new"
ok "a file goes there" as_nobody nbdcopy --flush "$home/new" "$(blk_uri)"
ok "and the image has it" cmp -n 1048576 "$home/new" "$image"
ok "detach" loop detach-disk g1 xvda
ok "the daemon ends" blk_stop
qemu_stop
ok "stop" loop stop
