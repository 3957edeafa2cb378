#!/usr/bin/env bash
# Trains a detector or segmenter on all GPUs of a machine, one process each; CUDA_VISIBLE_DEVICES=0,1 takes two of them.
#   launch/transfer.sh CONFIG BACKBONE WORKDIR [--config.key=value ...]
# The same command again continues. Several machines: NODES=4 NODE=0 HEAD=host0:29500 before it, with NODE from 0 to 3.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[[ $# -ge 3 && "$1$2$3" != *--config* ]] ||
  fail "usage: $0 CONFIG BACKBONE WORKDIR [--config.key=value ...], such as $0 transfer/coco_maskrcnn_vits16 runs/vits16 runs/coco"
gpus="$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null)" ||
  fail "$PYTHON has no PyTorch; install the package with its extra: transfer"
[[ "$gpus" -gt 0 ]] || fail "$PYTHON sees no GPU through PyTorch; look at nvidia-smi, and install its CUDA build"
where=(--standalone)
if [[ "${NODES:-1}" -gt 1 ]]; then
  head="${HEAD:?error: HEAD is missing: host and port of the machine with NODE=0, such as HEAD=host0:29500}"
  where=(--nnodes="$NODES" --node_rank="${NODE:?error: NODE is missing: the number of this machine, from 0}"
    --master_addr="${head%:*}" --master_port="${head##*:}")
fi
exec "$PYTHON" -m torch.distributed.run "${where[@]}" --nproc_per_node="$gpus" \
  -m flsl_jax.transfer --config="$1" --backbone="$2" --workdir="$3" "${@:4}"
