# shellcheck shell=bash
# Sourced by the recipes beside it. Sets ROOT and PYTHON and defines `train CONFIG WORKDIR [--config.key=value ...]`.
# Paths are the caller's; the repository need not be the current folder.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  [[ -x "$ROOT/.venv/bin/python" ]] && PYTHON="$ROOT/.venv/bin/python"
fi

fail() {
  echo "error: $*" >&2
  exit 2
}

check_arguments() {
  [[ $# -ge 2 && "$1" != -* && "$2" != -* ]] ||
    fail "usage: $0 CONFIG WORKDIR [--config.key=value ...], such as $0 configs/vits16.py runs/vits16"
  [[ -f "$1" ]] || fail "there is no config $1; configs/ holds some"
}

# JAX silently falls back to the CPU if its CUDA packages are missing; the recipes for GPUs refuse that.
require_gpus() {
  export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}"
  "$PYTHON" -c 'import jax; jax.devices()' 2>/dev/null ||
    fail "$PYTHON sees no GPU through JAX; look at nvidia-smi, and install the CUDA packages: pip install -e '.[cuda]'"
}

train() {
  local config="$1" workdir="$2"
  shift 2
  exec "$PYTHON" -m flsl_jax.main --config="$config" --workdir="$workdir" "$@"
}
