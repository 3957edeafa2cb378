#!/usr/bin/env bash
# All that one GPU can say of this code, in at most nine minutes; every result is written as it comes.
#
#   benchmarks/accelerator.sh OUT [--data=FOLDER] [--coco=FOLDER] [--minutes=9] [--only=PART,PART] [--device=cpu] [--tiny]
#
# OUT gets, in this order: smoke.txt, correctness.txt, step_vits16.{txt,json} (beside PyTorch's compiled step, with the step's
# parts and a profile), step_vits8, step_vitb16, method_cost (FLSL's step beside DINO's), loader.txt;
# with --coco, a folder with images/{train,val}/ and annotations/instances_{train,val}.json (COCO format, with masks):
# detector.{txt,jsonl}, the paper's Mask R-CNN at full size for 100 steps, with random weights: images/s and memory;
# with --data, a folder with train/, val/, train_boxes.json and val_boxes.json (COCO format, 64 px): tiny_imagenet.txt and .jsonl,
# the curve of configs/tiny_imagenet.py for the time that is left. A part that finds no time left says so; --only names those
# to run in a later call. Most of the time goes into compiling, one to two minutes a program on an H200 where several are
# compiled at once. --tiny shrinks everything, to try the script itself:
#
#   benchmarks/accelerator.sh /tmp/out --device=cpu --tiny
#
# It needs no network, and of Python: jax with CUDA, flax, optax, orbax-checkpoint, and, for the comparison, torch. What such
# a machine often lacks can be brought as wheels; `pip download --no-deps` here, `pip install --no-index --no-deps --target` there:
# array_record cykooz-resizer grain jaxtyping lightning-fabric ml-collections portpicker pycocotools simplejpeg tensorboardX
set -uo pipefail
cd "$(dirname "$0")/.." || exit

OUT="" DATA="" COCO="" MINUTES=9 TINY="" ONLY=""
for argument in "$@"; do
  case $argument in
    --data=*) DATA=${argument#*=} ;;
    --coco=*) COCO=${argument#*=} ;;
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
[ -z "$COCO" ] || [ -f "$COCO/annotations/instances_train.json" ] ||
  { echo "error: --coco=$COCO has no annotations/instances_train.json" >&2; exit 2; }
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
  step vits16 250 --batch=256 --steps=4 --together --ready_seconds=200 --variants=cudnn:unroll,xla:unroll --torch=tuned \
    --parts --profile="$SCRATCH/trace"
  step vits8 150 --batch=32 --steps=4 --together --ready_seconds=120 --variants=cudnn:unroll,xla:unroll --torch=tuned
  step vitb16 150 --batch=128 --steps=4 --together --ready_seconds=120 --variants=cudnn:unroll,xla:unroll --torch=tuned
  part method_cost 130 "$PYTHON" -m benchmarks.step --config=configs/vits16.py --beside=dino_vits16 --batch=64 --steps=10 --together \
    --ready_seconds=110 --variants=cudnn:unroll --torch= "--json=$OUT/method_cost.json"
  part loader 40 "$PYTHON" -m benchmarks.loader --rounds=1 --images=64 --workers="$(nproc)"
fi
if [ -n "$COCO" ]; then
  SIZES=()
  [ -z "$TINY" ] || SIZES=(--config.steps=2 --config.batch_size=2 "--config.augment.sizes=(160,)" --config.data.val.limit=4)
  part detector 200 "$PYTHON" -m flsl_jax.transfer --config=transfer/coco_maskrcnn_vits16 --backbone=random:vits16 \
    "--workdir=$SCRATCH/detector" --config.steps=100 --config.optimizer.warmup_steps=20 --config.log_every=10 --config.measure_every=0 \
    "--config.data.workers=$(($(nproc) - 1))" "--config.data.train.root=$COCO/images/train" "--config.data.val.root=$COCO/images/val" \
    "--config.data.train.annotations=$COCO/annotations/instances_train.json" \
    "--config.data.val.annotations=$COCO/annotations/instances_val.json" "${SIZES[@]}"
  [ ! -e "$SCRATCH/detector/metrics.jsonl" ] || cp "$SCRATCH/detector/metrics.jsonl" "$OUT/detector.jsonl"
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
