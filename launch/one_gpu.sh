#!/usr/bin/env bash
# Trains on one GPU, the first; GPU=3 takes the fourth.
#   launch/one_gpu.sh CONFIG WORKDIR [--config.key=value ...]
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

check_arguments "$@"
export CUDA_VISIBLE_DEVICES="${GPU:-0}"
require_gpus
train "$@"
