#!/usr/bin/env bash
# build.sh [OUT]: everything that a machine gets from us before it has an operating system, into OUT
# (target/boot-assets by default). SHA256SUMS is written last: where it is, the rest is complete.
#
#   vmlinuz          Debian's kernel, as signed by Debian
#   initrd.img       the deploy environment: busybox, drivers, /init and the agent
#   ipxe.efi         network boot loader for UEFI, with drivers of its own
#   snponly.efi      the same, using the firmware's driver of the NIC that it was loaded from
#   undionly.kpxe    the same for BIOS, using the NIC's option ROM
#   local-boot.efi   boots the local disk of a UEFI machine (local-boot.cfg)
#
# The same sources and the same Debian packages give the same bytes.
#
#   REGILD_AGENT=FILE          take this agent instead of building one
#   REGILD_BUILD_CACHE=DIR     where unpacked Debian packages are kept (target/cache)
#   INITRAMFS_ZSTD_LEVEL=-3    quicker, larger; for trials
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=debian.sh
. "$HERE/debian.sh"
# shellcheck source=agent.sh
. "$HERE/agent.sh"

OUT=${1:-$REPOSITORY/target/boot-assets}
need_tools cpio:cpio zstd:zstd depmod:kmod modinfo:kmod apt-get:apt dpkg-deb:dpkg flock:util-linux \
  grub-mkimage:grub-common tar:tar sha256sum:coreutils
need_file /bin/busybox busybox-static
need_file /usr/lib/ipxe/ipxe.efi ipxe
need_file /usr/lib/grub/x86_64-efi/chain.mod grub-efi-amd64-bin

WORK=$(mktemp -d "${TMPDIR:-/tmp}/regild-boot-assets.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# Words of a list file, without its comments.
listed() { sed 's/#.*//' "$HERE/$1" | xargs -n 1; }

# Some NICs and controllers do not start without a file from their maker. Those that a module of ours asks for
# and that are in the packages of firmware.list are taken along; Debian keeps them in the component
# non-free-firmware, which may not be enabled here, so a missing package is told and not an error.
add_firmware() {
  local package module name directories=()
  while read -r package; do
    if [ -n "$(candidate "$package")" ]; then
      directories+=("$(unpacked "$package")/lib/firmware")
    else
      step "no package $package (enable Debian's non-free-firmware to have it): its cards may not work"
    fi
  done < <(listed firmware.list)
  [ ${#directories[@]} -gt 0 ] || return 0
  find "$WORK/initramfs/lib/modules" -name '*.ko' | sort | while read -r module; do
    modinfo -F firmware "$module"
  done | sort -u | while read -r name; do
    for package in "${directories[@]}"; do
      if [ -e "$package/$name" ]; then
        install -D -m 644 "$package/$name" "$WORK/initramfs/lib/firmware/$name"
      fi
    done
  done
}

make_initramfs() {
  local applet root=$WORK/initramfs modules
  mkdir -p "$root"/{bin,dev,etc,proc,run,sys,tmp,sbin}
  install -m 755 /bin/busybox "$root/bin/busybox"
  for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  # Where the kernel looks for it when one module asks for another by name (a NIC for its PHY).
  ln -s ../bin/busybox "$root/sbin/modprobe"
  # /dev/console before devtmpfs is mounted is the kernel's own: it makes one in its built-in initramfs.
  install -m 755 "$HERE/init" "$root/init"
  install -m 755 "$HERE/udhcpc.script" "$root/etc/udhcpc.script"
  install -m 755 "$AGENT" "$root/bin/regild-agent"
  mapfile -t modules < <(listed modules.list)
  copy_modules "$KERNEL" "$root" "${modules[@]}"
  add_firmware
  pack_initramfs "$root" "$WORK/out/initrd.img"
}

# A GRUB that carries its modules and its configuration in itself, so that no further file is asked of the
# network. What grub-mkstandalone does, in two steps: its own archive has the time of the build in it.
make_local_boot() {
  mkdir -p "$WORK/memdisk/boot/grub"
  install -m 644 "$HERE/local-boot.cfg" "$WORK/memdisk/boot/grub/grub.cfg"
  tar --create --file="$WORK/memdisk.tar" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
    --owner=0 --group=0 --numeric-owner -C "$WORK/memdisk" boot
  grub-mkimage -O x86_64-efi -o "$WORK/out/local-boot.efi" -m "$WORK/memdisk.tar" -p '(memdisk)/boot/grub' \
    memdisk tar part_gpt part_msdos fat regexp chain echo sleep test reboot normal
}

mkdir -p "$WORK/out"
AGENT=${REGILD_AGENT:-}
if [ -z "$AGENT" ]; then
  step "building the agent"
  build_agent
fi
[ -x "$AGENT" ] || die "no agent at $AGENT"
KERNEL=$(module_tree)
step "deploy environment with $(basename "$KERNEL")"
install -m 644 "$KERNEL"/boot/vmlinuz-* "$WORK/out/vmlinuz"
make_initramfs
step "boot loaders"
install -m 644 /usr/lib/ipxe/{ipxe.efi,snponly.efi,undionly.kpxe} "$WORK/out/"
make_local_boot

# No SHA256SUMS while the rest is being replaced; each file by rename, so that a server that reads them at
# this moment has the old or the new one.
mkdir -p "$OUT"
rm -f "$OUT/SHA256SUMS"
(cd "$WORK/out" && sha256sum -- * >SHA256SUMS)
for file in "$WORK"/out/*; do
  name=$(basename "$file")
  [ "$name" = SHA256SUMS ] || { cp "$file" "$OUT/.$name.part" && mv "$OUT/.$name.part" "$OUT/$name"; }
done
cp "$WORK/out/SHA256SUMS" "$OUT/.SHA256SUMS.part"
mv "$OUT/.SHA256SUMS.part" "$OUT/SHA256SUMS"
step "$OUT: initramfs $(($(stat -c %s "$OUT/initrd.img") / 1024)) KiB, agent $(($(stat -c %s "$AGENT") / 1024)) KiB"
