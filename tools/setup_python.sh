#!/bin/sh
# Makes the virtual environment from the hash-pinned lock; run by `make setup`.
# Works with Debian's python3 and with any other Python from 3.11 on.
set -eu
venv=$1
python=${PYTHON:-python3}

command -v "$python" >/dev/null || {
    echo "setup: no $python here; install Python 3.11 or newer, or name one: make setup PYTHON=..." >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $python is older than 3.11; name a newer one: make setup PYTHON=..." >&2
    exit 1
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian keeps these two modules in a package of their own.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        tools/apt_install.sh python3-venv
    else
        echo "setup: type: sudo apt-get install -y python3-venv" >&2
        exit 1
    fi
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes --only-binary :all: -r requirements-dev.lock
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-deps --no-build-isolation --no-index -e .
