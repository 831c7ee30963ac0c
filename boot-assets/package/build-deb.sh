#!/usr/bin/env bash
# build-deb.sh [OUT]: the installed agent as a Debian package, OUT/regild-agent_VERSION_amd64.deb (target by default). It is
# one static program and depends on nothing, so it fits every Debian and Ubuntu with systemd. The same sources give the
# same bytes.
#
#   REGILD_AGENT=FILE     take this agent instead of building one
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../debian.sh
. "$HERE/../debian.sh"
# shellcheck source=../agent.sh
. "$HERE/../agent.sh"

OUT=${1:-$REPOSITORY/target}
need_tools dpkg-deb:dpkg
AGENT=${REGILD_AGENT:-}
if [ -z "$AGENT" ]; then
  step "building the agent"
  build_agent
fi
[ -x "$AGENT" ] || die "no agent at $AGENT"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/regild-deb.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
# What cargo calls 1.2.0-rc.1 comes before 1.2.0, and says so to dpkg by a tilde.
VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$REPOSITORY/Cargo.toml" | head -n 1)
VERSION=${VERSION/-/\~}
ROOT=$WORK/root
install -D -m 755 "$AGENT" "$ROOT/usr/sbin/regild-agent"
for unit in watch standby; do
  install -D -m 644 "$HERE/regild-agent-$unit.service" "$ROOT/lib/systemd/system/regild-agent-$unit.service"
done
install -D -m 644 "$HERE/regild-agent.default" "$ROOT/etc/default/regild-agent"
install -D -m 644 "$HERE/README" "$ROOT/usr/share/doc/regild-agent/README"
install -D -m 644 "$REPOSITORY/LICENSE-MIT" "$ROOT/usr/share/doc/regild-agent/copyright"
mkdir -p "$ROOT/DEBIAN"
install -m 755 "$HERE/postinst" "$HERE/prerm" "$HERE/postrm" "$ROOT/DEBIAN/"
printf '/etc/default/regild-agent\n' >"$ROOT/DEBIAN/conffiles"
(cd "$ROOT" && find etc lib usr -type f | sort | xargs md5sum) >"$ROOT/DEBIAN/md5sums"
cat >"$ROOT/DEBIAN/control" <<CONTROL
Package: regild-agent
Version: $VERSION
Architecture: amd64
Maintainer: the regild authors <regild@localhost>
Installed-Size: $(du -sk --apparent-size "$ROOT/usr" "$ROOT/etc" "$ROOT/lib" | awk '{ sum += $1 } END { print sum }')
Section: admin
Priority: optional
Description: says where this system departs from its golden image
 The agent of regild, a bare-metal boot and reimaging server, for the installed
 system: it compares files with the image that the machine was installed from,
 reports what differs, and reboots the machine into the network when an order
 to rebuild it is open.
CONTROL
find "$ROOT" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$OUT"
DEB=$OUT/regild-agent_${VERSION}_amd64.deb
# xz: every dpkg reads it. Files belong to root whoever builds.
dpkg-deb --root-owner-group -Zxz --build "$ROOT" "$DEB.part" >/dev/null
mv "$DEB.part" "$DEB"
step "$DEB: $(($(stat -c %s "$DEB") / 1024)) KiB, agent $(($(stat -c %s "$AGENT") / 1024)) KiB"
