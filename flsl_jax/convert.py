"""Weights into PyTorch: `python -m flsl_jax.convert --input=runs/mine --format=timm --output=vit_timm`.

Writes one file (or folder) that the other framework loads completely, says how it differs from the trained network, compares
what both compute if PyTorch is installed, and prints code to copy that loads it.
"""

import logging
import os
from pathlib import Path
from typing import Any

from absl import flags

from flsl_jax.command_line import required, run_main, show_log

_INPUT = flags.DEFINE_string(
    "input", None, "A run's workdir (its newest checkpoint is taken), WORKDIR/checkpoints/STEP, or a weight file."
)
_FORMAT = flags.DEFINE_string(
    "format",
    None,
    "The code to read it: flsl (the authors' release), dino, dinov2, dinov2-registers, timm, detectron2, mmdet-vitdet, mmseg, "
    "mmpretrain, transformers (IJepaModel), transformers-vitdet (VitDetBackbone). docs/weights.md compares them.",
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
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Type of the numbers in the file.")
_NUM_HEADS = flags.DEFINE_integer(
    "num_heads", 0, "Heads of a weight file that does not give them; 0: of 64 channels each.", 0
)
_CARD = flags.DEFINE_bool("card", False, "Write a model card beside it: training, curves, evaluation numbers.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what an earlier conversion wrote to --output.")
_ALLOW_MISMATCH = flags.DEFINE_bool(
    "allow_mismatch", False, "Write even if the target computes something else than the trained network."
)


def main() -> int:
    """Checks the flags, converts, and prints the report."""
    source, target = Path(required(_INPUT, "runs/mine")), Path(required(_OUTPUT, "vit_timm"))
    target_format = required(_FORMAT, "timm")
    show_log(logging.WARNING)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # both sides of the comparison in full float32

    from flsl_jax.weights.export.exporting import ExportOptions, export

    choices: dict[str, Any] = {"network": _NETWORK.value, "what": _WHAT.value, "dtype": _DTYPE.value}
    options = ExportOptions(
        format=target_format,
        **choices,
        num_heads=_NUM_HEADS.value or None,
        card=_CARD.value,
        overwrite=_OVERWRITE.value,
        allow_mismatch=_ALLOW_MISMATCH.value,
    )
    print(export(source, target, options).text())
    return 0


if __name__ == "__main__":
    run_main(main)
