#!/bin/sh
# Checks vagrant/Vagrantfile with Debian's vagrant. The libvirt plugin is needed to read it.
set -eu
command -v vagrant >/dev/null || {
    echo "audit: no vagrant; do: apt-get install --no-install-recommends vagrant vagrant-libvirt" >&2
    exit 1
}
cd "$(dirname "$0")/../vagrant"
# Vagrant keeps state beside the Vagrantfile and in the home directory, even for this. Here neither is wanted: the
# machines of somebody who really uses them are not this check's business, and nothing is left behind.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export VAGRANT_HOME="$scratch/home" VAGRANT_DOTFILE_PATH="$scratch/machines" VAGRANT_CHECKPOINT_DISABLE=1
vagrant plugin list | grep -q '^vagrant-libvirt ' || {
    echo "audit: vagrant has no libvirt plugin; do: apt-get install --no-install-recommends vagrant-libvirt" >&2
    exit 1
}
vagrant validate
