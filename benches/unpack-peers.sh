#!/usr/bin/env bash
# unpack-peers.sh: the programs that the benchmarks compare regild with, as plain files under target/cache/peers.
#
# Unpacked, not installed: installing them would start a second DHCP and a second TFTP server on this machine, and
# Debian's two TFTP daemons exclude each other. What they need that is not installed here is unpacked beside them.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../boot-assets/debian.sh
. "$HERE/../boot-assets/debian.sh"
need_tools apt-get:apt dpkg-deb:dpkg flock:util-linux

PEERS=$CACHE/peers
# kea-admin holds perfdhcp.
SETS=("kea-dhcp4-server kea-admin" nginx-light atftpd tftpd-hpa dnsmasq-base aide)

# missing PACKAGE...: what apt would install along with them.
missing() { apt-get -s install --no-install-recommends "$@" 2>/dev/null | sed -n 's/^Inst \([^ ]*\).*/\1/p'; }

[ "$(cat "$PEERS/complete" 2>/dev/null)" != "${SETS[*]}" ] || exit 0
rm -rf "$PEERS"
mkdir -p "$PEERS"
for set in "${SETS[@]}"; do
  read -ra named <<<"$set"
  for package in "${named[@]}" $(missing "${named[@]}"); do
    directory=$(unpacked "$package")
    cp -a --link --force "$directory/." "$PEERS/"
  done
done
for program in usr/sbin/{kea-dhcp4,perfdhcp,nginx,atftpd,in.tftpd,dnsmasq} usr/bin/aide; do
  [ -x "$PEERS/$program" ] || die "$PEERS/$program is missing: Debian has moved it"
done
printf '%s\n' "${SETS[*]}" >"$PEERS/complete"
step "$PEERS is complete"
