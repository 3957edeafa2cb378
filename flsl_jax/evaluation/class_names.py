"""The classes of two sources: matched by name, or refused where they differ."""

from collections.abc import Iterable, Sequence

import numpy as np

from flsl_jax.data.truth.masks import MaskedSource
from flsl_jax.errors import UserError
from flsl_jax.typing import Int


def translation(bank: Sequence[str], queries: Sequence[str], *, what: str) -> Int[np.ndarray, " C"] | None:
    """The bank's number for each of the queries' C classes, -1 where the bank lacks it; None where both number them alike.

    Args:
        bank, queries: class names in the order of their numbers.
        what: what the error message calls the evaluation.

    Raises:
        UserError: the two have no name in common.
    """
    if tuple(bank) == tuple(queries):
        return None
    numbers = {name: number for number, name in enumerate(bank)}
    translated = np.array([numbers.get(name, -1) for name in queries], np.int32)
    if not (translated >= 0).any():
        raise UserError(
            f"{what}: the classes of its bank ({_listed(bank)}) and of its queries ({_listed(queries)}) have "
            "no name in common; set sources of the same classes for both"
        )
    return translated


def _listed(names: Iterable[str]) -> str:
    names = tuple(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "") or "no names"


def check_same_classes(train: MaskedSource, val: MaskedSource) -> None:
    """Refuses two sources whose labels mean different classes.

    Raises:
        UserError: names the first label that differs.
    """
    if train.class_names != val.class_names:
        pairs = zip(train.class_names, val.class_names)
        first = next((number for number, (a, b) in enumerate(pairs) if a != b), min(train.num_classes, val.num_classes))
        names = [source.class_names[first] if first < source.num_classes else "nothing" for source in (train, val)]
        raise UserError(
            f"train ({train.name}) has {train.num_classes} classes and val ({val.name}) {val.num_classes}; label {first} is "
            f'"{names[0]}" there and "{names[1]}" here; set the same classes and ignore for both'
        )
