#!/usr/bin/env bash
# build-images.sh DIRECTORY: the images that `make bench-image` measures on, each Debian 12 by mmdebstrap into an ext4 of
# its own, made from nothing, in a disk of 3 GiB:
#
#   old.raw     of the last point release alone
#   base.raw    the same packages with security and stable updates: another kernel, other libraries
#   more.raw    as base.raw, with four packages more
#   NEW-FILES   for each pair (old-base, base-more): how many files of the second the first has not, by content, their
#               bytes, and the sum of what `zstd -3` makes of each, one by one
#
# What is there is kept: it takes about ten minutes, and Debian's archive. Needs root (mmdebstrap's chroot). The same
# packages give the same images; which these are is in DIRECTORY/*.packages.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../boot-assets/debian.sh
. "$HERE/../boot-assets/debian.sh"
# shellcheck source=../tests/images/gpt-image.sh
. "$HERE/../tests/images/gpt-image.sh"

[ $# -eq 1 ] || die "usage: build-images.sh DIRECTORY"
OUT=$1
need_tools mmdebstrap:mmdebstrap sgdisk:gdisk mke2fs:e2fsprogs debugfs:e2fsprogs zstd:zstd
[ "$(id -u)" = 0 ] || die "needs root: the files in the images belong to their users"

# As tests/images/build-debian.sh.
PACKAGES=systemd-sysv,systemd-resolved,dbus,udev,kmod,iproute2,ca-certificates,curl,cloud-init,openssh-server,sudo,linux-image-amd64,zstd
MORE=git,nginx-light,vim,tmux
RELEASE="deb http://deb.debian.org/debian bookworm main"
UPDATED=("$RELEASE" "deb http://deb.debian.org/debian bookworm-updates main"
  "deb http://deb.debian.org/debian-security bookworm-security main")

mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
[ ! -e "$OUT/complete" ] || exit 0
WORK=$OUT/work
rm -rf "$WORK"
mkdir "$WORK"
trap 'rm -rf "$WORK"' EXIT

# tree NAME PACKAGES SOURCE...: the root directory $WORK/NAME.
tree() {
  local name=$1 packages=$2 root=$WORK/$1
  shift 2
  step "$name: Debian 12 by mmdebstrap"
  # Through a tar archive: mmdebstrap cuts its times at SOURCE_DATE_EPOCH there, and only there.
  mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" \
    --aptopt='Acquire::Retries "3"' --aptopt='APT::Install-Recommends "false"' \
    bookworm "$WORK/root.tar" "$@" >&2 || die "mmdebstrap failed; see above"
  mkdir "$root"
  tar --extract --file="$WORK/root.tar" --directory="$root" --numeric-owner --xattrs --xattrs-include='*'
  rm "$WORK/root.tar"
  # What no golden image has: identity, and logs that hold the time of the build.
  : >"$root/etc/machine-id"
  rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/dbus/machine-id "$root"/etc/hostname "$root"/etc/resolv.conf
  find "$root/var/log" -type f -delete
  rm -rf "$root/var/lib/apt/lists" "$root/var/cache/apt"
  find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  dpkg-query --admindir="$root/var/lib/dpkg" -W >"$OUT/$name.packages"
}

# disk NAME: $OUT/NAME.raw from $WORK/NAME.
disk() {
  local name=$1 seed="regild bench image $1"
  step "$name: disk image"
  ln -sfn "$WORK/$name" "$WORK/root"
  partition_table "$WORK/$name.raw" 3072 "$seed"
  make_root "$WORK/$name.raw" "$WORK" "$seed" "$(stable_uuid "$seed root filesystem")"
  rm "$WORK/root.img" "$WORK/root"
  mv "$WORK/$name.raw" "$OUT/$name.raw"
}

# contents TREE: digest and path of each regular file, by digest, each content once.
contents() { (cd "$1" && find . -xdev -type f -size +0 -print0 | sort -z | xargs -0 sha256sum --zero) | tr '\0' '\n' | sort -k 1,1 -u; }

# new_files FROM TO: a line for NEW-FILES.
new_files() {
  local list=$WORK/new number=0 path
  rm -rf "$list"
  mkdir -p "$list/raw" "$list/packed"
  while read -r path; do
    number=$((number + 1))
    ln "$WORK/$2/$path" "$list/raw/$number"
  done < <(join -v 2 <(contents "$WORK/$1" | cut -d' ' -f1) <(contents "$WORK/$2") | cut -d' ' -f2-)
  zstd -3 -q -r "$list/raw" --output-dir-flat "$list/packed"
  printf '%s-%s %d %d %d\n' "$1" "$2" "$number" "$(find "$list/raw" -type f -printf '%s\n' | awk '{ n += $1 } END { print n }')" \
    "$(find "$list/packed" -type f -printf '%s\n' | awk '{ n += $1 } END { print n }')"
}

tree old "$PACKAGES" "$RELEASE"
tree base "$PACKAGES" "${UPDATED[@]}"
tree more "$PACKAGES,$MORE" "${UPDATED[@]}"
step "files that differ"
{ new_files old base; new_files base more; } >"$WORK/NEW-FILES"
cp "$WORK/NEW-FILES" "$OUT/NEW-FILES"
for name in old base more; do disk "$name"; done
touch "$OUT/complete"
step "$OUT is complete"
