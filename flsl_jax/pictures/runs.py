"""What pictures and the report show of a run besides its features."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from flsl_jax.config import Config


@runtime_checkable
class AlarmMark(Protocol):
    """An alarm of the monitor."""

    @property
    def name(self) -> str:
        """Its name in curves and tables."""
        ...

    @property
    def step(self) -> int:
        """The step of the metrics that raised it."""
        ...

    @property
    def message(self) -> str:
        """What is seen, the likely cause and what to change."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A training run, read back from its workdir.

    `step`: updates done. `parameters`: their number by part of the network. `metrics`: the lines of its metrics.jsonl.
    `alarms`: of the monitor; `alarms_possible`: whether enough lines were written for any, and `silence`: in words, what it
    means if there is none. `results`: the contents of the JSON files that `python -m flsl_jax.evaluate` wrote.
    """

    config: Config
    step: int
    parameters: Mapping[str, int]
    metrics: Sequence[dict[str, Any]] = ()
    alarms: Sequence[AlarmMark] = ()
    alarms_possible: bool = True
    silence: str = "The monitor raised no alarm."
    results: Sequence[Mapping[str, Any]] = ()

    @property
    def log_centroids(self) -> float:
        """ln K."""
        return math.log(self.config.head.centroids)

    @property
    def intra_to_inter(self) -> float:
        """υ/η at the end of the run (paper, Sec. 5.6); infinite where η is 0."""
        intra, inter = self.config.objective.intra_weight.end, self.config.objective.inter_weight
        return intra / inter if inter else math.inf

    @property
    def training_seconds(self) -> float | None:
        """Time of the steps in seconds, without evaluations and checkpoints, from the rates in the metrics; None without
        rates."""
        lines = [line for line in self.metrics if "images_per_sec" in line]
        steps = [0, *(line["step"] for line in lines)]
        rates = [float(line["images_per_sec"]) for line in lines]
        if not rates or min(rates) <= 0:
            return None
        return sum(
            (after - before) * self.config.batch_size / rate for before, after, rate in zip(steps, steps[1:], rates)
        )
