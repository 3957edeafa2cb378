"""What a weight file says about itself: metadata that flsl_jax wrote, or the config.json of timm or transformers."""

import dataclasses
import json
import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.errors import UserError
from flsl_jax.models.position import PosResize
from flsl_jax.weights.reading.weight_file import WeightFile

# Layouts that are written here, and the source as whose files they are read.
_SOURCE_OF_LAYOUT = {"flsl": "dino", "mmdet-vitdet": "deit"}
_ASSUMED = "assumed ImageNet's mean and standard deviation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileMetadata:
    """What is known of a network without looking at its tensors; None where the file does not give it.

    `source`: name of one of `sources.SOURCES`. `grid`: tokens of the position embedding. `activation`: of the MLP. `rope_base`:
    of rotary positions. `mean`, `std`: of pixel levels from 0 to 1; ImageNet's unless the file gives others. `window`: as of
    `data.levels.Decoding`. `inv_temp`: τ of the mean shift of its training. `notes`: what the user should
    know.
    """

    source: str | None = None
    num_heads: int | None = None
    norm_eps: float | None = None
    grid: tuple[int, int] | None = None
    pos_resize: PosResize | None = None
    activation: str | None = None
    rope_base: float | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    window: tuple[float, float] | None = None
    inv_temp: float | None = None
    notes: tuple[str, ...] = ()


def read_file_metadata(file: WeightFile) -> FileMetadata:
    """Reads our own metadata if there is any, otherwise the config of timm or transformers, otherwise nothing.

    Raises:
        UserError: metadata or config have values that cannot be read.
    """
    try:
        if "architecture" in file.metadata:
            return _checked(_from_metadata(file.metadata))
        if "pretrained_cfg" in file.config:
            return _checked(_from_timm(file.config))
        if "model_type" in file.config:
            return _checked(_from_transformers(file.config, file.preprocessor))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        where = "its metadata" if "architecture" in file.metadata else file.path.parent / "config.json"
        raise UserError(f"{file.path}: {where} cannot be understood ({type(error).__name__}: {error})") from error
    if file.flax:
        return FileMetadata(
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            notes=(
                "assumed images with levels from -1 to 1, as Google's vision transformers are trained on",
                "GELU is exact here, as in timm; Google's code has its tanh form, which differs by up to 0.0005",
            ),
        )
    return FileMetadata(notes=(f"the file does not give its normalisation; {_ASSUMED}",))


def fitted_normalisation(
    metadata: FileMetadata, channels: int, *, path: Path, notes: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation for so many channels. Where the file gives none, 0.5 takes the place of ImageNet's; for one
    channel, those of colour are averaged. `notes` then say so.

    Raises:
        UserError: the file gives those of another number of channels.
    """
    mean, std = metadata.mean, metadata.std
    if len(mean) == len(std) == channels:
        return mean, std
    assumed = [place for place, note in enumerate(notes) if note.endswith(_ASSUMED)]
    if assumed:
        notes[assumed[0]] = notes[assumed[0]].replace(_ASSUMED, f"assumed 0.5 for its {channels} channel(s)")
        return (0.5,) * channels, (0.5,) * channels
    if channels == 1:
        notes.append("its config has a normalisation for colour, and its images one channel: the average is taken")
        return (sum(mean) / len(mean),), (sum(std) / len(std),)
    raise UserError(
        f"{path}: the network sees {channels} channels, and its config has a mean of {len(mean)} and a standard deviation of "
        f"{len(std)} numbers; write one for each channel into that"
    )


def _checked(found: FileMetadata) -> FileMetadata:
    """The same, if its numbers can be computed with; else a ValueError."""
    numbers = {"norm_eps": found.norm_eps, "rope_base": found.rope_base, "num_heads": found.num_heads}
    numbers |= {f"std[{place}]": value for place, value in enumerate(found.std)}
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f"{name} is {number}; expected a number above 0")
    if not all(map(math.isfinite, found.mean)):
        raise ValueError(f"mean is {found.mean}")
    if found.grid is not None and min(found.grid) < 1:
        raise ValueError(f"grid is {found.grid}")
    return found


def _window(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = map(float, value)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"window is {value}")
    return low, high


def _pos_resize(value: Any) -> PosResize:
    if value not in typing.get_args(PosResize):
        raise ValueError(f"pos_resize is {value!r}")
    return value


def _inv_temp(value: Any) -> float | None:
    number = None if value is None else float(value)
    if number is not None and not 0 <= number < math.inf:
        raise ValueError(f"inv_temp is {value}")
    return number


def _from_metadata(metadata: Mapping[str, str]) -> FileMetadata:
    arch = json.loads(metadata["architecture"])
    return FileMetadata(
        source=_SOURCE_OF_LAYOUT.get(metadata["layout"], metadata["layout"]),
        num_heads=int(arch["num_heads"]),
        norm_eps=float(arch["norm_eps"]),
        grid=_pair(arch["grid"]),
        pos_resize=_pos_resize(arch["pos_resize"]),
        mean=_numbers(json.loads(metadata["mean"])),
        std=_numbers(json.loads(metadata["std"])),
        window=_window(json.loads(metadata.get("window", "null"))),
        inv_temp=_inv_temp(json.loads(metadata.get("inv_temp", "null"))),
    )


def _from_timm(config: Mapping[str, Any]) -> FileMetadata:
    cfg, arguments, name = config["pretrained_cfg"], config.get("model_args", {}), config.get("architecture", "")
    patch = re.search(r"patch(\d+)", name)
    image = arguments.get("img_size")
    side = int(arguments.get("patch_size", patch.group(1) if patch else 0))
    activation = arguments.get("act_layer", "quick_gelu" if "quickgelu" in name else None)
    return FileMetadata(
        source="timm",
        num_heads=int(arguments["num_heads"]) if "num_heads" in arguments else None,
        grid=_grid(image, patch_size=side) if image and side else None,
        activation=activation,
        mean=_numbers(cfg.get("mean", (0.5, 0.5, 0.5))),
        std=_numbers(cfg.get("std", (0.5, 0.5, 0.5))),
    )


def _from_transformers(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> FileMetadata:
    image = config.get("pretrain_image_size", config.get("image_size", 224))
    notes = []
    if config.get("window_block_indices"):
        notes.append(
            f"blocks {config['window_block_indices']} attend within windows in the source; here every block attends to all"
        )
    if "image_mean" not in preprocessor:
        notes.append(f"no preprocessor_config.json for the normalisation; {_ASSUMED}")
    return FileMetadata(
        num_heads=int(config["num_attention_heads"]) if "num_attention_heads" in config else None,
        norm_eps=float(config["layer_norm_eps"]) if "layer_norm_eps" in config else None,
        grid=_grid(image, patch_size=_pair(config["patch_size"])[0]) if "patch_size" in config else None,
        activation=config.get("hidden_act"),
        rope_base=float(config["rope_theta"]) if "rope_theta" in config else None,
        mean=_numbers(preprocessor.get("image_mean", IMAGENET_MEAN)),
        std=_numbers(preprocessor.get("image_std", IMAGENET_STD)),
        notes=tuple(notes),
    )


def _grid(image: Any, *, patch_size: int) -> tuple[int, int]:
    height, width = _pair(image)
    return height // patch_size, width // patch_size


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, list | tuple) else (value, value)
    return int(first), int(second)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
