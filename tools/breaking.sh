#!/bin/sh
# Compares protos/ with the image of the last released API (`make proto-release` writes it).
# The image is a file in the tree, so this works in a shallow clone and offline.
set -eu
buf=$1
image=protos/release/slackwater-v1.binpb
if [ ! -e "$image" ]; then
    echo "breaking: no release of the API yet ($image); nothing to compare with"
    exit 0
fi
exec "$buf" breaking --against "$image"
