#!/usr/bin/env bash
# build-tiny.sh VERSION OUT.raw: a small golden image of real parts (Debian's kernel, modules, busybox and
# GRUB), which boots on BIOS and UEFI in seconds even without KVM and phones home when it is up.
# The same VERSION gives the same bytes; another VERSION differs in some files, as releases do. One that ends in
# -sick is a bad release: it boots and phones home as the others do, but answers its health check with 500.
#
#   REGILD_STANDBY_AGENT=FILE    the image runs this agent as a service (power driver "agent"), under busybox init
#   REGILD_STANDBY_OPTIONS=...   what the agent is started with besides
#   REGILD_WATCH_AGENT=FILE      the image runs this agent as a service that compares it with itself, under busybox init
#   REGILD_WATCH_OPTIONS=...     what that one is started with besides
#   REGILD_ROOT=xfs              the root file system is xfs, and not the same bytes every time
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../boot-assets/debian.sh
. "$HERE/../../boot-assets/debian.sh"
# shellcheck source=gpt-image.sh
. "$HERE/gpt-image.sh"

[ $# -eq 2 ] || die "usage: build-tiny.sh VERSION OUT.raw"
VERSION=$1 OUT=$2
[[ $VERSION =~ ^[A-Za-z0-9._-]+$ ]] || die "VERSION may hold letters, digits, '.', '_' and '-'"
need_tools sgdisk:gdisk mkfs.fat:dosfstools mcopy:mtools mke2fs:e2fsprogs debugfs:e2fsprogs \
  grub-mkimage:grub-common cpio:cpio zstd:zstd depmod:kmod apt-get:apt dpkg-deb:dpkg
need_file /bin/busybox busybox-static
need_file "$GRUB_LIB/i386-pc/boot.img" grub-pc-bin
need_file "$GRUB_LIB/x86_64-efi/kernel.img" grub-efi-amd64-bin

WORK=$(mktemp -d "${TMPDIR:-/tmp}/regild-tiny.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
SEED="regild tiny $VERSION"
ROOT_UUID=$(stable_uuid "$SEED root filesystem")
ROOT_FORMAT=${REGILD_ROOT:-ext4}
[ "$ROOT_FORMAT" != xfs ] || need_tools mkfs.xfs:xfsprogs

KERNEL=$(module_tree)
KERNEL_VERSION=$(basename "$KERNEL"/lib/modules/*)
MODULES=$KERNEL/lib/modules/$KERNEL_VERSION

step "root file system of tiny:$VERSION"
ROOT=$WORK/root
mkdir -p "$ROOT"/{bin,sbin,dev,proc,sys,run,tmp,etc,mnt,usr/share/doc,"lib/modules/$KERNEL_VERSION/kernel"}
install -m 755 /bin/busybox "$ROOT/bin/busybox"
for applet in sh mount ip udhcpc wget timeout sleep cat sed head modprobe poweroff reboot ls ps dmesg httpd; do
  ln -s busybox "$ROOT/bin/$applet"
done
install -m 755 "$HERE/tiny/init" "$ROOT/sbin/init"
install -m 755 "$HERE/tiny/udhcpc.script" "$ROOT/etc/udhcpc.script"
printf '%s\n' "$VERSION" >"$ROOT/etc/regild-image"
health="200 OK"
[[ $VERSION != *-sick ]] || health="500 Internal Server Error"
mkdir -p "$ROOT/srv/cgi-bin"
sed -e "s/@HEALTH@/$health/" -e "s/@VERSION@/$VERSION/" "$HERE/tiny/health" >"$ROOT/srv/cgi-bin/health"
chmod 755 "$ROOT/srv/cgi-bin/health"
AGENT=${REGILD_STANDBY_AGENT:-${REGILD_WATCH_AGENT:-}}
if [ -n "$AGENT" ]; then
  mv "$ROOT/sbin/init" "$ROOT/sbin/phone-home"
  ln -s ../bin/busybox "$ROOT/sbin/init"
  ln -s busybox "$ROOT/bin/echo"
  install -m 755 "$AGENT" "$ROOT/bin/regild-agent"
  install -m 644 "$HERE/tiny/inittab" "$ROOT/etc/inittab"
fi
if [ -n "${REGILD_STANDBY_AGENT:-}" ]; then
  install -m 755 "$HERE/tiny/standby" "$ROOT/sbin/standby"
  printf '::respawn:/sbin/standby\n' >>"$ROOT/etc/inittab"
  printf '%s\n' "${REGILD_STANDBY_OPTIONS:-}" >"$ROOT/etc/regild-standby"
fi
if [ -n "${REGILD_WATCH_AGENT:-}" ]; then
  install -m 755 "$HERE/tiny/watch" "$ROOT/sbin/watch"
  install -m 755 "$HERE/tiny/shell" "$ROOT/sbin/shell"
  printf '::respawn:/sbin/watch\n::respawn:/sbin/shell\n' >>"$ROOT/etc/inittab"
  printf '%s\n' "${REGILD_WATCH_OPTIONS:-}" >"$ROOT/etc/regild-watch"
  # Where its state lies; the rest of the image is mounted read-only until it runs.
  mkdir -p "$ROOT/var/lib/regild-agent" "$ROOT/root"
  chmod 700 "$ROOT/var/lib/regild-agent"
fi
cat >"$ROOT/etc/os-release" <<RELEASE
ID=regild-tiny
NAME="regild tiny golden image"
VERSION_ID=$VERSION
PRETTY_NAME="regild tiny golden image $VERSION"
RELEASE
# Real content to move, of the kind and size distribution that an image has: about 80 MB of modules.
# Every version leaves out two of the file-system modules and two of the net modules of its own choice (by
# the version's digest), so that between versions files come, go and lie elsewhere. (Not `head`: it leaves while sort
# still writes, and pipefail then ends the build now and again.)
CONTENT=(fs net lib crypto drivers/md)
(cd "$MODULES/kernel" && find "${CONTENT[@]}" -type f | sort) >"$WORK/all"
for family in fs net; do
  grep "^$family/" "$WORK/all" | while read -r file; do
    printf '%s %s\n' "$(printf '%s' "$VERSION $file" | cksum | cut -d' ' -f1)" "$file"
  done | sort | sed -n '1,2p' | cut -d' ' -f2
done >"$WORK/left-out"
grep -vxFf "$WORK/left-out" "$WORK/all" |
  (cd "$MODULES/kernel" && cpio --quiet --pass-through --make-directories "$ROOT/lib/modules/$KERNEL_VERSION/kernel")
cp -r /usr/share/doc/busybox-static "$ROOT/usr/share/doc/" 2>/dev/null || true
find "$ROOT" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

step "kernel and initramfs"
mkdir -p "$WORK/initramfs"/{bin,dev,proc,sys,root} "$WORK/esp/grub"
install -m 755 /bin/busybox "$WORK/initramfs/bin/busybox"
install -m 755 "$HERE/tiny/initramfs-init" "$WORK/initramfs/init"
copy_modules "$KERNEL" "$WORK/initramfs" virtio_pci virtio_blk virtio_scsi virtio_net virtio_rng nvme ahci ata_piix sd_mod \
  e1000 e1000e ext4 "$ROOT_FORMAT" crc32c_generic crc32c_intel
INITRAMFS_ZSTD_LEVEL=-10 pack_initramfs "$WORK/initramfs" "$WORK/esp/initrd.img"
install -m 644 "$KERNEL/boot/vmlinuz-$KERNEL_VERSION" "$WORK/esp/vmlinuz"
sed -e "s/@VERSION@/$VERSION/g" -e "s/@ROOT_UUID@/$ROOT_UUID/g" "$HERE/tiny/grub.cfg" >"$WORK/esp/grub/grub.cfg"

step "disk image"
mkdir -p "$(dirname "$OUT")"
PART=$OUT.part
partition_table "$PART" 768 "$SEED"
install_bios_grub "$PART" "$WORK"
make_esp "$PART" "$WORK" "$SEED"
case $ROOT_FORMAT in
  ext4) make_root "$PART" "$WORK" "$SEED" "$ROOT_UUID" ;;
  xfs) make_xfs_root "$PART" "$WORK" "$ROOT_UUID" ;;
  *) die "REGILD_ROOT may be ext4 or xfs" ;;
esac
mv "$PART" "$OUT"
step "$OUT: tiny:$VERSION, $(($(stat -c %s "$OUT") / 1048576)) MiB, $(du -m "$OUT" | cut -f1) MiB of it data"
