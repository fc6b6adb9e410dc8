# shellcheck shell=bash
# SPDX-License-Identifier: BSD-2-Clause
#
# What tests with guests use, besides tests/xen/lib.sh; tests/xen/do has it too.
#
#   power_cut                    ends this boot; in tests with "power-cut: yes", see tests/xen/README.md
#
#   guest_start NAME TYPE [kernel=K] [vcpus=N] [mem=MB] [cmdline=...] [qemu=1] [config=...] [boot=F]
#       qemu=1: with a QEMU to serve it, which qdisk needs; config: more lines for xl
#       boot=F: F is what xl starts in place of a kernel with our initial ramdisk: a boot loader
#   guest_need NAME TYPE KERNEL [...]   the same, unless a clean one is running
#   guest_run NAME CMD [SECONDS]        its output, its status; 124 if it hung
#   guest_ok NAME DESC CMD [SECONDS]    ok on guest_run; guest_not_ok
#   guest_bg NAME JOB CMD               guest_wait NAME JOB [SECONDS]
#   guest_put NAME FILE PATH            small files only
#   guest_until NAME SECONDS CMD        wait until CMD succeeds in the guest
#   guest_stop NAME   guest_log NAME   guest_id NAME   guest_dir NAME
#   guest_shell NAME                    see tests/guest/console
#   guest_save NAME FILE   guest_restore NAME FILE
#
#   same_bytes NAME PATH NODE           dom0's PATH and the guest's NODE hold the same
#   fio_verify FILE [OPTIONS]           a command for a guest: random mixed I/O, every block verified

# shellcheck source=../xen/lib.sh
. "$XENPV_TESTS/xen/lib.sh"

# The host kills this machine as soon as it sees the file; nothing here is told. What a test has
# counted, and the messages so far, would go with it.
power_cut() {
	echo "$tap_count $tap_failed" >"$XENPV_TEST_DIR/counted"
	dmesg >"$XENPV_TEST_DIR/before-dmesg.log"
	xl dmesg >"$XENPV_TEST_DIR/before-xen.log"
	: >$share/power-cut
	sleep infinity
}

# --- guests ------------------------------------------------------------------

guest_dir() { echo "$state/$1"; }
guest_id() { xl domid "$1" 2>/dev/null; }
guest_log() { cat "$xen_log/guest-$1.log"; }
guest_list() { ls "$state"; }

guest_start() {	# name, type, options...
	local name=$1 type=$2 kernel=6.12 vcpus=1 mem=256 cmdline='' qemu='' config='' boot='' option
	local dir=$state/$1 out initrd
	shift 2
	for option; do
		case $option in
		kernel=*|vcpus=*|mem=*|cmdline=*|qemu=*|config=*|boot=*) local "${option?}" ;;
		*) diag "guest_start: unknown option $option"; return 2 ;;
		esac
	done
	guest_stop "$name"
	rm -f "$xen_log/guest-$name.log"
	mkdir -p "$dir"
	initrd=/run/bench/initrd-$name
	# xl starts a guest's QEMU with the guest or not at all. A 9p share that
	# nobody mounts is a reason to.
	[ -z "$qemu" ] ||
		config+=$'\np9 = [ "tag=unused,security_model=none,path=/run/bench" ]'
	if [ -n "$boot" ]; then
		boot="kernel = \"$boot\""
	elif guest_initrd "$kernel" >"$initrd"; then
		boot="kernel = \"/xenpv/pkg/kernel/$kernel/vmlinux\"
ramdisk = \"$initrd\"
cmdline = \"console=hvc0 quiet loglevel=4 mitigations=off panic=1 $cmdline\""
	else
		rm -rf "$initrd" "$dir"
		return 1
	fi
	# A guest that crashes goes away and so ends whoever waits for its console;
	# what it had to say is in the console's log.
	cat >"$dir/config" <<-CONFIG
	name = "$name"
	type = "$type"
	$boot
	memory = $mem
	vcpus = $vcpus
	cpus = "1"
	on_poweroff = "destroy"
	on_reboot = "destroy"
	on_crash = "destroy"
	$config
	CONFIG
	if ! out=$(xl create "$dir/config" 2>&1); then
		rm -rf "$initrd" "$dir"
		diag "xl create $name failed:"
		indent_diag <<<"$out"
		return 1
	fi
	rm -f "$initrd"
	echo "$type/$kernel $*" >"$dir/kind"
	if ! wait_for 150 grep -q '^agent ready' "$xen_log/guest-$name.log"; then
		diag "guest $name did not come up; its console:"
		tail -n 20 "$xen_log/guest-$name.log" 2>&1 | indent_diag
		guest_stop "$name"
		return 1
	fi
	guest_refresh "$name"
}

# The initial ramdisk of a guest with kernel $1.
guest_initrd() {
	local option out guest_base='' guest_image=''
	while IFS='=' read -r option out; do
		case $option in
		guest_base) guest_base=$out ;;
		"guest_modules[$1]") guest_image=$out ;;
		esac
	done <$share/images
	if [ -z "$guest_image" ]; then
		diag "there is no kernel $1" >&2
		return 1
	fi
	cat "$guest_base" "$guest_image" "$(cat $share/payload)"
}

# Where the console is; it moves when a guest is restored.
guest_refresh() {
	local id
	id=$(guest_id "$1") || return
	echo "$id" >"$state/$1/id"
	xenstore-read "/local/domain/$id/console/tty" >"$state/$1/tty"
}

guest_need() {	# name, type, kernel, options...
	local name=$1 type=$2 kernel=$3 kind='' have
	shift 3
	kind="$type/$kernel kernel=$kernel${*:+ $*}"
	have=$(cat "$state/$name/kind" 2>/dev/null)
	# A QEMU that is not needed is in nobody's way.
	if [[ $have = "$kind" || $have = "$kind qemu=1" ]] && [ ! -e "$state/$name/dirty" ] &&
	   [ "$(cat "$state/$name/payload" 2>/dev/null)" = "$(cat $share/payload)" ] &&
	   guest_id "$name" >/dev/null; then
		return 0
	fi
	guest_start "$name" "$type" "kernel=$kernel" "$@" &&
		cp $share/payload "$state/$name/payload"
}

guest_run() {	# name, command, seconds
	local name=$1 limit=$((${3:-60} * SLOW)) tty rc
	if ! read -r tty 2>/dev/null <"$state/$name/tty"; then
		echo "guest $name is not running" >&2
		return 125
	fi
	guestexec "$tty" "$limit" "$2"
	rc=$?
	case $rc in
	124)
		diag "guest $name hangs in: $2" "its console:" >&2
		tail -n 20 "$xen_log/guest-$name.log" | indent_diag >&2
		guest_stop "$name"
		;;
	125)
		diag "guest $name died in: $2" "its console:" >&2
		tail -n 20 "$xen_log/guest-$name.log" | indent_diag >&2
		guest_stop "$name"
		;;
	137) diag "(137: killed, perhaps after its $limit s)" >&2 ;;
	esac
	[ -e $share/first ] || : >$share/first
	return $rc
}

guest_ok() { ok "$2" guest_run "$1" "$3" "${4:-60}"; }
guest_not_ok() { not_ok "$2" guest_run "$1" "$3" "${4:-60}"; }

guest_bg() {	# name, job, command
	guest_run "$1" "mkdir -p /run/job; rm -f /run/job/$2.*
cat >/run/job/$2.sh <<'END-OF-JOB'
$3
END-OF-JOB
(setsid sh /run/job/$2.sh </dev/null >/run/job/$2.out 2>&1; echo \$? >/run/job/$2.new; mv /run/job/$2.new /run/job/$2.rc) </dev/null >/dev/null 2>&1 &"
}

guest_wait() {	# name, job, seconds
	local limit=${3:-60}
	guest_run "$1" "i=0; until [ -e /run/job/$2.rc ]; do
		[ \$i -lt $((limit * SLOW * 5)) ] || { cat /run/job/$2.out; echo 'job $2 goes on'; exit 124; }
		sleep 0.2; i=\$((i + 1)); done
	cat /run/job/$2.out; exit \$(cat /run/job/$2.rc)" $((limit + 30))
}

guest_until() {	# name, seconds, command
	guest_run "$1" "i=0; until { $3
	} >/run/until 2>&1; do [ \$i -lt $(($2 * SLOW * 5)) ] || { cat /run/until; exit 1; }
	sleep 0.2; i=\$((i + 1)); done" $(($2 + 30))
}

guest_put() {	# name, file, path
	guest_run "$1" "base64 -d >'$3' <<END-OF-FILE
$(base64 "$2")
END-OF-FILE"
}

guest_stop() {
	local name=$1
	if [ -e "$state/$name" ]; then
		xl destroy "$name" 2>/dev/null
		rm -rf "${state:?}/$name"
	elif guest_id "$name" >/dev/null; then
		xl destroy "$name"
	fi
}

# A shell on the guest's console, joined to the host's end of the virtio port
# "console" (tests/guest/console). The agent waits meanwhile.
guest_shell() {
	local name=$1 tty port=''
	tty=$(cat "$state/$name/tty") || return
	for port in /sys/class/virtio-ports/*; do
		[ "$(cat "$port/name")" != console ] || break
	done
	port=/dev/${port##*/}
	stty raw -echo <"$tty"
	echo "shell 86400 $(base64 -w0 <<<"stty sane </dev/hvc0
export PS1='$name# ' TERM=vt100; cd /
exec setsid cttyhack sh -i </dev/hvc0 >/dev/hvc0 2>&1")" >"$tty"
	exec 3<>"$port" # a port can be open once
	cat "$tty" >&3 &
	cat <&3 >"$tty"
}

guest_save() { xl save "$1" "$2" && rm -f "$state/$1/tty"; }

guest_restore() {
	xl restore "$2" || return
	# xenconsoled makes a new console, and says where a little later.
	wait_for 10 guest_refresh "$1"
}

# --- disks -------------------------------------------------------------------

same_bytes() {	# guest, path, node
	local here='' there sum=/run/bench/same_bytes.$BASHPID
	sync "$2"
	# Both at once: each has a processor to itself.
	disk_sum "$2" >$sum &
	there=$(guest_run "$1" "disk_sum $3" 120)
	wait $!
	read -r here <$sum
	rm -f $sum
	[ -n "$here" ] && [ "$here" = "$there" ] || { echo "dom0: $here guest: $there"; return 1; }
}

fio_verify() {	# file, options
	echo "fio $fio_verify_options --filename=$1 --ioengine=libaio --direct=1 --output=/run/fio.out ${*:2} || { cat /run/fio.out; exit 1; }"
}
