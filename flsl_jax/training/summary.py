"""What a run has brought, in one line: its first and last measurements, raw pixels, and what is on record beside them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flsl_jax.config import Config
from flsl_jax.config.recorded import recorded_values
from flsl_jax.training.validation import metric_key, pixels_key

# The metrics that the line names where they were measured, in this order.
_HEADLINES = {
    "discovery/modes_corloc": "objects found by modes",
    "discovery/corloc": "by LOST",
    "bbox_knn/token": "k-NN of single tokens",
    "bbox_knn/any": "of any of 9 tokens",
}
_STATE = ("loss", "mean_entropy", "used_centroids", "effective_rank", "attention_share", "agreement")


def summarise(config: Config, lines: Sequence[Mapping[str, Any]], *, step: int) -> str:
    """How much better a run's features are than at its start; without measurements, the values of its last line.

    Args:
        config: of the run.
        lines: of its `metrics.jsonl`, the first one first.
        step: that the run has reached. What is of an earlier one says so.
    """
    best = config.evaluation.best_metric
    measured = [line for line in lines if metric_key(best) in line]
    if len(measured) > 1:
        first, last = measured[0], measured[-1]
        trained = f"step {last['step']}, measured last" if last["step"] < step else "trained"
        start = "at the start" if config.init_from else "untrained"
        parts = list(_compared(config, first, last))
        if parts:
            if best not in _HEADLINES:
                parts.append(f"{best} {first[metric_key(best)]:.4g} → {last[metric_key(best)]:.4g}")
            beside = [name for name in ("raw pixels", recorded_values(config.evaluation.recorded).name) if name]
            return f"on held-out images, {start} → {trained} ({', '.join(beside)}): {', '.join(parts)}"
        return f"{best}: {start} {first[metric_key(best)]:.4g} → {trained} {last[metric_key(best)]:.4g}"
    newest = next((line for line in reversed(lines) if "loss" in line), None)  # others hold measurements alone
    if newest is None:
        return f"no line of metrics yet (config.logging.every_steps is {config.logging.every_steps})"
    shown = ", ".join(f"{name} {newest[name]:.3g}" for name in _STATE if name in newest)
    when = f"at step {newest['step']}, written last: " if newest["step"] < step else ""
    return f"{when}{shown} (ln K is {np.log(config.head.centroids):.3g})"


def _compared(config: Config, first: Mapping[str, Any], last: Mapping[str, Any]) -> Iterator[str]:
    recorded = recorded_values(config.evaluation.recorded)
    for metric, words in _HEADLINES.items():
        key = metric_key(metric)
        if not {key, pixels_key(metric)} <= first.keys() or key not in last:
            continue
        beside = [first[pixels_key(metric)], *([recorded.values[metric]] if metric in recorded.values else [])]
        shown = ", ".join(f"{value:.1%}" for value in beside)
        yield f"{words} {first[key]:.1%} → {last[key]:.1%} ({shown})"
