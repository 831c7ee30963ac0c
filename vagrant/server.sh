#!/usr/bin/env bash
# Run by Vagrant as root in the server's machine: builds regild from the synced checkout and starts it. May be run
# again after a change of the sources (vagrant rsync server && vagrant provision server).
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive HOME=/root
PATH=/root/.cargo/bin:$PATH
SOURCE=/srv/regild
die() {
  printf 'server.sh: error: %s\n' "$*" >&2
  exit 1
}
[ -e "$SOURCE/Cargo.toml" ] || die "no checkout at $SOURCE; on the host: vagrant rsync server"

# Debian 12's own rustc is 1.63: older than Cargo.toml's rust-version.
if ! command -v cargo >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends curl ca-certificates >/dev/null
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --quiet --profile minimal ||
    die "Rust could not be installed from rustup.rs; is the Internet within reach of this machine?"
fi

cd "$SOURCE"
tests/setup.sh
cargo build --release --bin regild
install -m 755 target/release/regild /usr/local/bin/regild
boot-assets/build.sh target/boot-assets
mkdir -p target/lab
for version in v1 v2; do
  [ -e "target/lab/tiny-$version.raw" ] || tests/images/build-tiny.sh "$version" "target/lab/tiny-$version.raw"
done

# config/lab.toml, for this machine: the interface that has the rack's address (its name depends on the box), and
# the directories of an installed server, so that `regild host list` finds the socket without an option.
interface=$(ip -o -4 addr show to 10.77.0.1 | awk '{ print $2; exit }')
[ -n "$interface" ] || die "no interface has 10.77.0.1; on the host: vagrant reload server"
mkdir -p /etc/regild
sed -e "s|^interface = .*|interface = \"$interface\"|" \
  -e 's|^state_dir = .*|state_dir = "/var/lib/regild"|' \
  -e "s|^boot_assets = .*|boot_assets = \"$SOURCE/target/boot-assets\"|" \
  config/lab.toml >/etc/regild/regild.toml
cat >/etc/systemd/system/regild.service <<'UNIT'
[Unit]
Description=regild: boots and reimages machines over the network
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/local/bin/regild serve --config /etc/regild/regild.toml
StateDirectory=regild
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet regild
systemctl restart regild

tries=60
until regild host list >/dev/null 2>&1; do
  tries=$((tries - 1))
  [ $tries -gt 0 ] || die "regild does not answer: $(journalctl -u regild -n 20 --no-pager)"
  sleep 0.5
done
# A version never changes: what is there already stays.
for version in v1 v2; do
  regild image show "tiny:$version" >/dev/null 2>&1 ||
    regild image import "target/lab/tiny-$version.raw" --as "tiny:$version"
done
regild image list
