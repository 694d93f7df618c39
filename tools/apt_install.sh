#!/bin/sh
# apt-get install of the named packages; refreshes the package lists only when that is needed.
set -eu
export DEBIAN_FRONTEND=noninteractive
# The Prometheus package would start its server; only its promtool is wanted.
export RUNLEVEL=1
install() {
    apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@" >/dev/null
}
install "$@" 2>/dev/null && exit 0
apt-get -o DPkg::Lock::Timeout=300 update -qq >/dev/null
install "$@"
