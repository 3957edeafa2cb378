#!/usr/bin/env bash
# Trains on all GPUs of one machine, in one process; CUDA_VISIBLE_DEVICES=0,1 takes two of them.
#   launch/multi_gpu.sh CONFIG WORKDIR [--config.key=value ...]
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

check_arguments "$@"
require_gpus
# One process feeds all GPUs, so it decodes with every core.
train "$1" "$2" --config.compute.workers="${WORKERS:-$(nproc)}" "${@:3}"
