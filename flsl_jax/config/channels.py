"""Checks that normalisation, augmentations and sources fit the channels of a run's images, and what its window says."""

import dataclasses
import math
from typing import Any

from flsl_jax.config.parsing import require
from flsl_jax.config.run import Config, ViewsConfig

_COLOUR, _GREY = 3, 1
AUTO = "auto"


def check_channels(config: Config) -> None:
    """Refuses what does not fit `data.channels`: means of another number, augmentations of colour, scenes.

    Raises:
        UserError: one line that names the keys and what to set them to.
    """
    channels = config.data.channels
    read_window(config.data.window)
    _check_views(config.views, channels=channels)
    if channels not in (_COLOUR, _GREY):
        for name, source in _sources(config).items():
            require(
                source.name != "scenes",
                f'{name}.name is "scenes", which are colour images, and config.data.channels is {channels}; name images with '
                "so many bands",
            )


def _check_views(views: ViewsConfig, *, channels: int) -> None:
    """Refuses all that does not fit the channels in one message, whose flags together mend it."""
    problems, flags = [], []
    for name, usual in (("mean", "0.5"), ("std", "0.25")):
        values = getattr(views, name)
        if len(values) != channels:
            problems.append(f"{name} has {len(values)} number(s), {values}, not one for each channel")
            flags.append(f"--config.views.{name}={','.join([usual] * channels)}")
    meaningless = _without_meaning(views, channels=channels)
    if meaningless:
        named = ", ".join(f"{name} = {getattr(views, name)}" for name in meaningless)
        needs = "need colour" if channels == _GREY else "are defined for colour, and solarise for grey images too"
        problems.append(f"{named} {needs}")
        flags += [f"--config.views.{name}=0" for name in meaningless]
    measured = (
        " (better the means and deviations of your own bands, on a scale from 0 to 1)"
        if any(".mean=" in flag for flag in flags)
        else ""
    )
    require(
        not problems,
        f"config.views: {'; '.join(problems)}, and config.data.channels is {channels}; set {' '.join(flags)}{measured}",
    )


def read_window(text: str, *, key: str = "config.data.window") -> tuple[float, float] | None:
    """The two values of `data.window`, or of what `key` names; None where it says none, or "auto".

    Raises:
        UserError: it is something else.
    """
    auto = ", or auto" if key.startswith("config") else ""
    if text == "" or (text == AUTO and auto):
        return None
    try:
        low, high = (float(part) for part in text.strip(" ()[]").split(","))
    except ValueError:
        low = high = math.nan
    require(
        math.isfinite(low) and math.isfinite(high) and low < high,
        f"{key} is {text!r}; expected two numbers, the first below the second, such as 0,4095{auto}",
    )
    return low, high


def write_window(low: float, high: float) -> str:
    """The text that `read_window` reads back."""
    return ",".join(str(int(value)) if value == int(value) else repr(value) for value in (low, high))


def _without_meaning(views: ViewsConfig, *, channels: int) -> list[str]:
    """The keys of augmentations that act and have no meaning for so many channels."""
    if channels == _COLOUR:
        return []
    jitter = ["saturation", "hue"] if views.jitter_probability else []
    names = [*jitter, "grayscale_probability", *([] if channels == _GREY else ["solarise_probability"])]
    return [name for name in names if getattr(views, name)]


def _sources(config: Config) -> dict[str, Any]:
    """Every source of images that the run opens, by its name."""
    found: dict[str, Any] = {"config.data": config.data}
    for task in config.evaluation.tasks if config.evaluation.every_epochs else ():
        group = getattr(config.evaluation, task, None)
        if dataclasses.is_dataclass(group):
            path = f"config.evaluation.{task}"
            values = {path: group} | {
                f"{path}.{field.name}": getattr(group, field.name) for field in dataclasses.fields(group)
            }
            found |= {name: value for name, value in values.items() if hasattr(value, "scene_kind")}
    return found
