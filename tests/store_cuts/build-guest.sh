#!/usr/bin/env bash
# build-guest.sh DIRECTORY BINARY: kernel and initramfs of the power cuts' guest: busybox, the drivers of a virtio disk
# with ext4 on it, and the test binary with the libraries that it is linked to (so nothing is built a second time).
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../boot-assets/debian.sh
. "$HERE/../../boot-assets/debian.sh"

OUT=$1 BINARY=$2
need_tools cpio:cpio zstd:zstd depmod:kmod strip:binutils ldd:libc-bin qemu-system-x86_64:qemu-system-x86 \
  mkfs.ext4:e2fsprogs debugfs:e2fsprogs
need_file /bin/busybox busybox-static

root=$OUT/root
mkdir -p "$root"/{bin,dev,proc,sys,sbin,disk}
install -m 755 /bin/busybox "$root/bin/busybox"
for applet in sh mount modprobe; do ln -s busybox "$root/bin/$applet"; done
# Where the kernel looks for it: ext4 asks for crc32c by name.
ln -s ../bin/busybox "$root/sbin/modprobe"
install -m 755 "$HERE/guest-init" "$root/init"
strip -o "$root/bin/store_cuts" "$BINARY"
# "NAME => /PATH (ADDRESS)", and the loader by its path alone. A static binary has none.
{ ldd "$BINARY" || true; } | grep -o '/[^ ]*' | while read -r library; do
  install -D -m 755 "$library" "$root$library"
done
tree=$(module_tree)
copy_modules "$tree" "$root" virtio_pci virtio_blk ext4 crc32c_generic
# Made for one run: quick before small.
INITRAMFS_ZSTD_LEVEL=-1 pack_initramfs "$root" "$OUT/initrd.img"
install -m 644 "$tree"/boot/vmlinuz-* "$OUT/vmlinuz"
rm -r "$root"
