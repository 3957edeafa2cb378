#!/usr/bin/env bash
# Trains on a TPU VM or pod slice: the same command on every host, through gcloud.
#   TPU=name ZONE=zone launch/tpu_pod.sh setup                                      installs this commit on every host
#   TPU=name ZONE=zone launch/tpu_pod.sh CONFIG WORKDIR [--config.key=value ...]
# CONFIG is a path inside the repository; WORKDIR is one that every host sees (NFS, or a bucket that is mounted).
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[[ -n "${TPU:-}" && -n "${ZONE:-}" ]] || fail "name the TPU and its zone: TPU=my-pod ZONE=us-east5-a $0 ..."
folder="${REMOTE_DIR:-flsl_jax}"

on_every_host() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

if [[ "${1:-}" == setup ]]; then
  archive="$(mktemp -d)/flsl_jax.tar.gz"
  git -C "$ROOT" archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$TPU:flsl_jax.tar.gz" --zone="$ZONE" --worker=all
  rm -r "$(dirname "$archive")"
  on_every_host "mkdir -p $folder && tar -xzf flsl_jax.tar.gz -C $folder && cd $folder &&
    make install PYTHON=${REMOTE_PYTHON:-python3} && .venv/bin/pip install --quiet -c requirements.txt -e '.[tpu]'"
  exit
fi

[[ $# -ge 2 ]] || fail "usage: $0 setup, or $0 CONFIG WORKDIR [--config.key=value ...]"
[[ "$2" == /* ]] || fail "WORKDIR $2 must be absolute and on a file system that every host sees"
command=(.venv/bin/python -m flsl_jax.main --config="$1" --workdir="$2" --config.parallel.distributed=True "${@:3}")
# A TPU must be started on all of its hosts at once: on one alone it waits for the others until the time-out.
on_every_host "cd $folder && JAX_PLATFORMS=tpu,cpu ${command[*]@Q}"
