"""What `import flsl_jax` offers: training and loading from Python. Nothing heavy is imported before a function is called."""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal

    from ml_collections import ConfigDict

    from flsl_jax.config import Config
    from flsl_jax.features import Backbone
    from flsl_jax.loop import Outcome
    from flsl_jax.typing import Array


def pretrain(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    workdir: str | os.PathLike[str],
    model: str = "vits16",
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    allow_changes: Sequence[str] = (),
) -> Outcome:
    """Trains a network on a folder of images, or continues the run in `workdir`.

    In a script, call it below `if __name__ == "__main__":`, because the processes that read images run the script again.

    Args:
        images: a folder of images at any depth, or several; no labels are needed. JPEG, PNG, WebP, BMP and TIFF are read. A
            file that lists images, or a folder of shards, is taken too (docs/data.md).
        workdir: folder of the run, created if it does not exist: checkpoints, metrics and curves. `flsl_jax.load(workdir)`
            gives the trained backbone.
        model: the config to train by, as `get_config` takes it: "vits16", "vits8" and "vitb16" are the paper's networks,
            "quickstart" is a small one for a CPU.
        epochs: passes over the images; by default what the config says.
        settings: other keys of the config by their names on the command line, such as
            `{"batch_size": 64, "optimizer.lr": 1e-4}`. Nothing is measured during training unless
            `evaluation.every_epochs` is set here.
        allow_changes: as `train` takes it.

    Returns:
        Which step was reached, and whether those were all; a signal or `checkpoint.max_hours` ends a run early, saved.

    Raises:
        UserError: anything that you can fix, such as an unknown setting, a value out of range, or too few images; the
            message is the one line that the command line would print.
    """
    import os

    from flsl_jax.config.parsing import changed
    from flsl_jax.config.roots import join_roots, split_roots
    from flsl_jax.data.sources.kinds import kind_of

    roots = join_roots([os.fspath(root) for root in ([images] if isinstance(images, str | os.PathLike) else images)])
    kinds = {kind_of(root) if os.path.exists(root) else "folder" for root in split_roots(roots)}
    name = kinds.pop() if len(kinds) == 1 and "image" not in kinds else "auto"
    values: dict[str, Any] = {"data.name": name, "data.root": roots, "evaluation.every_epochs": 0.0}
    values |= {} if epochs is None else {"epochs": epochs, "epoch_images": 0}
    asked = changed(get_config(model).to_dict(), {**values, **(settings or {})}, path="config", whose="settings")
    return train(asked, workdir=workdir, allow_changes=allow_changes)


def get_config(name: str) -> ConfigDict:
    """A whole configuration, to be changed and given to `train`.

    Args:
        name: a config that comes with the package, such as "vits16" or "quickstart", or the path of a Python file with
            `get_config()`.

    Returns:
        The configuration as an `ml_collections.ConfigDict`; `flsl_jax.config.Config` documents its keys.

    Raises:
        UserError: there is no such config, or the file is not one.
    """
    from flsl_jax.config.files import load_config

    return load_config(name)


def train(
    config: ConfigDict | Mapping[str, Any] | Config,
    *,
    workdir: str | os.PathLike[str],
    allow_changes: Sequence[str] = (),
) -> Outcome:
    """Trains by a configuration, or continues the run in `workdir` from its newest complete checkpoint.

    In a script, call it below `if __name__ == "__main__":`, because the processes that read images run the script again.

    Args:
        config: what `get_config` returns, a nested mapping of the same keys, or a checked `flsl_jax.config.Config`.
        workdir: folder of the run, created if it does not exist.
        allow_changes: keys of the config, or groups of them, such as `["optimizer.lr", "data"]`, that may differ from those
            that the run was trained with. Other changes are refused, but for those that leave the numbers as they are.

    Returns:
        Which step was reached, and whether those were all that the config asked for.

    Raises:
        UserError: anything that you can fix, before the first step if it can be known by then; and a non-finite
            value during training.
    """
    _leave_a_worker()
    from ml_collections import ConfigDict

    from flsl_jax import loop
    from flsl_jax.command_line import local_path
    from flsl_jax.config import Config, parse_config

    if isinstance(config, ConfigDict):
        config = config.to_dict()
    checked = config if isinstance(config, Config) else parse_config(config)
    return loop.train(checked, workdir=local_path(workdir, flag="workdir"), allow_changes=allow_changes)


def _leave_a_worker() -> None:
    """Ends a process that is to read images, if it only runs the user's script again in order to start."""
    import multiprocessing

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(
            'error: put the call that trains below `if __name__ == "__main__":` in your script, because the processes that '
            "read images run its top level again"
        )


def load(
    path: str | os.PathLike[str],
    *,
    network: Literal["teacher", "student"] = "teacher",
    prefix: str | None = None,
    source: str | None = None,
    num_heads: int | None = None,
    grid: tuple[int, int] | None = None,
    dtype: str = "float32",
) -> Backbone:
    """The trained backbone of a run, or one from elsewhere. What was left out or assumed is logged.

    Args:
        path: a run's workdir (its newest committed checkpoint is taken), one checkpoint (`WORKDIR/checkpoints/STEP`), a
            weight file (`.safetensors`, `.pth`, `.pt`, `.bin`, Google's `.npz`, the `.index.json` of several), or a folder with
            config.json and the weights, as timm and transformers save it. docs/weights.md lists whose files can be read.
        network: which one, if a run or a file has both: the teacher, which is usually the better one, or the student.
        prefix: what stands before the names of the backbone's tensors in a weight file that holds several backbones, such as
            "model.student.backbone."; an error names those that are there.
        source: the source of a weight file, if it would be taken for another source's by its names alone.
        num_heads: attention heads of a weight file; by default what its metadata or config says, else D / 64.
        grid: rows and columns of patches in a weight file's position embedding, such as (14, 16); by default what its metadata
            or config says, else a square. Needed where the number of positions allows two grids.
        dtype: "float32" or "bfloat16", of the matrix products, on whatever device the model is called. What a run was
            trained in, and by whose attention, does not matter here. The parameters are float32 in any case.

    Returns:
        The model. `model(images)` maps float images [B, H, W, C], normalised, with H and W divisible by the patch size p, to
        float32 tokens [B, H / p, W / p, D]; `flsl_jax.preprocess` makes such images of files and pixels. C is 3, RGB, unless
        it was trained otherwise. Class token and registers take part and are left out of the result. `model.modes`,
        `model.layers`, `model.attention` and `model.each` give other features, and features of images of many sizes; see
        `flsl_jax.features.Backbone`.

    Raises:
        UserError: there is nothing that can be loaded, or the dtype is neither of the two.
    """
    from pathlib import Path

    from flsl_jax.weights.load import load_model

    return load_model(
        Path(path), network=network, prefix=prefix, source=source, num_heads=num_heads, grid=grid, dtype=dtype
    )


def preprocess(images: Any, model: Backbone, *, size: int | None = None, crop: bool = False) -> Array:
    """Images as the model expects them: decoded, resized, padded to whole patches, and normalised as its weights say.

    A model that was trained on other bands than colour gets those; docs/data.md, "Bands and levels", has the rules.

    Args:
        images: one image or a list of them: paths of image files, their bytes, Pillow images, or uint8 arrays [H, W, C], or
            [H, W] for grey; or one uint8 array [B, H, W, C]. C is 3, RGB, unless the model has other channels. Files and Pillow
            images are read as in training: upright, transparency on white.
        model: what `flsl_jax.load` returns; its `mean`, `std`, `image_size` and `patch_size` count.
        size: of the shorter side after resizing (Pillow's antialiased bicubic filter), in pixels; no side becomes longer than
            four times that. None: the size of the images in its training; 0: images stay as large as they are.
        crop: whether the central square is cut out, as in the evaluations, so that all images have one size.

    Returns:
        float32 [B, H, W, C]. Without `crop`, the bottom and the right are filled up with zeros, the training images' mean
        colour, to a height and width that the patch divides.

    Raises:
        UserError: an image cannot be read or is not uint8; the images come out in several sizes, for which there is
            `model.each`; or a square crop is not a multiple of the patch.

    Example:
        >>> model = flsl_jax.load("runs/mine")
        >>> flsl_jax.preprocess("photo.jpg", model).shape
        (1, 32, 48, 3)
        >>> flsl_jax.preprocess(["photo.jpg", "photo.jpg"], model, size=64, crop=True).shape
        (2, 64, 64, 3)
    """
    from flsl_jax import features

    return features.preprocess(images, model, size=size, crop=crop)
