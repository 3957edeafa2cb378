"""Weights into PyTorch or ONNX: `python -m flsl_jax.convert --input=runs/mine --format=timm --output=vit_timm`.

Writes one file (or folder) that the other framework loads completely, says how it differs from the trained network, compares
what both compute if PyTorch is installed, and prints code to copy that loads it.
"""

import logging
import os
from pathlib import Path
from typing import Any

from absl import flags

from flsl_jax.command_line import local_path, required, run_main, show_log
from flsl_jax.config.flags import define_reading
from flsl_jax.errors import UserError

_INPUT = flags.DEFINE_string(
    "input", None, "A run's workdir (its newest checkpoint is taken), WORKDIR/checkpoints/STEP, or a weight file."
)
_FORMAT = flags.DEFINE_string(
    "format",
    None,
    "The code to read it: flsl (the authors' release), dino, dinov2, dinov2-registers, timm, detectron2, mmdet-vitdet, mmseg, "
    "mmpretrain, transformers (IJepaModel), transformers-vitdet (VitDetBackbone); or onnx, a program for images of any size. "
    "docs/weights.md compares them.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "What to write: a folder for timm, transformers and transformers-vitdet; else a file, .safetensors (needs no PyTorch) "
    "or .pth, which most of these frameworks read by themselves, or .onnx.",
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


def main() -> int:
    """Checks the flags, converts, and prints the report."""
    source, target = Path(required(_INPUT, "runs/mine")), local_path(required(_OUTPUT, "vit_timm"), flag="--output")
    target_format = required(_FORMAT, "timm")
    show_log(logging.WARNING)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # both sides of the comparison in full float32

    if target_format == "onnx":
        return _write_onnx(source, target)

    from flsl_jax.weights.export.exporting import ExportOptions, export

    choices: dict[str, Any] = {"network": flags.FLAGS.network, "what": _WHAT.value, "dtype": _DTYPE.value}
    options = ExportOptions(
        format=target_format,
        **choices,
        reading=_READING(),
        card=_CARD.value,
        overwrite=_OVERWRITE.value,
        allow_mismatch=_ALLOW_MISMATCH.value,
    )
    print(export(source, target, options).text())
    return 0


def _write_onnx(source: Path, target: Path) -> int:
    """Writes an ONNX file, and refuses the flags that it has no use for."""
    from flsl_jax.weights.export.onnx_files import export_onnx

    refused = {
        "network=both": flags.FLAGS.network == "both",
        "what=all": _WHAT.value == "all",
        f"dtype={_DTYPE.value}": _DTYPE.value != "float32",
        "card": _CARD.value,
        "allow_mismatch": _ALLOW_MISMATCH.value,
    }
    for flag in (flag for flag, is_set in refused.items() if is_set):
        raise UserError(f"--{flag} does not go with --format=onnx, which writes one backbone in float32; leave it out")
    reading = _READING()
    report = export_onnx(source, target, network=reading.network, reading=reading, overwrite=_OVERWRITE.value)
    print(report.text())
    return 0


if __name__ == "__main__":
    run_main(main)
