"""Trains a detector or segmenter on a pretrained backbone: `python -m flsl_jax.transfer --config=transfer/scenes_boxes …`.

  python -m flsl_jax.transfer --config=transfer/scenes_boxes --backbone=runs/quickstart --workdir=runs/boxes

  python -m flsl_jax.transfer --workdir=runs/boxes --predict=FOLDER

  python -m flsl_jax.transfer --workdir=runs/boxes --export=boxes.onnx

The first command again continues the run in the workdir, and with other settings only if --allow_changes names them; SIGTERM or
Ctrl-C saves first and exits with code 75. The second one writes what the trained model finds in a folder of images, and
pictures of it; the third one the model itself, as a file that needs nothing of this package to run. All need PyTorch,
torchvision, pycocotools and lightning-fabric: the package with its extra `transfer`.
"""

import logging
import os
from pathlib import Path

from absl import flags

from flsl_jax.command_line import local_path, required, run_main, show_log
from flsl_jax.config.files import define_config_flag
from flsl_jax.config.reading_flags import define_reading
from flsl_jax.errors import UserError, require_packages
from flsl_jax.transfer.config import parse_transfer_config, read_transfer_config

_CONFIG = define_config_flag(
    "config",
    help_string="A config by its name, such as transfer/scenes_boxes, a Python file with get_config(), or the workdir of a "
    "run or its config.json: as that run was. --config.key=value overrides any of its keys.",
    read_saved=read_transfer_config,
)
_BACKBONE = flags.DEFINE_string(
    "backbone",
    None,
    "The pretrained network: a run's workdir, one of its checkpoints, or any weight file that flsl_jax.load reads; "
    "untrained:WORKDIR is what that run started from, random:PATH new random weights of the same size, to compare with; "
    "PATH may be a config too, such as random:vits16.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics and the result.")
_READING = define_reading()
_ALLOW_CHANGES = flags.DEFINE_list(
    "allow_changes",
    [],
    "On continuing a run: keys or groups of the config, such as optimizer.lr,augment, that may differ from those it was "
    "trained with; data: other images under the same keys too; backbone: that --backbone names another one, which is passed "
    "over. Without it a run continues only with what leaves its numbers as they are.",
)

_PREDICT = flags.DEFINE_string(
    "predict", None, "Instead of training: a folder of images to find objects or classes in."
)
_OUTPUT = flags.DEFINE_string("output", None, "Of --predict: an empty or new folder; by default WORKDIR/predictions.")
_SCORE = flags.DEFINE_float("score", 0.5, "Of --predict: how sure a detection must be to be drawn.", 0.0, 1.0)

_EXPORT = flags.DEFINE_string(
    "export",
    None,
    "Instead of training: an .onnx file to write the best model to, once it has been compared with it; needs the extra onnx.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Of --export: replace the file if it is there.")

_STOPPED_EARLY = 75


def main() -> int:
    """Checks the flags, then trains, predicts or exports."""
    workdir = local_path(required(_WORKDIR, "runs/boxes"), flag="--workdir")
    if _PREDICT.value:
        return _predict(workdir, folder=_PREDICT.value)
    if _EXPORT.value:
        return _export(workdir, path=Path(_EXPORT.value))
    if _CONFIG.value is None:
        raise UserError("--config is missing; name a config, such as --config=transfer/scenes_boxes")
    source = required(_BACKBONE, "runs/quickstart")
    config = parse_transfer_config(_CONFIG.value.to_dict())
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    show_log(logging.INFO if is_first else logging.ERROR)
    _check_packages()
    _keep_jax_off_gpus()

    from flsl_jax.transfer.opening import open_backbone
    from flsl_jax.transfer.summary import summary
    from flsl_jax.transfer.training import fine_tune

    backbone = open_backbone(source, network=config.network, reading=_READING(), seed=config.seed)
    allowed = [name.removeprefix("config.") for name in _ALLOW_CHANGES.value]
    outcome = fine_tune(config, backbone=backbone, workdir=workdir, allow_changes=allowed)
    if is_first:
        print(summary(config, workdir=workdir, outcome=outcome))
    return 0 if outcome.finished else _STOPPED_EARLY


def _predict(workdir: Path, *, folder: str) -> int:
    show_log()
    _check_packages()

    from flsl_jax.transfer.predicting import predict_folder
    from flsl_jax.transfer.trained import load_trained

    output = Path(_OUTPUT.value or workdir / "predictions")
    count = predict_folder(load_trained(workdir), folder, output, score=_SCORE.value)
    print(f"{count} images, {output}")
    return 0


def _export(workdir: Path, *, path: Path) -> int:
    show_log(logging.WARNING)
    _check_packages()

    import torch

    from flsl_jax.transfer.exporting import check_export, export_trained
    from flsl_jax.transfer.trained import load_trained

    check_export(path, overwrite=_OVERWRITE.value)
    trained = load_trained(workdir, device=torch.device("cpu"))
    print(export_trained(trained, path, overwrite=_OVERWRITE.value).text())
    return 0


def _keep_jax_off_gpus() -> None:
    """Lets JAX read the backbone on the CPU: each process would take most of a GPU's memory, which is PyTorch's here."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _check_packages() -> None:
    """Refuses in one line to go on without PyTorch and the others of the extra."""
    packages = ("torch", "torchvision", "pycocotools", "lightning_fabric")
    require_packages(*packages, install="install the package with its extra: transfer")


if __name__ == "__main__":
    run_main(main)
