# shellcheck shell=bash disable=SC2034	# others use what is set here
# SPDX-License-Identifier: BSD-2-Clause
#
# What the host side of the bench (run, do, stop, fetch, images) shares:
# where things are, and how to speak to a running dom0.

xen_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
src_dir=$(cd "$xen_dir/../.." && pwd -P)
build_dir=${XENPV_BUILD:-$src_dir/build}
cache_dir=${XENPV_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/xenpv}/bench
# Each tree has a bench of its own; all that belongs to a running one is in run_dir.
run_dir=$cache_dir/run-$(printf %s "$src_dir" | sha256sum | cut -c1-12)
lock_file=$run_dir.lock
log_dir=${XENPV_TEST_LOGS:-$src_dir/test-logs}/${XENPV_BENCH_LOGS:-xen}

# Xen and the kernels are Debian's. The package cache is named by a hash of these
# lines: what is asked for. It holds the versions that were current when it was
# fetched, which its file "versions" tells, and keeps them.
xen_release=bookworm
xen_packages=(
	xen-hypervisor-4.17-amd64 xen-utils-4.17 xen-utils-common
	xenstore-utils qemu-system-xen
)
# flavour=suite. The second has ublk, the third also ublk's UPDATE_SIZE.
kernel_suites=(
	6.1=bookworm
	6.12=bookworm-backports
	next=trixie-backports
)
dom0_kernel=${XENPV_DOM0_KERNEL:-6.12}
fetch_revision=2	# raise when fetch unpacks the same packages differently

package_key=$(printf '%s\n' "$fetch_revision" "$xen_release" \
	"${xen_packages[@]}" "${kernel_suites[@]}" | sha256sum | cut -c1-16)
package_dir=$cache_dir/packages-$package_key

me=${0##*/}
say() { printf '# %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$me" "$*" >&2; exit 1; }

# Hash of the contents of some files and of some words: sum_of FILE... -- WORD...
sum_of() {
	local files=()
	while [ $# -gt 0 ] && [ "$1" != -- ]; do files+=("$1"); shift; done
	{ printf '%s\n' "$@"; cat "${files[@]}"; } | sha256sum | cut -c1-16
}

# How many times slower than usual this machine is, 1 at least: by the time the bench took to boot,
# of which 15 s are usual. Limits are multiplied by it.
slowness() { cat "$run_dir/slow" 2>/dev/null || echo 1; }

# Pid of the running bench's QEMU, or failure. A pid alone can be somebody
# else's by now, so it must also be a QEMU.
bench_pid() {
	local pid
	pid=$(cat "$run_dir/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
	[[ $(readlink "/proc/$pid/exe" 2>/dev/null) == *qemu-system-* ]] || return 1
	echo "$pid"
}

# What is left of a bench is its logs.
keep_logs() {
	mkdir -p "$log_dir"
	cp "$run_dir"/*.log "$log_dir/" 2>/dev/null || :
	cp -r "$run_dir/share/results/." "$log_dir/" 2>/dev/null || :
}

# Run a shell command in dom0, for so many seconds at most if told: stdout and
# stderr come here as they are written, the exit status is the command's. A
# request is a file in the folder dom0 shares with us; a line on the mailbox
# tells dom0 to look at it. If dom0 asks for a power cut, that ends it: status 86.
dom0_run() {
	local id req pid rc marker tail_pid begun=$SECONDS limit=${2:-0}
	pid=$(bench_pid) || die "no bench is running (tests/xen/run --serve)"
	id=$(date +%s%N)-$BASHPID
	req=$run_dir/share/req/$id
	mkdir -p "$req"
	: >"$req/out"
	printf '%s\n' "$1" >"$req/cmd"
	printf '%s\n' "$PWD" >"$req/cwd"
	# When the marker has ended, tail prints what there is and ends as well.
	tail -s 0.5 --pid=$BASHPID -f /dev/null &
	marker=$!
	tail -n +1 -s 0.05 --pid=$marker -f "$req/out" 2>/dev/null &
	tail_pid=$!
	# shellcheck disable=SC2064
	trap "echo 'kill $id' >'$run_dir/mailbox.in'; kill $marker $tail_pid 2>/dev/null; exit 130" INT TERM
	echo "run $id" >"$run_dir/mailbox.in"
	while [ ! -e "$req/rc" ]; do
		sleep 0.05
		[ -e "/proc/$pid" ] || { rc=125; break; }
		if [ -e "$run_dir/share/power-cut" ]; then
			kill -KILL "$pid"
			wait "$pid" 2>/dev/null	# or the shell tells of it
			rc=86
			break
		fi
		if [ "$limit" -gt 0 ] && [ $((SECONDS - begun)) -ge "$limit" ]; then
			rc=124
			break
		fi
	done
	trap - INT TERM
	[ -n "${rc:-}" ] || rc=$(cat "$req/rc")
	kill "$marker" 2>/dev/null
	wait "$marker" 2>/dev/null	# or it stays a zombie, which is a process to tail
	wait "$tail_pid" 2>/dev/null
	case $rc in
	124) say "over the time limit of $limit s" ;;
	125) say "the bench ended before the command did" ;;
	esac
	rm -rf "$req"
	return "$rc"
}

# Bring what guests get of the build, and dom0's own tools, up to date.
refresh_payload() {
	local new=$run_dir/share/payload.$$ tool
	mkdir -p "$run_dir/share/bin"
	"$xen_dir/images" tools | while read -r tool; do
		cmp -s "$tool" "$run_dir/share/bin/${tool##*/}" ||
			cp "$tool" "$run_dir/share/bin/"
	done
	[ -e "$run_dir/guests" ] || return 0
	"$xen_dir/images" payload >"$new" && mv "$new" "$run_dir/share/payload"
}
