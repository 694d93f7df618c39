#!/bin/sh
# Pins what pyproject.toml allows, with hashes and without the name of any package index.
set -eu
pin() {
    pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-annotate \
        --no-header --no-emit-options --no-emit-index-url --no-emit-find-links \
        --no-emit-trusted-host "$@" pyproject.toml
}
pin --output-file requirements.lock
pin --extra dev --constraint requirements.lock --output-file requirements-dev.lock
