"""What differs between two configs of a run, what of it changes the numbers that the run computes, and how that is refused."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flsl_jax.errors import UserError

# Keys and groups of keys with which pretraining computes the same up to rounding, or only goes on longer.
_FREE_DATA = ("data.on_corrupt", "data.max_corrupt_share", "data.boxes")
_FREE = ("stop_at_step", *_FREE_DATA, "evaluation", "compute", "parallel", "checkpoint", "logging")
# How many changes a refusal names.
_NAMED = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A key of the config, such as "optimizer.lr", with its old and its new value."""

    key: str
    old: Any
    new: Any

    @property
    def is_free(self) -> bool:
        """Whether pretraining computes the same with it, up to rounding."""
        return _is_free(self.key)

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.old)} → {_shown(self.new)}"


def differences(old: Any, new: Any) -> tuple[Change, ...]:
    """Every key whose value differs between two configs of one dataclass, in the order of its fields."""
    before, after = (dict(leaves(dataclasses.asdict(config))) for config in (old, new))
    return tuple(Change(key=key, old=before[key], new=value) for key, value in after.items() if before[key] != value)


def check_names(names: Sequence[str], config: Any, *, more: Sequence[str] = (), page: str = "docs/config.md") -> None:
    """Refuses a name in --allow_changes that is neither a key of the config nor a group of keys.

    Args:
        names: such as "optimizer.lr" or "optimizer".
        config: a dataclass of dataclasses, such as `Config`.
        more: other names that are known.
        page: what lists the keys.

    Raises:
        UserError: names the keys that end so, or else the nearest one.
    """
    keys = [*(key for key, _ in leaves(dataclasses.asdict(config))), *more]
    groups = {".".join(key.split(".")[:depth]) for key in keys for depth in range(1, key.count(".") + 2)}
    for name in names:
        if name in groups:
            continue
        near = [key for key in keys if key.endswith(f".{name}") and not _is_free(key)]
        near = near or difflib.get_close_matches(name, sorted(groups), n=1)
        meant = f"did you mean {' or '.join(near[:3])}?" if near else f"{page} lists its keys"
        raise UserError(f"--allow_changes names {name!r}, which the config does not have; {meant}")


def refusal(refused: Sequence[Change], *, allowed: Sequence[str], step: int, workdir: Path) -> str:
    """Why a run does not continue, and how it would.

    Args:
        refused: what has changed and is not allowed; at least one.
        allowed: names that were given to --allow_changes already.
        step: updates done.
        workdir: of the run.
    """
    named = "; ".join(map(str, refused[:_NAMED]))
    more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    names = dict.fromkeys([*allowed, *(change.key.split(".")[0] if more else change.key for change in refused)])
    allow = ",".join(name for name in names if not any(name != other and within(name, other) for other in names))
    return (
        f"the run in {workdir} was trained to step {step} with other settings ({named}{more}); take another --workdir for a "
        f"new run, repeat the run's own command (its settings are --config={workdir}), or continue with the new settings by "
        f"--allow_changes={allow}"
    )


def _is_free(key: str) -> bool:
    return any(within(key, name) for name in _FREE)


def within(key: str, name: str) -> bool:
    """Whether `name` is the key itself or a group that holds it."""
    return key == name or key.startswith(f"{name}.")


def leaves(values: Mapping[str, Any], *, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a nested mapping, such as "optimizer.lr", with its value, in order; below a `path` that ends in a dot."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, path=f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _shown(value: Any) -> str:
    return repr(value) if value == "" else str(value)
