#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# The part of scripts/demo --loop after the build: a guest's disk from QEMU's qdisk to an NBD client,
# all of it ordinary processes on xenloop(1).

set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

say() { printf '\n\033[1m--> %s\033[0m\n' "$*"; }
die() {
	printf 'demo: %s\n' "$*" >&2
	tail -n 20 "$TEST_DIR"/*.log >&2
	exit 1
}
show() { # a command, and what it prints
	printf '$ %s\n' "$*"
	"$@" || die "that failed"
}

tree=$(tests/xen/fetch) || die "xenstored and QEMU are taken from Debian's packages, which could not be fetched"
export XENPV_SRC=$PWD XENPV_BUILD=${XENPV_BUILD:-$PWD/build} XENPV_TREE=$tree/tree
TEST_DIR=$(mktemp -d /tmp/xenpv-demo.XXXXXX)
export TEST_DIR
trap 'qemu_stop; "$XENPV_BUILD/src/xenloop/xenloop" stop 2>/dev/null; rm -rf "$TEST_DIR"' EXIT
began=$SECONDS
# shellcheck source=../tests/loop/lib.sh
. tests/loop/lib.sh >"$TEST_DIR/start.log" || die "no session"

say "A session: xenstored from Debian's package, domain 0 and a guest, no hypervisor"
show loop list
say "QEMU in domain 0 serves a disk to the guest; xen-blkfrontd in the guest exports it"
qemu_start || die "QEMU did not start"
blk_start || die "xen-blkfrontd did not start"
blk_attach xvda >/dev/null || die "no disk"
grep -h xvda "$blk_log"
guest xenstore-ls device/vbd/51712
uri=$(blk_uri)
nbdinfo "$uri" | head -n 3
say "A file system goes there and comes back"
truncate -s 32M "$TEST_DIR/fs"
mkfs.ext4 -q "$TEST_DIR/fs"
show nbdcopy --flush "$TEST_DIR/fs" "$uri"
show nbdcopy "$uri" "$TEST_DIR/back"
show fsck.ext4 -f -n "$TEST_DIR/back"
show cmp "$TEST_DIR/back" "$image"
say "kill -9 of the worker, five times, while every byte is verified"
fio_verify --loops=4 &
load=$!
for _ in 1 2 3 4 5; do
	sleep 0.2
	wait_for 30 next_blk_worker || die "there is no next worker"
	echo "killing $blk_victim"
	kill -9 "$blk_victim"
done
wait $load || die "fio saw an error"
echo "fio: no error, no wrong byte"
say "The guest is suspended and resumed, as by xl save and restore"
show loop suspend g1
qemu_stop
show loop resume g1
qemu_start || die "QEMU did not start"
fio_verify >/dev/null || die "fio saw an error"
echo "fio: no error, no wrong byte"
say "Throughput of front and back together (bench/loop has more)"
for options in "--rw=randread --bs=4k --iodepth=32" "--rw=read --bs=128k --iodepth=8"; do
	# shellcheck disable=SC2086	# they are several
	fio --name=b --ioengine=nbd --uri="$uri" --size=32M --time_based --runtime=1 --minimal $options |
		awk -F';' -v what="$options" '/^3;/ { printf "  %-40s %7.0f IOPS %8.1f MB/s\n", what, $8, $7 / 1024 }'
done
say "Done, in $((SECONDS - began)) s"
