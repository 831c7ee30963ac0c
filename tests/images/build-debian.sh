#!/usr/bin/env bash
# build-debian.sh VERSION OUT.raw: a golden image as people use them: Debian 12 with systemd, cloud-init,
# OpenSSH and Debian's kernel, for BIOS and UEFI. Needs root (mmdebstrap's chroot) and Debian's archive.
#
#   REGILD_DEBIAN_PACKAGES     further packages, e.g. "nginx-light git", to make versions that differ
#   REGILD_AUTHORIZED_KEY      a public SSH key for the user debian (who may use sudo); without it nobody can log in
#
# The image knows no server: it tells the one that its DHCP lease came from that it runs (debian/regild-installed).
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../boot-assets/debian.sh
. "$HERE/../../boot-assets/debian.sh"
# shellcheck source=gpt-image.sh
. "$HERE/gpt-image.sh"

[ $# -eq 2 ] || die "usage: build-debian.sh VERSION OUT.raw"
VERSION=$1 OUT=$2
[[ $VERSION =~ ^[A-Za-z0-9._-]+$ ]] || die "VERSION may hold letters, digits, '.', '_' and '-'"
need_tools mmdebstrap:mmdebstrap sgdisk:gdisk mkfs.fat:dosfstools mcopy:mtools mke2fs:e2fsprogs debugfs:e2fsprogs \
  grub-mkimage:grub-common
need_file "$GRUB_LIB/i386-pc/boot.img" grub-pc-bin
need_file "$GRUB_LIB/x86_64-efi/kernel.img" grub-efi-amd64-bin
[ "$(id -u)" = 0 ] || die "needs root: the files in the image belong to their users"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/regild-debian.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
SEED="regild debian $VERSION"
ROOT_UUID=$(stable_uuid "$SEED root filesystem")
ROOT=$WORK/root

PACKAGES=systemd-sysv,systemd-resolved,dbus,udev,kmod,iproute2,ca-certificates,curl,cloud-init,openssh-server,sudo,linux-image-amd64,zstd
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
printf 'UUID=%s / ext4 errors=remount-ro 0 1\n' "$ROOT_UUID" >"$ROOT/etc/fstab"
# What must differ between machines is made at the first boot: identity is never part of a golden image. An empty
# machine-id is filled in then. ("uninitialized" would also ask systemd for its first boot: presets, which on Debian
# switch on everything that is installed, and a wizard on the console.)
: >"$ROOT/etc/machine-id"
rm -f "$ROOT"/etc/ssh/ssh_host_* "$ROOT"/var/lib/dbus/machine-id "$ROOT/etc/hostname"
install -m 644 "$HERE/debian/cloud.cfg" "$ROOT/etc/cloud/cloud.cfg.d/90_regild.cfg"
install -m 755 "$HERE/debian/regild-installed" "$ROOT/usr/local/sbin/regild-installed"
install -m 644 "$HERE/debian/regild-installed.service" "$ROOT/etc/systemd/system/regild-installed.service"
install -m 644 "$HERE/debian/80-dhcp.network" "$ROOT/etc/systemd/network/80-dhcp.network"
install -D -m 644 "$HERE/debian/wait-online.conf" \
  "$ROOT/etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf"
# By the image's own systemctl, so that the machine that builds need not have systemd. Debian installs networkd
# switched off. Timers: a golden image changes by a new version and not by itself, and it has no LVM to scrub.
chroot "$ROOT" systemctl --quiet --root=/ enable systemd-networkd.service regild-installed.service
chroot "$ROOT" systemctl --quiet --root=/ disable apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
  e2scrub_reap.service
# Accounts are part of the golden image. Made by cloud-init at the first boot they would change /etc/passwd and /etc/shadow,
# and sudo's rules, on every machine: just what drift detection must never take for harmless.
chroot "$ROOT" useradd --create-home --shell /bin/bash --groups adm,sudo debian
# No password, but not locked either: sshd refuses a locked account whatever key it shows.
chroot "$ROOT" usermod --password '*' debian
chroot "$ROOT" chage --lastday "$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)" debian
printf 'debian ALL=(ALL) NOPASSWD:ALL\n' >"$ROOT/etc/sudoers.d/debian"
chmod 440 "$ROOT/etc/sudoers.d/debian"
if [ -n "${REGILD_AUTHORIZED_KEY:-}" ]; then
  chroot "$ROOT" install -d -m 700 -o debian -g debian /home/debian/.ssh
  printf '%s\n' "$REGILD_AUTHORIZED_KEY" >"$ROOT/home/debian/.ssh/authorized_keys"
  chroot "$ROOT" chown debian:debian /home/debian/.ssh/authorized_keys
  chmod 600 "$ROOT/home/debian/.ssh/authorized_keys"
fi
# cloud-init makes this file at the first boot, empty, where it is missing. It says who logs in as root: in the image.
install -d -m 700 "$ROOT/root/.ssh"
install -m 600 /dev/null "$ROOT/root/.ssh/authorized_keys"
# The NoCloud seed lies in the image: a machine without any cloud has nobody else to ask.
nocloud=$ROOT/var/lib/cloud/seed/nocloud
mkdir -p "$nocloud"
printf 'instance-id: debian-%s\n' "$VERSION" >"$nocloud/meta-data"
# The host name is not the image's: cloud-init leaves it alone. (A user-data file without any key makes it complain.)
printf '#cloud-config\npreserve_hostname: true\n' >"$nocloud/user-data"
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
