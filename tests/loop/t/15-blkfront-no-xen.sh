# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What xen-blkfrontd says where there is no Xen, and where it has no permission: a message that helps,
# and an exit status of sysexits(3).

attempt() {	# command...
	# It ends before it has begun, and frees nothing then.
	said=$(ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 timeout 200 "$@" "$XENPV_BUILD/src/blkfront/xen-blkfrontd" --attach "nbd-unix:$blk_socket" \
		"${blk_dirs[@]}" 2>&1)
	rc=$?
}

mkdir -p "$run_dir"
attempt env XENSTORED_PATH="$TEST_DIR/nobody-listens"
is $rc 69 "without Xen: exit status"
like "$said" "no xenstore: is this a Xen guest" "without Xen: message"
if [ "$(id -u)" -eq 0 ]; then
	install -d -m 700 "$TEST_DIR/closed"
	blk_dirs=(--rundir "$TEST_DIR/closed/run" --devdir "$TEST_DIR/closed/dev")
	attempt setpriv --reuid 65534 --regid 65534 --clear-groups
	is $rc 73 "no permission for its folder: exit status"
	like "$said" "$TEST_DIR/closed/run: Permission denied" "no permission for its folder: message"
fi
