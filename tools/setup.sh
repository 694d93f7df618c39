#!/usr/bin/env bash
# Install what the verbs of the Makefile need. Run again at will: a second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

apt_packages() { # Debian's name of what the tools come in
  local -A of=([nbdfuse]=libnbd-bin [nbdcopy]=libnbd-bin [nbdinfo]=libnbd-bin [qemu-io]=qemu-utils
    [fio]=fio [jq]=jq [nbdkit]=nbdkit [mke2fs]=e2fsprogs [mkfs.xfs]=xfsprogs [mkfs.btrfs]=btrfs-progs [fusermount3]=fuse3 [promtool]=prometheus
    [losetup]=mount [fsfreeze]=util-linux [openssl]=openssl [podman]=podman [runc]=runc
    [debootstrap]=debootstrap)
  for tool in "${!of[@]}"; do
    command -v "$tool" >/dev/null 2>&1 || [ -x "/sbin/$tool" ] || [ -x "/usr/sbin/$tool" ] ||
      printf '%s\n' "${of[$tool]}"
  done | sort -u
  # Its programs are not on the PATH; they stand in a directory for each version.
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || echo postgresql
  # A binding for Debian's own Python, which has no program to look for.
  [ -e /usr/lib/python3/dist-packages/nbd.py ] || echo python3-libnbd
}

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "setup: $python is not Python 3.11 or newer; name one: make setup PYTHON=..." >&2
  exit 1
fi
missing=$(apt_packages | tr '\n' ' ')
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
missing=$(echo $missing)
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing Debian packages: $missing"
    # shellcheck disable=SC2086 -- a list of words
    { apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $missing ||
      { apt-get update -qq && apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $missing; }; } \
      </dev/null >build-apt.log 2>&1 || { tail -20 build-apt.log; rm -f build-apt.log; exit 1; }
    rm -f build-apt.log
  else
    echo "setup: some tools are missing; as root type:" >&2
    echo "  apt-get install -y $missing" >&2
  fi
fi
# Debian's is too old for the manifests; nothing but their tests needs it.
command -v kubectl >/dev/null 2>&1 ||
  echo "setup: kubectl 1.27 or newer is missing: https://kubernetes.io/docs/tasks/tools" >&2

stamp=.venv/.stamp
want=$(cat requirements.lock pyproject.toml tools/setup.sh | sha256sum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0
echo "setup: installing the virtual environment"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
  -r requirements.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
  --no-build-isolation -e .
echo "$want" >"$stamp"
