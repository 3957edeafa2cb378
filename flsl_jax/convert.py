"""Weights into PyTorch: `python -m flsl_jax.convert --input=runs/mine --format=timm --output=vit_timm`.

Writes one file (or folder) that the next framework loads whole, says what in it differs from the trained network, compares
what both compute where PyTorch is installed, and prints code to copy that loads it.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from flsl_jax.errors import UserError, run_main

_INPUT = flags.DEFINE_string(
    "input", None, "A run's workdir (its newest checkpoint is taken), WORKDIR/checkpoints/STEP, or a weight file."
)
_FORMAT = flags.DEFINE_string(
    "format",
    None,
    "Who reads it: flsl (the authors' release), dino, timm, detectron2, mmdet-vitdet, mmseg, mmpretrain, transformers "
    "(IJepaModel), transformers-vitdet (VitDetBackbone). docs/weights.md compares them.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "What to write: a folder for timm, transformers and transformers-vitdet; else a file, .safetensors (needs no PyTorch) "
    "or .pth, which most of these frameworks read by themselves.",
)
_NETWORK = flags.DEFINE_enum(
    "network", "teacher", ["teacher", "student", "both"], "Which network; both for flsl and dino only."
)
_WHAT = flags.DEFINE_enum(
    "what", "backbone", ["backbone", "all"], "all: the head and its centroids too; for flsl and dino only."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Of the numbers in the file.")
_NUM_HEADS = flags.DEFINE_integer("num_heads", 0, "Of a weight file that does not say; 0: channels of 64 each.", 0)
_CARD = flags.DEFINE_bool("card", False, "Write a model card beside it: training, curves, evaluation numbers.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what an earlier conversion wrote to --output.")
_ALLOW_MISMATCH = flags.DEFINE_bool(
    "allow_mismatch", False, "Write even where the target computes something else than the trained network."
)


def main(arguments: Sequence[str]) -> int:
    """Checks the flags, converts, and prints the report."""
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; flags are written --name=value")
    for name, flag in {"input": _INPUT, "format": _FORMAT, "output": _OUTPUT}.items():
        if not flag.value:
            raise UserError(f"--{name} is missing; such as --input=runs/mine --format=timm --output=vit_timm")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # both sides of the comparison in full float32

    from flsl_jax.weights.export.exporting import ExportOptions, export

    options = ExportOptions(
        format=_FORMAT.value,
        network=_NETWORK.value,
        what=_WHAT.value,
        dtype=_DTYPE.value,
        num_heads=_NUM_HEADS.value or None,
        card=_CARD.value,
        overwrite=_OVERWRITE.value,
        allow_mismatch=_ALLOW_MISMATCH.value,
    )
    print(export(Path(_INPUT.value), Path(_OUTPUT.value), options).text())
    return 0


if __name__ == "__main__":
    run_main(main)
