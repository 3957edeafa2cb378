"""Numbers on record that a run's last line shows beside its own, such as those of another method."""

import dataclasses
from collections.abc import Mapping, Sequence

from flsl_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """`name`: of what was measured ("": nothing); `values`: by TASK/METRIC."""

    name: str
    values: Mapping[str, float]


def recorded_values(entries: Sequence[str]) -> Recorded:
    """What `config.evaluation.recorded` holds: a name, then TASK/METRIC=VALUE for each metric.

    Raises:
        UserError: an entry is not of this form; names it.
    """
    name, *rest = entries or ("",)
    values = {}
    for entry in rest:
        metric, equals, number = entry.partition("=")
        try:
            values[metric] = float(number)
        except ValueError:
            equals = ""
        if not equals or "/" not in metric:
            raise UserError(
                f"config.evaluation.recorded has {entry!r}; expected a name, then TASK/METRIC=VALUE, such as "
                '("DINO twin", "bbox_knn/token=0.53")'
            )
    return Recorded(name=name, values=values)
