"""A run as pictures and the report show it, read back from its workdir."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from flsl_jax.config import Config
from flsl_jax.networks import build_network
from flsl_jax.pictures.runs import Run
from flsl_jax.training.watching.alarms import Alarm, Monitor
from flsl_jax.workdir import METRICS_FILE, read_metrics, read_results


def read_run(config: Config, *, workdir: Path, step: int, results: Path | None) -> Run:
    """What is known of a run up to a step.

    Args:
        config: of the run.
        workdir: the folder with metrics.jsonl; without that file the run has no metrics.
        step: updates done.
        results: folder of its evaluations' results, which need not be there.

    Raises:
        UserError: a file among the results is not a result.
    """
    metrics = [line for line in read_metrics(workdir / METRICS_FILE) if line["step"] <= step]
    watched = read_alarms(metrics, config=config)
    return Run(
        config=config,
        step=step,
        parameters=_parameters(config),
        metrics=metrics if step else (),  # before the first step there is no curve
        alarms=watched.raised,
        alarms_possible=watched.possible,
        silence=watched.silence,
        results=read_results(results) if results is not None and results.is_dir() else (),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """The alarms of a run: those `raised`, whether any was `possible` yet, and in words what it means if there are none."""

    raised: Sequence[Alarm]
    possible: bool
    silence: str


def read_alarms(metrics: Sequence[dict[str, Any]], *, config: Config) -> Watched:
    """The alarms that training raised.

    They are not in metrics.jsonl; the monitor raises them again from its lines.

    Args:
        metrics: lines of a metrics.jsonl.
        config: of the run.
    """
    monitor, alarms = Monitor(config), []
    for line in metrics:
        if "mean_entropy" in line:  # evaluations have lines of their own
            alarms += monitor.update(line["step"], {name: float(value) for name, value in line.items()})
    return Watched(raised=alarms, possible=monitor.possible, silence=monitor.silence())


def _parameters(config: Config) -> dict[str, int]:
    network = nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0)))
    return {
        part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(getattr(network, part), nnx.Param)))
        for part in ("backbone", "head")
    }
