"""What every evaluation returns."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """`metrics`: the numbers by name, the first one being the protocol's own. `rows`: a table beside them, such as a line a
    class or a video, each with the same keys."""

    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, float | int | str]] = ()
    images: int | None = None
