# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# The kernel's own frontend and backend do what the other tests ask of ours: a failure here is none
# of xenpv's.

at_end "modprobe -r xen-blkfront" # after what follows has let go of the disk
. "$XENPV_TESTS/xen/blkfront.sh"
need "the kernel's frontend loads" modprobe xen-blkfront
need "a disk is attached" disk_attach Domain-0 xvda phy /dev/ram0
need "it appears" wait_for 30 test -b /dev/xvda
is "$(disk_state Domain-0 xvda)" 4/4 "both ends are connected"
ok "a file system is made" mkfs.ext4 -q -F /dev/xvda 32M
ok "and mounted" mount /dev/xvda /mnt
ok "random mixed I/O at depth 32 is right" fio_verify /mnt/f --size=4M
ok "unmount" umount /mnt
ok "fsck finds nothing" fsck.ext4 -f -n /dev/xvda
ok "the backing store holds what was written" same_bytes /dev/ram0 /dev/xvda
ok "detach" disk_detach Domain-0 xvda
ok "it is gone" wait_for 30 test ! -e /dev/xvda
