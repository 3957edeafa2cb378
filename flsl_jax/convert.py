"""Weights into PyTorch, ONNX or StableHLO: `python -m flsl_jax.convert --input=runs/mine --format=timm --output=vit_timm`.

Writes one file (or folder) that the other framework loads completely, says how it differs from the trained network, compares
what both compute if PyTorch is installed, and prints code to copy that loads it.
"""

import logging
import os
from pathlib import Path
from typing import Any

from absl import flags

from flsl_jax.command_line import local_path, required, run_main, show_log
from flsl_jax.config.reading_flags import define_reading
from flsl_jax.errors import UserError

_INPUT = flags.DEFINE_string(
    "input", None, "A run's workdir (its newest checkpoint is taken), WORKDIR/checkpoints/STEP, or a weight file."
)
_FORMAT = flags.DEFINE_string(
    "format",
    None,
    "The code to read it: flsl (the authors' release), dino, dinov2, dinov2-registers, dinov3, timm, detectron2, mmdet-vitdet, "
    "mmseg, mmpretrain, transformers (IJepaModel), transformers-vitdet (VitDetBackbone); or a program for images of any size: "
    "onnx, or stablehlo (jax.export). docs/weights.md compares them.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "What to write: a folder for timm, transformers and transformers-vitdet; else a file, .safetensors (needs no PyTorch) "
    "or .pth, which most of these frameworks read by themselves, .onnx or .stablehlo.",
)
_READING = define_reading(both=True)
_WHAT = flags.DEFINE_enum(
    "what", "backbone", ["backbone", "all"], "all: the head and its centroids too; for flsl and dino only."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Type of the numbers in the file.")
_CARD = flags.DEFINE_bool("card", False, "Write a model card beside it: training, curves, evaluation numbers.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what an earlier conversion wrote to --output.")
_ALLOW_MISMATCH = flags.DEFINE_bool(
    "allow_mismatch", False, "Write even if the target computes something else than the trained network."
)


_PUSH = flags.DEFINE_string(
    "push_to",
    None,
    "USER/NAME: also send it, with a model card, to that repository of the Hugging Face Hub (pip install huggingface_hub).",
)
_PRIVATE = flags.DEFINE_bool("private", True, "Of --push_to: a new repository is seen by you alone.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Of --push_to: show the files and the card, and send nothing.")


def main() -> int:
    """Checks the flags, converts, prints the report, and sends the files where that is asked for."""
    source, target = Path(required(_INPUT, "runs/mine")), local_path(required(_OUTPUT, "vit_timm"), flag="--output")
    target_format = required(_FORMAT, "timm")
    show_log(logging.WARNING)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # both sides of the comparison in full float32
    for flag, is_set in (("dry_run", _DRY_RUN.value), ("noprivate", not _PRIVATE.value)):
        if is_set and _PUSH.value is None:
            raise UserError(f"--{flag} is for --push_to=USER/NAME, which is missing")
    if _PUSH.value is not None:
        from flsl_jax.weights.export.pushing import check_push

        check_push(_PUSH.value, dry_run=_DRY_RUN.value)
    write = _write_program if target_format in ("onnx", "stablehlo") else _write_tensors
    written = write(source, target, target_format, with_card=_CARD.value or _PUSH.value is not None)
    print(written.text())
    if _PUSH.value is not None:
        _send(written, source=source, repo=_PUSH.value)
    return 0


def _write_tensors(source: Path, target: Path, target_format: str, *, with_card: bool) -> Any:
    """Writes a file or folder of tensors."""
    from flsl_jax.weights.export.exporting import ExportOptions, export

    choices: dict[str, Any] = {"network": flags.FLAGS.network, "what": _WHAT.value, "dtype": _DTYPE.value}
    options = ExportOptions(
        format=target_format,
        **choices,
        reading=_READING(),
        card=with_card,
        overwrite=_OVERWRITE.value,
        allow_mismatch=_ALLOW_MISMATCH.value,
    )
    return export(source, target, options)


def _write_program(source: Path, target: Path, target_format: str, *, with_card: bool) -> Any:
    """Writes a program, and refuses the flags that it has no use for."""
    refused = {
        "network=both": flags.FLAGS.network == "both",
        "what=all": _WHAT.value == "all",
        f"dtype={_DTYPE.value}": _DTYPE.value != "float32",
        "allow_mismatch": _ALLOW_MISMATCH.value,
    }
    for flag in (flag for flag, is_set in refused.items() if is_set):
        raise UserError(
            f"--{flag} does not go with --format={target_format}, which writes one backbone in float32; leave it out"
        )
    from flsl_jax.weights.export.onnx_files import ONNX
    from flsl_jax.weights.export.program_files import ProgramOptions, export_program
    from flsl_jax.weights.export.stablehlo_files import STABLEHLO

    reading = _READING()
    options = ProgramOptions(network=reading.network, reading=reading, overwrite=_OVERWRITE.value, card=with_card)
    return export_program(source, target, {"onnx": ONNX, "stablehlo": STABLEHLO}[target_format], options)


def _send(written: Any, *, source: Path, repo: str) -> None:
    """Sends what was written, or shows it."""
    from flsl_jax.weights.export.card import card_paths
    from flsl_jax.weights.export.pushing import planned, push

    curves = card_paths(written.path, is_folder=written.path.is_dir())[1]
    beside = [path for path in (getattr(written, "facts", None), curves) if path is not None]
    upload = planned(repo, source, written.path, beside, card=written.card)
    if _DRY_RUN.value:
        print(f"\nwould be sent to {upload.text()}")
    else:
        print(f"\nsent to {push(upload, private=_PRIVATE.value, output=written.path)}")


if __name__ == "__main__":
    run_main(main)
