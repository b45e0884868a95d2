#!/bin/bash
# Submits a job to the Ray cluster at $RAY_ADDRESS: 4 actors at once, up to 64 as the cluster grows.
# Each has one GPU and the teacher; all machines must see the images and the set at the same paths.
set -euo pipefail

ray job submit --working-dir . -- \
    dr-plugins reinforce \
    --images "${IMAGES:-/shared/imagenet/train}" \
    --teacher "${TEACHER:-timm:resnetv2_152x2_bit}" \
    --out "${OUT:-/shared/imagenet-plus}" \
    --engine ray --actors 4:64 --device cuda --workers 12 "$@"
