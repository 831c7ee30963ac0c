#!/usr/bin/env bash
# build-debian.sh VERSION OUT.raw: a golden image as people use them: Debian 12 with systemd, cloud-init,
# OpenSSH and Debian's kernel, for BIOS and UEFI. Needs root (mmdebstrap's chroot) and Debian's archive.
#
#   REGILD_PHONE_HOME_URL      who is told that the image runs (http://10.77.0.1:8080/agent/v1/installed)
#   REGILD_DEBIAN_PACKAGES     further packages, e.g. "nginx-light git", to make versions that differ
#   REGILD_AUTHORIZED_KEY      a public SSH key for the user debian; without it nobody can log in
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../boot-assets/debian.sh
. "$HERE/../../boot-assets/debian.sh"
# shellcheck source=gpt-image.sh
. "$HERE/gpt-image.sh"

[ $# -eq 2 ] || die "usage: build-debian.sh VERSION OUT.raw"
VERSION=$1 OUT=$2
[[ $VERSION =~ ^[A-Za-z0-9._-]+$ ]] || die "VERSION may hold letters, digits, '.', '_' and '-'"
PHONE_HOME_URL=${REGILD_PHONE_HOME_URL:-http://10.77.0.1:8080/agent/v1/installed}
need_tools mmdebstrap:mmdebstrap sgdisk:gdisk mkfs.fat:dosfstools mcopy:mtools mke2fs:e2fsprogs debugfs:e2fsprogs \
  grub-mkimage:grub-common systemctl:systemd
need_file "$GRUB_LIB/i386-pc/boot.img" grub-pc-bin
need_file "$GRUB_LIB/x86_64-efi/kernel.img" grub-efi-amd64-bin
[ "$(id -u)" = 0 ] || die "needs root: the files in the image belong to their users"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/regild-debian.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
SEED="regild debian $VERSION"
ROOT_UUID=$(stable_uuid "$SEED root filesystem")
ROOT=$WORK/root

PACKAGES=systemd-sysv,systemd-resolved,dbus,udev,kmod,iproute2,ca-certificates,curl,cloud-init,openssh-server,linux-image-amd64,zstd
for package in ${REGILD_DEBIAN_PACKAGES:-}; do PACKAGES+=,$package; done

step "Debian 12 by mmdebstrap"
# Through a tar archive: mmdebstrap cuts its times at SOURCE_DATE_EPOCH there, and only there.
mmdebstrap --quiet --mode=root --variant=minbase --include="$PACKAGES" \
  --aptopt='Acquire::Retries "3"' --aptopt='APT::Install-Recommends "false"' \
  bookworm "$WORK/root.tar" >&2 || die "mmdebstrap failed; see above"
mkdir "$ROOT"
tar --extract --file="$WORK/root.tar" --directory="$ROOT" --numeric-owner --xattrs --xattrs-include='*'
rm "$WORK/root.tar"

step "configuration of debian:$VERSION"
printf '%s\n' "$VERSION" >"$ROOT/etc/regild-image"
printf '%s\n' "$PHONE_HOME_URL" >"$ROOT/etc/regild-phone-home"
printf 'UUID=%s / ext4 errors=remount-ro 0 1\n' "$ROOT_UUID" >"$ROOT/etc/fstab"
# What must differ between machines is made at the first boot: identity is never part of a golden image.
# "uninitialized" makes systemd treat that boot as the first one.
echo uninitialized >"$ROOT/etc/machine-id"
rm -f "$ROOT"/etc/ssh/ssh_host_* "$ROOT"/var/lib/dbus/machine-id "$ROOT/etc/hostname"
install -m 644 "$HERE/debian/cloud.cfg" "$ROOT/etc/cloud/cloud.cfg.d/90_regild.cfg"
install -m 755 "$HERE/debian/phone-home" "$ROOT/usr/local/sbin/regild-phone-home"
install -m 644 "$HERE/debian/phone-home.service" "$ROOT/etc/systemd/system/regild-phone-home.service"
ln -s ../regild-phone-home.service "$ROOT/etc/systemd/system/multi-user.target.wants/regild-phone-home.service"
install -m 644 "$HERE/debian/80-dhcp.network" "$ROOT/etc/systemd/network/80-dhcp.network"
# Debian installs systemd-networkd switched off.
systemctl --quiet --root="$ROOT" enable systemd-networkd.service
# The NoCloud seed lies in the image: a machine without any cloud has nobody else to ask.
nocloud=$ROOT/var/lib/cloud/seed/nocloud
mkdir -p "$nocloud"
printf 'instance-id: debian-%s\n' "$VERSION" >"$nocloud/meta-data"
{
  # The host name is the DHCP server's to give. (A user-data file without any key makes cloud-init complain.)
  printf '#cloud-config\npreserve_hostname: true\n'
  [ -z "${REGILD_AUTHORIZED_KEY:-}" ] || printf 'ssh_authorized_keys:\n  - %s\n' "$REGILD_AUTHORIZED_KEY"
} >"$nocloud/user-data"
find "$ROOT" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

step "disk image"
mkdir -p "$WORK/esp/grub" "$(dirname "$OUT")"
KERNEL=$(basename "$ROOT"/boot/vmlinuz-*)
sed -e "s/@VERSION@/$VERSION/g" -e "s/@ROOT_UUID@/$ROOT_UUID/g" -e "s/@KERNEL@/$KERNEL/g" \
  -e "s/@INITRD@/initrd.img-${KERNEL#vmlinuz-}/g" "$HERE/debian/grub.cfg" >"$WORK/esp/grub/grub.cfg"
PART=$OUT.part
partition_table "$PART" 3072 "$SEED"
install_bios_grub "$PART" "$WORK"
make_esp "$PART" "$WORK" "$SEED"
make_root "$PART" "$WORK" "$SEED" "$ROOT_UUID"
mv "$PART" "$OUT"
step "$OUT: debian:$VERSION, $(($(stat -c %s "$OUT") / 1048576)) MiB, $(du -m "$OUT" | cut -f1) MiB of it data"
