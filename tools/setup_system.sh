#!/bin/sh
# Installs what the tests and the demo call beside Python, when something is missing and we are root.
# Otherwise prints the line to type: everything that does not need the tool still works.
set -eu
packages=""
need() { # need <package> <path it brings>
    [ -e "$2" ] || packages="$packages $1"
}
need libnbd-bin      /usr/bin/nbdinfo
need libnbd-bin      /usr/bin/nbdfuse
need python3-libnbd  /usr/lib/python3/dist-packages/nbd.py
need qemu-utils      /usr/bin/qemu-io
need fio             /usr/bin/fio
need nbdkit           /usr/bin/nbdkit
need e2fsprogs       /sbin/mke2fs
need fuse3           /usr/bin/fusermount3
need prometheus      /usr/bin/promtool
need util-linux      /sbin/fsfreeze
need mount           /bin/mount
packages=$(printf '%s\n' $packages | sort -u | tr '\n' ' ')
packages=${packages% }
[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086
    exec tools/apt_install.sh $packages
fi
echo "setup: some tests and the full demo need more tools; type:" >&2
echo "    sudo apt-get install -y --no-install-recommends $packages" >&2
