# shellcheck shell=bash disable=SC2154,SC2016
# SPDX-License-Identifier: BSD-2-Clause
#
# Is the laboratory sound? Vector registers must survive in dom0 and in a guest
# while both are busy with them. If this fails, no other result means anything:
# look at the emulator and at the CPU flags in tests/guest/run.
#
# matrix: pv/6.12 pvh/6.12

need "a $TYPE guest starts" guest_need g1 "$TYPE" "$KERNEL"
guest_ok g1 "a command's output and status come back" '[ "$(echo a b)" = "a b" ]'
guest_run g1 'exit 42'
is $? 42 "the exit status is the command's"
is "$(guest_run g1 'printf "one\ntwo"')" $'one\ntwo' "output comes to the byte"
guest_bg g1 simd 'simd-stress 10 2'
ok "SIMD registers survive in dom0" simd-stress 10 2
ok "SIMD registers survive in the guest" guest_wait g1 simd 30
for node in evtchn gntdev gntalloc privcmd xenbus; do
	guest_ok g1 "/dev/xen/$node is there" "test -e /dev/xen/$node"
done
