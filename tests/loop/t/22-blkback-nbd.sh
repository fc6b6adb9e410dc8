# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# xen-blkbackd on an NBD server, by a Unix socket and by TCP: its worker is killed while the server is
# at a write of it, which must not land on a newer one; and again and again, under load.

command -v nbdkit >/dev/null && command -v qemu-nbd >/dev/null || skip "there is no nbdkit or no qemu-nbd"
need "the backend starts" back_start
need "the frontend starts" blk_start
work=$TEST_DIR/server
server=

# Of the file "image". While there is "slow", a write moves it away and waits for "go".
slow_write="pwrite=cd $work; dd of=data.\$\$ 2>/dev/null; late=
if mv slow begun 2>/dev/null; then late=1; until [ -e go ]; do sleep 0.02; done; fi
dd if=data.\$\$ of=image bs=\$3 seek=\$4 oflag=seek_bytes conv=notrunc 2>/dev/null
[ -z \$late ] || touch written"
slow_read="pread=dd if=$work/image count=\$3 skip=\$4 iflag=count_bytes,skip_bytes 2>/dev/null"
slow=(eval "thread_model=echo parallel" "get_size=echo 1048576" "$slow_read" "$slow_write")

# What serves sets uri.
spawn() {
	rm -rf "$work"
	mkdir "$work"
	truncate -s 32M "$work/image"
	"$@" </dev/null >>"$TEST_DIR/server.log" 2>&1 &
	server=$!
	wait_for 30 serves_or_ended && nbdinfo --size "$uri"
}
serves_or_ended() { nbdinfo --size "$uri" || has_ended $server; }
end_server() { kill $server && wait $server; } 2>/dev/null
nbdkit_unix() {
	uri="nbd+unix:///?socket=$work/socket"
	spawn nbdkit -f -U "$work/socket" "$@"
}
nbdkit_tcp() {
	local port
	for _ in 1 2 3; do	# a port may be taken
		port=$((20000 + RANDOM % 10000))
		uri=nbd://127.0.0.1:$port/
		! spawn nbdkit -f -i 127.0.0.1 -p $port "$@" || return 0
	done
	return 1
}
qemu_unix() {
	uri="nbd+unix:///?socket=$work/socket"
	spawn qemu-nbd -t -e 8 -f raw -k "$work/socket" "$work/image"
}

attach() { loop attach-disk g1 xvda "$uri" --type vbd "${disk_nodes[@]}" && wait_for 30 nbdinfo --size "$(blk_uri)"; }
gone() { ! nbdinfo --size "$(blk_uri)"; }
detach() { loop detach-disk g1 xvda && wait_for 30 gone; }

fill() { qemu-io -f raw -c "write -P $1 0 4k" "$(blk_uri)"; }
fill_anew() { fill 0x42 >"$TEST_DIR/anew.log" 2>&1; }
holds() { qemu-io -f raw -c "read -P $1 0 4k" "$(blk_uri)" >"$TEST_DIR/read.log" && ! grep failed "$TEST_DIR/read.log"; }
is_over() { has_ended $write; }
begins_count() { grep -cE 'waiting until the NBD server|done again' "$TEST_DIR/blkbackd.log"; }
next_begins() { [ "$(begins_count)" -gt "$begun" ]; }
does_again() { grep -E 'waiting until the NBD server|done again' "$TEST_DIR/blkbackd.log" | tail -n 1 | grep 'done again'; }
worker_dies() { back_workers; }
# The supervisor first, or it would have the next worker at once.
both_die() { echo "$(cat "$TEST_DIR/blkbackd.pid") $(back_workers)"; }

late_write() {	# name, server, who dies
	local early='' begun
	need "$1: a server" "$2" "${slow[@]}"
	need "$1: a disk" attach
	touch "$work/slow"
	fill 0x41 >"$TEST_DIR/write.log" 2>&1 &
	write=$!
	ok "$1: the server is at a write" wait_for 30 test -e "$work/begun"
	begun=$(begins_count)
	# shellcheck disable=SC2046
	kill -9 $("$3")
	ok "$1: the next worker begins" wait_for 30 next_begins
	# If it does the write again now, another one can follow before the first one lands.
	if does_again; then wait_for 30 is_over && early=1 && fill_anew; fi
	touch "$work/go"
	wait $write
	ok "$1: it succeeds" grep -q '^wrote 4096' "$TEST_DIR/write.log"
	ok "$1: the first one lands" wait_for 30 test -e "$work/written"
	[ -n "$early" ] || fill_anew
	ok "$1: what was written last is there" holds 0x42
	ok "$1: detach" detach
	end_server
}
late_write "a Unix socket" nbdkit_unix worker_dies
late_write "a Unix socket, both die" nbdkit_unix both_die
late_write TCP nbdkit_tcp worker_dies

# By TCP qemu-nbd does not tell when it is done, and nbdkit only with a single thread.
for where in qemu_unix "nbdkit_tcp -t 1 file $work/image"; do
	# shellcheck disable=SC2086
	need "${where%% *}: it serves" $where
	where=${where%% *}
	need "load by $where: a disk" attach
	load_begin
	for round in 1 2 3 4 5 6; do
		need "load by $where, round $round: there is a new worker" wait_for 30 next_back_worker
		sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
		ok "load by $where, round $round: it is killed" kill -9 "$back_victim"
	done
	ok "load by $where: no error and no wrong byte" load_end
	ok "load by $where: detach" detach
	end_server
done
is "$(grep -c 'may undo a newer one' "$TEST_DIR/blkbackd.log")" 0 "the server was waited for"
ok "the frontend ends" blk_stop
ok "the backend ends" back_stop
