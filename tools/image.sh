#!/usr/bin/env bash
# Build the container image with podman, docker or buildah, whichever is there first.
#   BASE        image to build on; `debian` makes one with debootstrap, where no registry is
#   TARGET      service (the services and the command line; default) or attach (mounts volumes)
#   IMAGE       name of the result
#   BUILD_FLAGS more flags for the builder
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
target=${TARGET:-service}
case $target in
  service) image=${IMAGE:-slackwater:$version} ;;
  attach) image=${IMAGE:-slackwater-attach:$version} ;;
  *) echo "image: TARGET is service or attach, not $target" >&2; exit 1 ;;
esac
base=${BASE:-}
for builder in ${BUILDER:-podman docker buildah}; do
  command -v "$builder" >/dev/null 2>&1 && break
  builder=
done
if [ -z "$builder" ]; then
  echo "image: podman, docker or buildah is needed; as root type:" >&2
  echo "  apt-get install -y podman runc" >&2
  exit 1
fi

if [ "$base" = debian ]; then
  base=localhost/slackwater-base:bookworm
  if ! podman image exists "$base"; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3,python3-venv,e2fsprogs,xfsprogs,ca-certificates \
      bookworm "$root/fs" >"$root/log" 2>&1 || { tail -20 "$root/log" >&2; exit 1; }
    rm -rf "$root"/fs/var/cache/apt/archives/*.deb "$root"/fs/var/lib/apt/lists/*
    tar -C "$root/fs" -c . | podman import - "$base" >/dev/null
  fi
fi

arguments=(--target "$target" --build-arg "VERSION=$version" -t "$image")
arguments+=(--build-arg "REVISION=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)")
[ -n "$base" ] && arguments+=(--build-arg "BASE=$base")
# shellcheck disable=SC2206 -- a list of words
arguments+=(${BUILD_FLAGS:-})
"$builder" build "${arguments[@]}" .
echo "image: $image"
