#!/bin/sh
# Checks vagrant/Vagrantfile with Debian's vagrant. The libvirt plugin is needed to read it.
set -eu
command -v vagrant >/dev/null || {
    echo "audit: no vagrant; apt-get install --no-install-recommends vagrant vagrant-libvirt" >&2
    exit 1
}
cd "$(dirname "$0")/../vagrant"
exec vagrant validate
