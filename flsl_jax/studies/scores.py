"""The numbers of a study: each metric of each variant over the seeds, beside the paper's, and whether the orders agree."""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from flsl_jax.studies.grid import Plan, Variant
from flsl_jax.studies.progress import measured, state, subjects
from flsl_jax.studies.ranks import RankAgreement, rank_agreement


@dataclasses.dataclass(frozen=True)
class Spread:
    """A metric over seeds. `values`: by seed."""

    values: Mapping[int, float]

    @property
    def n(self) -> int:
        """How many seeds there are of it."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def std(self) -> float | None:
        """The sample standard deviation over the seeds; None of a single one."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None


# Two things agree or disagree by the toss of a coin.
_FEWEST_RANKED = 3

Scores = Mapping[str, Mapping[str, Spread]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the order of the variants by our metric `ours` agrees with that by the numbers that the paper has for `paper`."""

    ours: str
    paper: str
    variants: tuple[str, ...]
    ranks: RankAgreement | None


def read_scores(plan: Plan) -> Scores:
    """What was measured so far, by row, then by TASK/METRIC; rows are the variants and the baselines."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for cell in plan.cells:
        for subject in subjects(cell):
            row = cell.variant.name if subject.name == "trained" else subject.name
            for task, metrics in measured(cell, subject).items():
                for name, value in metrics.items():
                    found.setdefault(row, {}).setdefault(f"{task}/{name}", {})[cell.seed] = value
    return {
        row: {metric: Spread(dict(sorted(values.items()))) for metric, values in metrics.items()}
        for row, metrics in found.items()
    }


def shown_metrics(plan: Plan, scores: Scores) -> list[str]:
    """The metrics of the page: those that the study names of the measured tasks, and the first one of any other task."""
    there = list(dict.fromkeys(metric for metrics in scores.values() for metric in metrics))
    possible = there or [metric for metric in plan.study.metrics if metric.partition("/")[0] in plan.tasks]
    named = [metric for metric in plan.study.metrics if metric in possible]
    tasks = {metric.partition("/")[0] for metric in named}
    firsts = {}
    for metric in there:
        firsts.setdefault(metric.partition("/")[0], metric)
    return [*named, *(metric for task, metric in firsts.items() if task not in tasks)]


def paper_metrics(plan: Plan) -> list[str]:
    """The metrics for which the paper has numbers."""
    return list(dict.fromkeys(metric for variant in plan.study.variants for metric in variant.paper))


def agreements(plan: Plan, scores: Scores) -> list[Agreement]:
    """Every metric of the page against those that the paper has of the same task, over the variants that have both."""
    compared = []
    for paper in paper_metrics(plan):
        task = paper.partition("/")[0]
        for ours in (metric for metric in shown_metrics(plan, scores) if metric.partition("/")[0] == task):
            both = [
                variant
                for variant in plan.study.variants
                if paper in variant.paper and ours in scores.get(variant.name, {})
            ]
            ranks = (
                None
                if len(both) < _FEWEST_RANKED
                else rank_agreement(
                    [variant.paper[paper] for variant in both], [scores[variant.name][ours].mean for variant in both]
                )
            )
            compared.append(
                Agreement(ours=ours, paper=paper, variants=tuple(variant.name for variant in both), ranks=ranks)
            )
    return compared


def as_json(plan: Plan, scores: Scores, *, command: str) -> dict[str, Any]:
    """Everything that the page says as JSON values; `command`: what goes on with the study."""
    return {
        "study": plan.name,
        "title": plan.study.title,
        "reference": plan.study.reference,
        "command": command,
        "seeds": list(plan.seeds),
        "tasks": list(plan.tasks),
        "variants": [_row(variant, scores) for variant in plan.study.variants],
        "baselines": {kind: _metrics(scores.get(kind, {})) for kind in plan.study.baselines},
        "rank_agreement": [dataclasses.asdict(agreement) for agreement in agreements(plan, scores)],
        "runs": [{"name": cell.name, "seed": cell.seed, "state": state(cell)} for cell in plan.cells],
    }


@dataclasses.dataclass(frozen=True)
class Differences:
    """`span`: between the largest and the smallest mean of the variants. `std`: the mean of their standard deviations over
    seeds; None if none has several."""

    span: float
    std: float | None


def differences(plan: Plan, scores: Scores, metric: str) -> Differences | None:
    """How far the variants lie apart in a metric; None where fewer than two have been measured."""
    names = [variant.name for variant in plan.study.variants]
    spreads = [scores[name][metric] for name in names if metric in scores.get(name, {})]
    if len(spreads) < 2:
        return None
    means, stds = [spread.mean for spread in spreads], [spread.std for spread in spreads if spread.std is not None]
    return Differences(span=max(means) - min(means), std=statistics.fmean(stds) if stds else None)


def best(plan: Plan, scores: Scores, metric: str) -> list[str]:
    """The variants with the largest mean; none where all that have been measured are equal."""
    means = {
        variant.name: scores[variant.name][metric].mean
        for variant in plan.study.variants
        if metric in scores.get(variant.name, {})
    }
    winners = [name for name, mean in means.items() if mean == max(means.values())]
    return winners if len(winners) < len(means) else []


def _row(variant: Variant, scores: Scores) -> dict[str, Any]:
    return {
        "name": variant.name,
        "changes": variant.changes,
        "setting": variant.setting,
        "paper": variant.paper,
        "metrics": _metrics(scores.get(variant.name, {})),
    }


def _metrics(metrics: Mapping[str, Spread]) -> dict[str, Any]:
    return {
        name: {"mean": spread.mean, "std": spread.std, "n": spread.n, "seeds": _by_seed(spread)}
        for name, spread in metrics.items()
    }


def _by_seed(spread: Spread) -> dict[str, float]:
    return {str(seed): value for seed, value in spread.values.items()}
