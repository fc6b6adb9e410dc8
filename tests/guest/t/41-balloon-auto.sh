# shellcheck shell=bash disable=SC2154,SC2016
# SPDX-License-Identifier: BSD-2-Clause
#
# Policy auto: an idle guest gives its memory up; a program that takes more and more of it gets it
# before the kernel swaps or kills for it; when that ends the guest gives it up again. Policy static
# gives way to such a program, too. In the same guest, with no policy the program has all it needs and
# the host gets nothing; with the kernel alone, of the size that auto found, it swaps and is killed. The
# trace of it all is trace.csv and trace.svg in the test's folder of results.
#
# matrix: pv/6.12
# more: pvh/6.12 pvh/6.1 pvh/next
# timeout: 1200

. "$XENPV_TESTS/guest/balloon.sh"
bln_guest
# Less than the program takes: swapping does not save it.
ok "there is a disk to swap to" disk_attach $guest xvda phy /dev/ram0
guest_run $guest "modprobe xen-blkfront"
guest_ok $guest "the kernel swaps there" "i=0; until test -b /dev/xvda; do [ \$i -lt 50 ] || exit 1; sleep 0.2; i=\$((i+1)); done
	mkswap /dev/xvda 32768 && swapon /dev/xvda"
swapped_out() { guest_run $guest "sed -n 's/^pswpout //p' /proc/vmstat"; }

# Sampled in the guest, without a program being started for it.
trace_begin() {	# phase
	guest_bg $guest trace "rm -f /run/enough; while [ ! -e /run/enough ]; do
	read -r up _ </proc/uptime
	read -r target <$bln_memory/target_kb
	read -r current <$bln_memory/info/current_kb
	while read -r key value _; do [ \$key != MemAvailable: ] || available=\$value; done </proc/meminfo
	read -r _ _ _ _ total </proc/pressure/memory
	echo \"$1,\$up,\$target,\$current,\$available,\${total#total=}\"
	sleep 0.25
done"
}
trace=$XENPV_TEST_DIR/trace.csv
echo phase,seconds,target_kib,current_kib,available_kib,waited_us >"$trace"
trace_end() { guest_run $guest "touch /run/enough" && guest_wait $guest trace 60 >>"$trace"; }
killed_for_memory() { guest_run $guest "dmesg | grep -cE 'Out of memory|oom-kill:'"; }

free=$(host_free)
# No policy: what the host grants.
need "the daemon starts, without a policy" bln_start
boot=$(bln_status boot_kib)
swapped=$(swapped_out)
trace_begin none
guest_ok $guest "a program gets what it takes" "memory_hog $((boot / 2048)) 20 3" 180
trace_end
is "$(($(swapped_out) - swapped))" 0 "nothing was swapped"
ok "and the host has got nothing" host_free_near "$free" 2
ok "stop" bln_stop

# The rates are such that the test does not take minutes; else the defaults.
need "the daemon starts" bln_start --policy auto --settle 2000 --calm 4000 --down-rate 12288
like "$(bln_status pressure)" true "the kernel tells of pressure"
# A PV kernel counts what the host gives it, others their own part of it.
whole=$boot
[ "$TYPE" != pv ] || whole=$((bln_mib * 1024))
trace_begin auto
is_idle="[ \$(cat $bln_memory/info/current_kb) -lt $((boot * 6 / 10)) ]"
need "the idle guest gives its memory up" guest_until $guest 180 "$is_idle"
# Until it stays where it is.
settled() {
	local was=$now
	now=$(kernel_has target_kb)
	[ "$was" = "$now" ] || { sleep 3; return 1; }
}
now=0
ok "until it has what it needs" wait_for 120 settled
idle=$now
ok "the host has it" host_free_near $((free + (boot - idle) / 1024)) 4
hog=$((boot / 1024 - idle / 1024 - 30))
diag "boot size $boot KiB, idle $idle KiB; the program takes $hog MiB"
swapped=$(swapped_out)
guest_ok $guest "a program gets all of what was given" "memory_hog $hog 20 5" 180
ok "none was killed for memory" alive
swapped=$(($(swapped_out) - swapped))
ok "before it swapped: $swapped pages" test $swapped -le 256
diag "pressure told $(bln_metric xenpv_balloon_pressure_total) times, refaults $(bln_metric xenpv_balloon_refaulting_total)"
ok "the idle guest gives it up again" guest_until $guest 180 "$is_idle"
ok "all of it" kernel_near target_kb "$idle" 16384 120
swapped=$(swapped_out)
guest_ok $guest "a program gets all of it as fast as it can take it" "memory_hog $hog" 180
ok "none was killed for memory" alive
diag "$(($(swapped_out) - swapped)) pages were swapped meanwhile"
ok "and once more it is given up" kernel_near target_kb "$idle" 16384 180
trace_end
ok "stopped, it has all of it back" bln_stop
ok "all" kernel_near current_kb $whole 64

# Or what is in use with the reserve, where that is a little more.
need "a fixed size" bln_start --policy static --size "$idle"
ok "is taken" kernel_near current_kb "$idle" 8192
trace_begin static
guest_ok $guest "which gives way to what the program needs" "memory_hog $hog 20 5" 180
ok "none was killed for memory" alive
ok "and is the size again" kernel_near current_kb "$idle" 8192
trace_end
ok "stop" bln_stop

# What the kernel tells is enough: nothing is looked at by itself for a minute.
guest_run $guest "echo $idle >$bln_memory/target_kb"
ok "the guest is as small as that" kernel_near current_kb "$idle" 64
need "the daemon starts, to look only when the kernel tells" bln_start --policy auto --interval 60000 --stall 1 \
	--reserve 4096 --hysteresis 50
trace_begin pressure
guest_ok $guest "a program gets all of what was given" "memory_hog $((boot / 1024 - idle / 1024 - 30))" 180
trace_end
ok "none was killed for memory" alive
like "$(bln_metric xenpv_balloon_pressure_total)" '^[1-9]' "the kernel told of pressure"
ok "which was the reason" bln_log 'target [0-9]* KiB .pressure.'
ok "stop" bln_stop

# What this is for: the same program without it.
allow_log 'Out of memory|Call Trace|oom'
guest_run $guest "dmesg -c >/dev/null; echo $idle >$bln_memory/target_kb"
ok "the kernel alone has that size" kernel_near current_kb "$idle" 64
trace_begin kernel
swapped=$(swapped_out)
guest_not_ok $guest "the program is killed" "memory_hog $hog 20 5" 180
like "$(killed_for_memory)" '^[1-9]' "for memory"
swapped=$(($(swapped_out) - swapped))
ok "after it swapped: $swapped pages" test $swapped -ge 4096
trace_end
awk -f "$XENPV_TESTS/guest/balloon-plot.awk" "$trace" >"$XENPV_TEST_DIR/trace.svg"
is $? 0 "a chart is drawn"
