#!/usr/bin/env bash
# Generate the code of protos/, or check that protos and code are in step and nothing broke.
set -euo pipefail
cd "$(dirname "$0")/.."

image=protos/release/slackwater-v1.binpb

generate() { # into directory $1
  python -m grpc_tools.protoc -Iprotos --python_out="$1" --grpc_python_out="$1" \
    --mypy_out="$1" --mypy_grpc_out="$1" protos/slackwater/v1/*.proto 2>/dev/null
}

case "${1:-}" in
generate)
  generate .
  ;;
check)
  buf lint
  if [ -f "$image" ]; then
    buf breaking --against "$image"
  else
    echo "protos: no release yet to compare with; a release makes $image (make proto-release)"
  fi
  new=$(mktemp -d)
  trap 'rm -rf "$new"' EXIT
  generate "$new"
  for file in "$new"/slackwater/v1/*; do
    if ! cmp -s "$file" "slackwater/v1/$(basename "$file")"; then
      echo "slackwater/v1/$(basename "$file") is not what protos/ say; type: make proto" >&2
      exit 1
    fi
  done
  echo "protos: lint, compatibility and generated code are fine"
  ;;
release)
  mkdir -p "$(dirname "$image")"
  buf build --exclude-source-info -o "$image"
  ;;
*)
  echo "usage: tools/proto.sh generate|check|release" >&2
  exit 2
  ;;
esac
