#!/bin/sh
# Copy the run's exported snapshot to a directory: its first volume as qcow2, the files on it as tar.
# To mount takes root (`command_user` of the service); the image alone takes no privilege.
set -eu
out=$1/$SLACKWATER_SNAPSHOT
uri=${SLACKWATER_NBD_URIS%% *}
mkdir -p "$out"

qemu-img convert -f raw -O qcow2 "$uri" "$out/data.qcow2.part"
mv "$out/data.qcow2.part" "$out/data.qcow2"

work=$(mktemp -d)
disk=
clean_up() {
  umount "$work/mnt" 2>/dev/null || :
  [ -z "$disk" ] || losetup --detach "$disk" || :
  umount "$work/nbd" 2>/dev/null || :
  rmdir "$work/mnt" "$work/nbd" "$work"
}
trap clean_up EXIT
trap 'exit 143' TERM
mkdir "$work/nbd" "$work/mnt"
nbdfuse -r "$work/nbd/disk" "$uri" &
until [ -s "$work/nbd/disk" ]; do
  kill -0 $! # else nbdfuse has ended and said why
  sleep 0.1
done
disk=$(losetup --find --show --read-only "$work/nbd/disk")
mount -o ro,norecovery "$disk" "$work/mnt" # as it is: nothing is replayed, nothing is written
tar -C "$work/mnt" --sort=name -cf "$out/files.tar.part" .
mv "$out/files.tar.part" "$out/files.tar"
sha256sum "$out/data.qcow2" "$out/files.tar"
