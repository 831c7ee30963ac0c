#!/bin/sh
# Installs the Debian packages that building, testing and the demo need; with the argument `bench`, those that
# measuring needs. Idempotent: asks dpkg first, and touches the network only when something is missing.
set -eu

# build-essential: C parts of zstd and blake3. qemu, ovmf, ipxe-qemu: the lab's machines. ipxe, grub-*: bootloaders.
# busybox-static, cpio, kmod, zstd, xz-utils: the deploy environment. mtools, dosfstools, gdisk, e2fsprogs, mmdebstrap:
# golden images for tests; openssh-client: logging in to one. mount: losetup and mount, for disks in tests; acl to
# btrfs-progs: file systems with all that they can hold. dnsmasq-base,
# atftp, tftp-hpa, curl, udhcpc, strace, tcpdump: foreign clients, peers, faults.
# docker-registry: disk images as OCI artifacts. ansible-core: reads our inventory. ipmitool: the ipmi power driver, at run time too. openipmi (ipmi_sim), openssl,
# python3-venv: controllers to test it on. libfaketime: an hour that passes in a second. minisign: signatures of images.
packages="build-essential pkg-config ca-certificates
qemu-system-x86 qemu-utils ovmf ipxe-qemu
ipxe grub-common grub-pc-bin grub-efi-amd64-bin
busybox-static cpio kmod zstd xz-utils
mtools dosfstools gdisk e2fsprogs mmdebstrap openssh-client mount
acl attr libcap2-bin squashfs-tools erofs-utils xfsprogs btrfs-progs
iproute2 dnsmasq-base atftp tftp-hpa curl udhcpc strace tcpdump
docker-registry ansible-core ipmitool openipmi openssl python3-venv libfaketime
minisign"
# What is measured beside regild is unpacked, not installed (benches/unpack-peers.sh), where installing it would start
# something. casync, zstd, qemu-utils: peers of the image store. mmdebstrap, gdisk, e2fsprogs: benches/build-images.sh.
[ "${1:-}" != bench ] || packages="python3 util-linux iproute2 strace tcpdump zstd
casync diffutils qemu-utils mmdebstrap gdisk e2fsprogs tar"

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
# Rust is not from Debian: its compiler is years older than this edition.
wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "$0")/../Cargo.toml")
found=$(rustc --version 2>/dev/null | cut -d' ' -f2)
rust=""
if ! command -v cargo >/dev/null || [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    rust="setup: Rust $wanted or newer is needed, found: ${found:-none}; see https://rustup.rs"
fi
if [ -n "$missing" ] && [ "$(id -u)" -ne 0 ]; then
    echo "setup: these Debian packages are missing:$missing" >&2
    echo "setup: run 'make ${1:+$1-}setup' as root, or: apt-get install --no-install-recommends$missing" >&2
    [ -z "$rust" ] || echo "$rust" >&2
    exit 1
fi
if [ -n "$missing" ]; then
    echo "setup: installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
[ -z "$rust" ] || {
    echo "$rust" >&2
    exit 1
}
