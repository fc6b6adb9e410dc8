# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A guest boots from a disk of xen-blkbackd: GRUB's own frontend reads kernel and initial ramdisk
# from it, and the root file system is on it.
#
# Of our kernels, 6.1 alone is compressed in a way that this GRUB knows.
# matrix: pv/6.1

. "$XENPV_TESTS/guest/blkback.sh"
grub=/usr/lib/grub-xen/grub-x86_64-xen.bin
[ -e $grub ] || skip "there is no $grub (scripts/setup)"
busybox=$(command -v busybox)
kernel=/xenpv/pkg/kernel/$KERNEL
work=/run/bench/boot

make_initrd() {
	local root=$work/initrd module
	mkdir -p $root/{bin,dev,proc,root,modules}
	cp "$busybox" $root/bin/busybox
	for module in crc32c_generic xen-blkfront ext4; do
		modprobe -d "$kernel" -S "$(cat "$kernel/release")" --show-depends $module
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
		cp "$module" $root/modules/ && echo "/modules/${module##*/}"
	done >$root/modules.list
	cat >$root/init <<-'INIT'
	#!/bin/busybox sh
	/bin/busybox --install -s /bin
	export PATH=/bin
	mount -t devtmpfs dev /dev
	while read -r module; do insmod "$module"; done </modules.list
	i=0; until [ -b /dev/xvda ] || [ $i -ge 300 ]; do sleep 0.1; i=$((i + 1)); done
	mount -t ext4 /dev/xvda /root && exec switch_root /root /init
	INIT
	chmod +x $root/init
	(cd $root && find . -mindepth 1 | cpio -o -H newc -R 0:0 --quiet | gzip -1)
}

make_image() {	# file
	local root=$work/root name
	mkdir -p $root/{bin,dev,etc,boot/grub}
	cp "$busybox" $root/bin/busybox
	for name in $("$busybox" --list); do
		[ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
	done
	cp "$XENPV_TESTS/guest/image/init" $root/init
	cp "$(command -v guestagent)" $root/bin/ || return
	echo from-our-disk >$root/etc/hostname
	cp "$kernel/vmlinuz" $root/boot/
	make_initrd >$root/boot/initrd || return
	cat >$root/boot/grub/grub.cfg <<-'GRUB'
	linux /boot/vmlinuz console=hvc0 quiet loglevel=4 mitigations=off panic=1
	initrd /boot/initrd
	boot
	GRUB
	truncate -s 48M "$1"
	# What this GRUB's ext2 knows.
	mke2fs -q -t ext4 -O ^orphan_file,^metadata_csum_seed -d $root "$1"
}

rm -rf $work
need "there is a file system for images" back_images
need "a bootable image is made" make_image $images/boot
ok "the daemon starts" back_start
need "a guest boots from it" guest_start $guest "$TYPE" boot=$grub \
	config="disk = [ 'vdev=xvda,format=raw,access=rw,script=$block_xenpv,target=$images/boot' ]"
is "$(guest_run $guest "cat /etc/hostname")" from-our-disk "its root is the image's"
guest_ok $guest "on our disk" "grep '^/dev/xvda / ext4 rw' /proc/mounts"
is "$(disk_state $guest xvda)" 4/4 "both ends are connected"
guest_ok $guest "it writes" "dd if=/dev/zero of=/big bs=64k count=64; sync; echo written >/etc/marker; sync"
kill -9 "$(back_pid)"
guest_ok $guest "it writes on when the daemon was killed" "echo again >>/etc/marker; sync" 60
guest_stop $guest
ok "the guest is destroyed, the disk gone" wait_for 20 back_idle
mkdir -p /mnt/look
modprobe loop
ok "dom0 can mount the image" mount -o loop $images/boot /mnt/look
is "$(tr '\n' ' ' </mnt/look/etc/marker)" "written again " "it has what the guest wrote"
umount /mnt/look
rm -rf $work
ok "the daemon ends" back_stop
