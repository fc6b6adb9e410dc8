# shellcheck shell=bash disable=SC2154,SC2016
# SPDX-License-Identifier: BSD-2-Clause
#
# xl mem-set down and up, what the host then has free, targets that are too low, too high, garbage,
# thousands, those of others; killed. Then, in a PVH guest, hypercalls in place of the kernel's
# balloon: the same, and killed with memory out.
#
# matrix: pvh/6.12
# more: pv/6.12 pvh/6.1 pvh/next
# timeout: 1200

. "$XENPV_TESTS/guest/balloon.sh"
bln_guest xen_privcmd.unrestricted=1
need "the daemon starts" bln_start
boot=$(bln_status boot_kib) floor=$(bln_status floor_kib)
offset=0
[ "$TYPE" = pv ] || offset=$((bln_mib * 1024 - boot))
free=$(host_free)
diag "boot size $boot KiB, offset $offset, floor $floor, host has $free MiB free"

mem_set 300
ok "mem-set down" kernel_near current_kb $((300 * 1024 - offset)) 64
ok "the host has so much more" host_free_near $((free + bln_mib - 300)) 4
mem_set $bln_mib
ok "mem-set up" kernel_near current_kb $((bln_mib * 1024 - offset)) 64
ok "the host has so much less" host_free_near "$free" 4
ok "the guest is alive" alive

mem_set 64
ok "less than it can give: it gives what it can" bln_log '\((floor|host)\)'
ok "and no more" guest_until $guest 60 \
	"v=\$(cat $bln_memory/info/current_kb); echo \$v; [ \$v -ge $floor ] && [ \$v -lt $((200 * 1024)) ] &&
	[ \$(cat $bln_memory/target_kb) -ge $floor ]"
ok "the guest is alive" alive
mem_set $bln_mib
ok "and has its memory back" kernel_near current_kb $((bln_mib * 1024 - offset)) 64

say() { xenstore-write -- "$bln_xenstore/memory/target" "$1"; }
for garbage in '' -1 x '1e9' $'\xff' '12x' 0; do
	say "$garbage"
done
say 340000
ok "garbage, then a target" kernel_near current_kb $((340000 - offset)) 64
ok "the guest is alive" alive
like "$(bln_metric xenpv_balloon_host_nonsense_total)" '^[1-9][0-9]*$' "garbage is counted"
say 99999999999
ok "more than there is: all there is" kernel_near target_kb $((bln_mib * 1024 - offset)) 64
ok "which it gets" kernel_near current_kb $((bln_mib * 1024 - offset)) 64

# Two thousand, by two writers, as fast as the store takes them.
many() { store_flood $bln_xenstore/memory/target 200000 380000 1000; }
seen=$(bln_metric xenpv_balloon_host_targets_total)
many & first=$!
ok "two thousand targets" many
ok "of two writers" wait $first
say 300000
ok "then one more" kernel_near current_kb $((300000 - offset)) 64
ok "the guest is alive" alive
diag "of the 2001 the daemon has read $(($(bln_metric xenpv_balloon_host_targets_total) - seen))"
targets=$(bln_targets)
sleep 6
is "$(bln_targets)" "$targets" "with nothing to do, nothing is done"

# One that writes another target five times a second is answered ever more seldom.
answered=$(bln_metric xenpv_balloon_overridden_total)
guest_bg $guest writer "while [ ! -e /run/stop-writer ]; do echo 250000 >$bln_memory/target_kb; usleep 200000; done"
sleep 8
answered=$(($(bln_metric xenpv_balloon_overridden_total) - answered))
ok "another writer is answered, and not each time: $answered of 40" test $answered -ge 1 -a $answered -le 6
guest_run $guest "touch /run/stop-writer"
ok "and when it stops it was in vain" kernel_near target_kb $((300000 - offset)) 8 120
ok "killed" bln_kill
ok "the guest is alive" alive
need "the daemon starts again" bln_start
ok "and goes on" kernel_near target_kb $((300000 - offset)) 8
mem_set $bln_mib
ok "up" kernel_near current_kb $((bln_mib * 1024 - offset)) 64
like "$(xenstore-read "$bln_xenstore/data/meminfo_total")" '^[1-9][0-9]*$' "the host is told"
ok "stop" bln_stop

# --- hypercalls -----------------------------------------------------------------

if [ "$TYPE" = pv ]; then
	like "$(guest_run $guest "xen-balloond -c /dev/null --mechanism privcmd 2>&1")" "PVH and HVM" \
		"hypercalls are not for PV guests"
	finish
fi
free=$(host_free) size=320
out_near() { kernel_near current_kb "$boot" "${2:-64}" && host_free_near $((free + $1)) 4; }
need "hypercalls: the daemon starts" bln_start --mechanism privcmd --policy static --size $((size * 1024))
is "$(bln_status mechanism)" privcmd "by hypercalls"
gone=$((boot / 1024 - size))
ok "memory goes, past the kernel's balloon" out_near $gone
ok "the guest is alive" alive
# The rest is in use to the last page, nearly, and holds what is written to it.
fill() { guest_ok $guest "$1" 'memory_hog $(($(sed -n "s/^MemAvailable: *\([0-9]*\).*/\1/p" /proc/meminfo) / 1024 - 20))' 120; }
fill "all memory that is left works"
# Whatever the size asked for, a program gets what it needs.
ok "and what it was given for that is taken again" out_near $gone
# The kernel's balloon hears the host, too, and is kept from giving the same once more, or too much. What
# it gives until then it cannot have back before the host grants more.
mem_set 300
ok "mem-set below that" out_near $((bln_mib - 300)) 8192
mem_set 64
sleep 3
ok "and below what it can give: the kernel's keeps out of it" kernel_near target_kb "$boot" 64
ok "and no more than to the floor" test "$(host_free)" -le $((free + (boot - floor) / 1024 + 2))
ok "the guest is alive" alive
mem_set $bln_mib
ok "mem-set up" out_near $gone
ok "killed" bln_kill
ok "what is out stays out" out_near $gone
fill "and all that is left works"
ok "the guest is alive" alive
guest_ok $guest "the pages have an owner" 'ls /run/xenpv/balloon | wc -l | grep -qx '$(((gone) / 2))
need "the daemon starts again" bln_start --mechanism privcmd --policy static --size $((bln_mib * 1024))
ok "knows of them" bln_log 'are out since before the start'
ok "and takes all back" out_near 0
guest_ok $guest "none is left" '[ -z "$(ls /run/xenpv/balloon)" ]'
fill "all of it works"
ok "stop" bln_stop
for round in 1 2 3 4; do
	need "start $round" bln_start --mechanism privcmd --policy static --size $((size * 1024))
	sleep "0.$((RANDOM % 10))" # at any moment
	bln_kill
done
ok "killed at any moment: the guest is alive" alive
fill "and all that is left works"
need "the daemon starts once more" bln_start --mechanism privcmd --policy static --size $((bln_mib * 1024))
ok "and takes all back" out_near 0
ok "stop" bln_stop
fill "all of it works"
ok "the guest is alive" alive

# Stopped while the host grants less: no page of ours stays out, the kernel gives in their place.
need "the daemon starts once more" bln_start --mechanism privcmd --policy manual
mem_set 340
ok "mem-set" out_near $((bln_mib - 340)) 8192
ok "stop" bln_stop
guest_ok $guest "none is left" '[ -z "$(ls /run/xenpv/balloon)" ]'
ok "the host has what it asked for" host_free_near $((free + bln_mib - 340)) 4
ok "the guest is alive" alive
