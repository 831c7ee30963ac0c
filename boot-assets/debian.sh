# shellcheck shell=bash
# Sourced by the build scripts: Debian packages as plain files, nothing is installed on the host.
#
# Everything a build needs from Debian beyond ordinary tools (the kernel, its modules) is downloaded with
# the host's own apt configuration, which also checks the archive's signatures, and unpacked under a cache
# directory. A second build therefore works without the network as long as apt's lists do not move.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${REGILD_BUILD_CACHE:-$REPOSITORY/target/cache}

# One fixed instant in every artifact (2024-01-01), so that the same inputs give the same bytes.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1704067200}
# Names sort by byte and times print in UTC wherever the build runs.
export LC_ALL=C TZ=UTC
# mke2fs, mkfs.fat and sgdisk live in sbin, which is not on every user's PATH.
export PATH="$PATH:/usr/sbin:/sbin"
umask 022

step() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() {
  printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# need_tools TOOL:PACKAGE...: all that are missing are named at once, with the line that installs them.
need_tools() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -eq 0 ] || die "tools are missing; do: apt-get install ${missing[*]}   (or: make setup)"
}

# need_file PATH PACKAGE
need_file() { [ -e "$1" ] || die "$1 is missing; do: apt-get install $2   (or: make setup)"; }

# The kernel package that linux-image-amd64 stands for today, e.g. linux-image-6.1.0-56-amd64.
kernel_package() {
  local name
  name=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
  [ -n "$name" ] || die "apt does not know linux-image-amd64; do: apt-get update"
  printf '%s\n' "$name"
}

# candidate PACKAGE: the version that apt would install; empty when it knows none.
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -vx '(none)' || true; }

# unpacked PACKAGE: prints the directory with the package's files, downloading it when it is not cached.
unpacked() {
  local package=$1 version directory
  version=$(candidate "$package")
  [ -n "$version" ] || die "apt does not know $package; do: apt-get update"
  directory="$CACHE/debian/${package}_${version//:/%3a}"
  (
    # Builds may run side by side (make -j): one downloads, the others wait and find it done.
    mkdir -p "$CACHE/debian"
    exec 9>"$CACHE/debian/.lock"
    flock 9
    if [ ! -e "$directory" ]; then
      step "downloading $package $version"
      rm -rf "$directory.part"
      mkdir -p "$directory.part/deb"
      (cd "$directory.part/deb" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2) ||
        die "apt-get could not download $package; do: apt-get update"
      dpkg-deb -x "$directory.part"/deb/*.deb "$directory.part"
      rm -r "$directory.part/deb"
      mv "$directory.part" "$directory"
    fi
  ) || exit 1
  printf '%s\n' "$directory"
}

# module_tree: prints a directory that holds lib/modules/VERSION of Debian's kernel with modules.dep made.
module_tree() {
  local kernel version
  kernel=$(unpacked "$(kernel_package)") || exit 1
  version=$(basename "$kernel"/lib/modules/*)
  [ -e "$kernel/lib/modules/$version/modules.dep.bin" ] || depmod -b "$kernel" "$version"
  printf '%s\n' "$kernel"
}

# copy_modules TREE TARGET NAME...: the named modules and all they need, with indexes of their own.
# A name that this kernel does not know at all is an error: a NIC that is silently missing shows itself
# only in front of the machine that has it.
copy_modules() {
  local tree=$1 target=$2 version paths
  shift 2
  version=$(basename "$tree"/lib/modules/*)
  paths=$(modprobe -d "$tree" -S "$version" -C /dev/null --ignore-install --show-depends -a "$@") ||
    die "a module of the list is not in kernel $version (see the line above)"
  # Lines are "insmod PATH" or "builtin NAME".
  printf '%s\n' "$paths" | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u |
    while read -r path; do
      path=${path#"$tree"/}
      install -D -m 644 "$tree/$path" "$target/$path"
    done
  cp "$tree/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$target/lib/modules/$version/"
  depmod -b "$target" "$version"
  # busybox reads the text indexes; the binary ones would only make the initramfs larger.
  rm -f "$target/lib/modules/$version"/modules.*.bin "$target/lib/modules/$version"/modules.{symbols,devname,softdep,builtin.modinfo,order,builtin}
}

# pack_initramfs DIRECTORY OUT: a newc archive as bytes that depend on the files only.
pack_initramfs() {
  find "$1" -mindepth 0 -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  (cd "$1" && find . -mindepth 1 -printf '%P\n' | sort |
    cpio --quiet --create --format=newc --reproducible --owner=0:0) >"$2.cpio"
  # RD_ZSTD is built into Debian's kernel. One thread: the number of threads changes zstd's output.
  zstd -q -f -T1 "${INITRAMFS_ZSTD_LEVEL:--19}" --no-progress "$2.cpio" -o "$2"
  rm "$2.cpio"
}
