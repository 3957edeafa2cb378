"""docs/config.md and docs/transfer_config.md: every key of a configuration, from its dataclasses and a config that sets it."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from docs.generate.text import filled
from flsl_jax.config import (
    Config,
    DepthSourceConfig,
    KeypointSourceConfig,
    MaskedSourceConfig,
    ScheduleConfig,
    SourceConfig,
)
from flsl_jax.config.files import load_config
from flsl_jax.config.meanings import meanings, prose
from flsl_jax.config.ranges import Range, range_of
from flsl_jax.transfer.config import DetectionSourceConfig, TransferConfig

# Groups that several keys hold: one section for each, under its own name.
_SHARED = {
    ScheduleConfig: "Schedules",
    SourceConfig: "Sources of images",
    MaskedSourceConfig: "Sources of images with masks",
    KeypointSourceConfig: "Sources of pairs with key points",
    DepthSourceConfig: "Sources of images with depth maps",
    DetectionSourceConfig: "Sources of images with objects",
}
_PRETRAINING = """\
# Every key

`make pages` writes this page from the dataclasses in `flsl_jax/config/` and from `configs/vits16.py`; a test holds it equal to
them.

- A key is a flag of `flsl train` (`--config.optimizer.lr=1e-4`), an attribute in a config file (`config.optimizer.lr = 1e-4`),
  and a setting in Python (`flsl_jax.pretrain(…, settings={"optimizer.lr": 1e-4})`).
- Several values have commas between them (`--config.views.student_area=0.4,1.0`). In place of a schedule one number will do
  (`--config.objective.teacher_temp=0.05`): it is the start and the end.
- Keys of [`config.evaluation.TASK`](#configevaluation) are flags of `flsl evaluate` too, without the front: `--bbox_knn.k=10`.
- The column `vits16` has what `configs/vits16.py` says, rounded to four digits. For all that decides the result these are
  the paper's values, and [the method](method.md) says where each is from. The column "default" has what it means to leave a
  key out; "–": it must be there. All configs that come with the package write all keys out.
- A value out of its range, of another type, or under an unknown name is refused in one line that names the key."""
_FINE_TUNING = """\
# Every key of a fine-tuning run

`make pages` writes this page from `flsl_jax/transfer/config.py` and `configs/transfer/coco_maskrcnn_vits16.py`; a test holds it
equal to them. [Detect and segment](transfer.md) says what they are for.

A key is a flag of `flsl transfer` (`--config.optimizer.lr=1e-4`) and an attribute in a config file. A key that is left out has
its default; the configs in `configs/transfer/` start from `base.py`, which writes all defaults out. A value out of its range,
of another type, or under an unknown name is refused in one line that names the key."""


@dataclasses.dataclass(frozen=True)
class _Group:
    """A dataclass at a place: its path, such as "config.model", and the values that the example config has there."""

    path: str
    kind: type
    values: Any


def pretraining() -> str:
    """The whole of docs/config.md."""
    shared = (ScheduleConfig, SourceConfig, MaskedSourceConfig, KeypointSourceConfig, DepthSourceConfig)
    return _page(_PRETRAINING, Config, example="vits16", shared=shared)


def fine_tuning() -> str:
    """The whole of docs/transfer_config.md."""
    example = "transfer/coco_maskrcnn_vits16"
    return _page(_FINE_TUNING, TransferConfig, example=example, shared=(DetectionSourceConfig, MaskedSourceConfig))


def _page(introduction: str, kind: type, *, example: str, shared: tuple[type, ...]) -> str:
    groups = _groups("config", kind, load_config(example).to_dict())
    sections = [_section(group, example=example.rpartition("/")[2]) for group in groups]
    sections += [_shared_section(kind, _SHARED[kind]) for kind in shared]
    return _linked("\n\n".join([introduction, *sections])) + "\n"


def _linked(text: str) -> str:
    """Pages that docstrings cite, such as docs/data.md, "Masks", as links."""
    with_heading = re.sub(r'docs/(\w+\.md), "([^"]+)"', lambda found: _link(found[2], found[2], page=found[1]), text)
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", with_heading)


def _groups(path: str, kind: type, values: dict[str, Any]) -> Iterator[_Group]:
    """The group and those inside it, except the shared ones."""
    yield _Group(path, kind, values)
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint) and hint not in _SHARED:
            yield from _groups(f"{path}.{name}", typing.cast(type, hint), values[name])


def _section(group: _Group, *, example: str) -> str:
    header = [f"| key | takes | `{example}` | default | meaning |", "|---|---|---|---|---|"]
    hints = typing.get_type_hints(group.kind, include_extras=True)
    told = meanings(group.kind)
    rows = [
        _row(
            f"`{field.name}`",
            _takes(hints[field.name], place=f"{group.path}.{field.name}"),
            _value(group.values[field.name], hints[field.name]),
            _default(field, hints[field.name]),
            told[field.name],
        )
        for field in dataclasses.fields(group.kind)
    ]
    return "\n".join([f"## `{group.path}`", "", _prose(group.kind), "", *header, *rows])


def _shared_section(kind: type, title: str) -> str:
    hints = typing.get_type_hints(kind, include_extras=True)
    told = meanings(kind)
    rows = [
        _row(
            f"`{field.name}`", _takes(hints[field.name], place=""), _default(field, hints[field.name]), told[field.name]
        )
        for field in dataclasses.fields(kind)
    ]
    header = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", _prose(kind), "", *header, *rows])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _prose(kind: type) -> str:
    return "\n\n".join(filled(paragraph) for paragraph in prose(kind))


def _takes(hint: Any, *, place: str) -> str:
    """The type of a key and its range, in words."""
    within, plain = range_of(hint), _plain(hint)
    if plain in _SHARED:
        words = _link(_SHARED[plain], _SHARED[plain])
        return words if within is None else f"{words}: {_range(within)}"
    if dataclasses.is_dataclass(plain):
        return _link("keys", f"`{place}`")
    if typing.get_origin(plain) is Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(plain))
    if typing.get_origin(plain) is tuple:
        inner = typing.get_args(plain)
        several = "any number of" if inner[-1] is Ellipsis else f"{len(inner)}"
        return f"{several} {_NAMES[inner[0]]}s" + ("" if within is None else f", each {_range(within)}")
    return _NAMES[plain] if within is None else f"{_NAMES[plain]}, {_range(within)}"


_NAMES = {int: "integer", float: "number", str: "text", bool: "`True`, `False`"}


def _range(within: Range) -> str:
    return within.describe().removeprefix("a number ")


def _plain(hint: Any) -> Any:
    """A type without the marks of `Annotated`."""
    return typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint


def _link(words: str, heading: str, *, page: str = "") -> str:
    """A link to a heading of a page, by default of this one, by the anchor that GitHub makes of it."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return f"[{words}]({page}#{kept.replace(' ', '-')})"


def _default(field: dataclasses.Field, hint: Any) -> str:
    if field.default is dataclasses.MISSING:
        return "–"
    return _value(field.default, hint)


def _value(value: Any, hint: Any) -> str:
    """A value as a person would write it; of a schedule, the way that it takes."""
    plain = _plain(hint)
    if plain is ScheduleConfig:
        keys = types.SimpleNamespace(**(value if isinstance(value, dict) else dataclasses.asdict(value)))
        if keys.start == keys.end or keys.kind == "constant":
            return f"`{_number(keys.start)}`"
        over = f" over {keys.epochs:g} epochs" if keys.epochs else ""
        return f"`{_number(keys.start)}` → `{_number(keys.end)}`, {keys.kind}{over}"
    if plain in _SHARED:
        given = value if isinstance(value, dict) else dataclasses.asdict(value)
        other = [f"`{key}={given[key]}`" for key, usual in dataclasses.asdict(plain()).items() if given[key] != usual]
        return ", ".join(other)
    if dataclasses.is_dataclass(plain):
        return ""
    if isinstance(value, tuple | list):
        return f"`({', '.join(map(_number, value))}{',' if len(value) == 1 else ''})`"
    return f"`{_number(value)}`"


def _number(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value) if len(repr(value)) <= 8 or not isinstance(value, float) else f"{value:.4g}"
