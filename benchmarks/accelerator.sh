#!/usr/bin/env bash
# All that one GPU can say of this code, in at most nine minutes; every result is written as it comes.
#
#   benchmarks/accelerator.sh OUT [--data=FOLDER] [--minutes=9] [--only=PART,PART] [--device=cpu] [--tiny]
#
# OUT gets, in this order: smoke.txt, correctness.txt, step_vits16.{txt,json} with the step's parts and a profile,
# step_vits8, method_cost (FLSL's step beside DINO's), step_vitb16, loader.txt, and, where --data names a folder with train/, val/, train_boxes.json and
# val_boxes.json (COCO format, 64 px), tiny_imagenet.txt and .jsonl: the curve of configs/tiny_imagenet.py for the time that
# is left. A part that finds no time left says so; --only names those to run in a later call. Most of the time goes into
# compiling, about a minute a program on an H200. --tiny shrinks everything, to try the script itself:
#
#   benchmarks/accelerator.sh /tmp/out --device=cpu --tiny
#
# It needs no network, and of Python: jax with CUDA, flax, optax, orbax-checkpoint, and, for the comparison, torch. What such
# a machine often lacks can be brought as wheels; `pip download --no-deps` here, `pip install --no-index --no-deps --target` there:
# array_record cykooz-resizer grain jaxtyping ml-collections portpicker simplejpeg tensorboardX
set -uo pipefail
cd "$(dirname "$0")/.."

OUT="" DATA="" MINUTES=9 TINY="" ONLY=""
for argument in "$@"; do
  case $argument in
    --data=*) DATA=${argument#*=} ;;
    --minutes=*) MINUTES=${argument#*=} ;;
    --device=*) export JAX_PLATFORMS=${argument#*=} ;;
    --tiny) TINY=1 ;;
    --only=*) ONLY=,${argument#*=}, ;;
    -*) echo "error: unknown flag $argument; see the first lines of $0" >&2; exit 2 ;;
    *) OUT=$argument ;;
  esac
done
[ -n "$OUT" ] || { echo "error: name a folder for the results; see the first lines of $0" >&2; exit 2; }
[ -z "$DATA" ] || [ -f "$DATA/train_boxes.json" ] || { echo "error: --data=$DATA has no train_boxes.json" >&2; exit 2; }
mkdir -p "$OUT" || exit 2

PYTHON=${PYTHON:-python3}
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
FAILED=0
left() { echo $((MINUTES * 60 - SECONDS)); }

# part NAME SECONDS COMMAND…: runs within the seconds that are its own and left over; prints its last lines.
part() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  case $ONLY in "" | *,"$name",*) ;; *) return ;; esac
  [ "$limit" -le "$(left)" ] || limit=$(left)
  [ "$limit" -gt 5 ] || { echo "== $name: left out, no time"; FAILED=1; return; }
  timeout --kill-after=10 "$limit" "$@" > "$OUT/$name.txt" 2> "$SCRATCH/errors.txt" || code=$?
  echo "== $name: exit code $code after $((SECONDS - start)) s"
  if [ "$code" -ne 0 ]; then FAILED=1; tail -n 15 "$SCRATCH/errors.txt" | tee -a "$OUT/$name.txt"; fi
  grep -v '^  ' "$OUT/$name.txt" | tail -n 12
}

step() {  # step CONFIG SECONDS FLAGS…
  local config=$1 seconds=$2
  shift 2
  part "step_$config" "$seconds" "$PYTHON" -m benchmarks.step "--config=configs/$config.py" "--json=$OUT/step_$config.json" "$@"
}

SMALL=()
if [ -n "$TINY" ]; then
  SMALL=(--config.model.width=64 --config.model.depth=2 --config.model.num_heads=1 --config.head.hidden=32 --config.head.centroids=64)
fi

part smoke 90 "$PYTHON" -m flsl_jax.main --config=configs/quickstart.py "--workdir=$SCRATCH/smoke" --config.stop_at_step=40 \
  --config.evaluation.every_epochs=0.0
if [ -n "$TINY" ]; then
  part correctness 300 "$PYTHON" -m benchmarks.correctness --dtypes=float32
  step vits16 300 --batch=2 --blocks=2 --variants=xla:unroll,cudnn:unroll,xla:scan --torch=tuned,eager --parts --profile="$SCRATCH/trace" "${SMALL[@]}"
  part method_cost 200 "$PYTHON" -m benchmarks.step --config=configs/vits16.py --beside=dino_vits16 --batch=2 --blocks=2 --torch= \
    "--json=$OUT/method_cost.json"
  part loader 120 "$PYTHON" -m benchmarks.loader --rounds=1 --images=4 --workers=1
else
  part correctness 150 "$PYTHON" -m benchmarks.correctness --dtypes=float32,default,bfloat16,cudnn
  step vits16 250 --batch=64 --steps=10 --together --ready_seconds=190 --variants=cudnn:unroll,xla:unroll --torch=tuned \
    --parts --profile="$SCRATCH/trace"
  step vits8 110 --batch=32 --steps=4 --together --ready_seconds=85 --variants=cudnn:unroll,xla:unroll --torch=
  part method_cost 130 "$PYTHON" -m benchmarks.step --config=configs/vits16.py --beside=dino_vits16 --batch=64 --steps=10 --together \
    --ready_seconds=110 --variants=cudnn:unroll --torch= "--json=$OUT/method_cost.json"
  step vitb16 110 --batch=64 --steps=4 --together --ready_seconds=85 --variants=cudnn:unroll,xla:unroll --torch=
  part loader 40 "$PYTHON" -m benchmarks.loader --rounds=1 --images=64 --workers="$(nproc)"
fi
if [ -n "$DATA" ]; then
  EPOCHS=()
  [ -z "$TINY" ] || EPOCHS=(--config.stop_at_step=4 --config.batch_size=16)
  part tiny_imagenet "$(left)" "$PYTHON" -m flsl_jax.main --config=configs/tiny_imagenet.py "--workdir=$SCRATCH/tiny" \
    "--config.data.root=$DATA/train" "--config.compute.workers=$(($(nproc) - 1))" --config.evaluation.every_epochs=10.0 \
    "--config.evaluation.bbox_knn.train.root=$DATA/train" "--config.evaluation.bbox_knn.train.boxes=$DATA/train_boxes.json" \
    "--config.evaluation.bbox_knn.val.root=$DATA/val" "--config.evaluation.bbox_knn.val.boxes=$DATA/val_boxes.json" \
    "--config.checkpoint.max_hours=$("$PYTHON" -c "print(max(1, $(left) - 20) / 3600)")" "${EPOCHS[@]}"
  [ ! -e "$SCRATCH/tiny/metrics.jsonl" ] || cp "$SCRATCH/tiny/metrics.jsonl" "$OUT/tiny_imagenet.jsonl"
fi
echo "== done after $SECONDS s, results in $OUT"
exit "$FAILED"
