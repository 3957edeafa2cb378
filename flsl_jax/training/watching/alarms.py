"""Alarms on the values of the monitor: what is seen, the likely cause, and what to change in the run's own config.

The limits are those that the published recipes keep when they run as published (docs/monitor.md has their readings).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

from flsl_jax.config import Config, self_inv_temp


@dataclasses.dataclass(frozen=True)
class Alarm:
    """One alarm: `message` says what is seen, the likely cause and what to change."""

    name: str
    step: int
    value: float
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where alarms start. Entropies are shares of ln K; `normalised_inv_temp` is τ · mean ‖z‖².

    `used_centroids` is a share of those that the batch could use: `min(K, R / queries_a_centroid)` for R queries, because
    neighbouring queries have one mode. `soft_attention` is a share of ln N; it is the temperature's fault below
    `soft_inv_temp`. `hard_intra` is the intra-view term; a small one is the temperature's fault above `hard_inv_temp`.
    `one_mode` is a cosine. `no_agreement` is at least chance, 1/K.

    `settled`: the share of the run from which an alarm is judged that a good run may raise in its beginning.
    `readings`: consecutive readings that must agree; `repeat`: readings after which an alarm that holds is repeated.
    """

    one_centroid: float = 0.3
    undecided: float = 0.97
    used_centroids: float = 0.1
    queries_a_centroid: float = 5.0
    feature_std: float = 0.1
    effective_rank: float = 1.5
    soft_attention: float = 0.995
    soft_inv_temp: float = 1.0
    hard_intra: float = 0.001
    hard_inv_temp: float = 10.0
    one_mode: float = 0.95
    position_share: float = 0.5
    no_agreement: float = 0.01
    settled: float = 0.1
    readings: int = 3
    repeat: int = 20


class Monitor:
    """Turns the values of written steps into alarms.

    Args:
        config: of the run; messages name its keys.
        thresholds: where alarms start.
    """

    def __init__(self, config: Config, *, thresholds: Thresholds | None = None) -> None:
        self._config = config
        self._limits = thresholds or Thresholds()
        self._streaks: dict[str, int] = {}
        self._readings = 0
        # How often each alarm was judged; those whose values no line had are not in it.
        self._judged: dict[str, int] = {}

    def update(self, step: int, values: Mapping[str, float]) -> list[Alarm]:
        """Alarms that this reading raises or repeats.

        Args:
            step: updates done.
            values: of the step, by their names in metrics.jsonl. An alarm whose values the run's objective does not have is
                not judged. Without `epoch`, the run is judged as at its end.
        """
        settled = values.get("epoch", math.inf) >= self._limits.settled * self._config.epochs
        reading = _Reading(values=values, config=self._config, limits=self._limits, settled=settled)
        alarms = []
        self._readings += 1
        for check in _CHECKS:
            found = None
            if all(name in values for name in check.needs):
                judged = settled or check.early
                self._judged[check.name] = self._judged.get(check.name, 0) + judged
                found = check.judge(reading) if judged else None
            streak = self._streaks[check.name] = self._streaks.get(check.name, 0) + 1 if found else 0
            if (
                found
                and streak >= self._limits.readings
                and (streak - self._limits.readings) % self._limits.repeat == 0
            ):
                alarms.append(Alarm(name=check.name, step=step, value=found.value, message=found.message))
        return alarms

    @property
    def possible(self) -> bool:
        """Whether any alarm was possible with the readings so far."""
        return any(judged >= self._limits.readings for judged in self._judged.values())

    def silence(self) -> str:
        """What it means that there was no alarm: which ones were possible with the readings so far."""
        needed = self._limits.readings
        waiting = [name for name, judged in self._judged.items() if judged < needed]
        if not self.possible:
            return (
                f"No alarm was possible yet: each needs {needed} written lines in a row, and the run has {self._readings}. "
                f"A line is written every {self._config.logging.every_steps} steps (config.logging.every_steps)."
            )
        if not waiting:
            return "The monitor raised no alarm."
        return (
            f"The monitor raised no alarm. Not possible yet were {', '.join(waiting)}: they need {needed} written lines after "
            f"{self._limits.settled:.0%} of the run."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reading:
    values: Mapping[str, float]
    config: Config
    limits: Thresholds
    settled: bool

    def entropy_share(self, name: str) -> float:
        """An entropy over ln K."""
        return self.values[name] / math.log(self.config.head.centroids)

    @property
    def inv_temp(self) -> float:
        """τ · mean ‖z‖²; in lines of older versions, which lack it, with ‖z‖² = D as LayerNorm starts."""
        assumed = self_inv_temp(self.config).end * self.config.model.width
        return self.values.get("normalised_inv_temp", assumed)


@dataclasses.dataclass(frozen=True)
class _Found:
    value: float
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Check:
    """One alarm. `needs`: values without which it is not judged; `early`: judged from the run's first step."""

    name: str
    needs: tuple[str, ...]
    judge: Callable[[_Reading], _Found | None]
    early: bool = False


def _one_centroid(reading: _Reading) -> _Found | None:
    share = reading.entropy_share("mean_entropy")
    if share >= reading.limits.one_centroid:
        return None
    remedy = {
        "softmax": "The volume term is too weak: raise config.objective.volume_weight (the paper's is 5)",
        "sinkhorn": "Raise config.objective.sinkhorn_iterations",
        "centering": "Lower config.objective.center_momentum",
    }[reading.config.objective.targets]
    message = (
        f"collapse to few centroids: H(p̄) is {share:.0%} of ln K. {remedy}, or raise config.objective.teacher_temp"
    )
    return _Found(share, message)


def _undecided(reading: _Reading) -> _Found | None:
    share = reading.entropy_share("teacher_entropy")
    if share <= reading.limits.undecided:
        return None
    objective = reading.config.objective
    weight = "" if not objective.volume_weight else " or config.objective.volume_weight"
    place = ""
    if "attention_share" in reading.values and not max(
        objective.projected_weight.start, objective.projected_weight.end
    ):
        place = "let config.objective.projected_weight fade from 1 to 0, "
    return _Found(
        share,
        f"nothing is decided: the teacher's mean entropy is {share:.1%} of ln K, so the loss stays near ln K. Lower "
        f"config.objective.teacher_temp{weight}, {place}raise config.optimizer.lr, or lower config.teacher.momentum in a "
        "short run",
    )


def _dead_centroids(reading: _Reading) -> _Found | None:
    used, centroids = reading.values["used_centroids"], reading.config.head.centroids
    rows = reading.values.get("assignments", math.inf)
    share = used / min(centroids, max(rows / reading.limits.queries_a_centroid, 1.0))
    if share >= reading.limits.used_centroids:
        return None
    queries = "" if math.isinf(rows) else f" by the {rows:.0f} queries of a batch"
    volume = (
        "Raise config.objective.volume_weight, or lower" if reading.config.objective.targets == "softmax" else "Lower"
    )
    message = (
        f"{used:.0f} of {centroids} centroids are used{queries}. {volume} config.head.centroids or config.optimizer.lr"
    )
    return _Found(share, message)


def _constant_features(reading: _Reading) -> _Found | None:
    std, rank = reading.values["feature_std"], reading.values["effective_rank"]
    narrow = reading.settled and rank < reading.limits.effective_rank
    if std >= reading.limits.feature_std and not narrow:
        return None
    weight = reading.config.objective.intra_weight
    intra = " or config.objective.intra_weight" if "intra" in reading.values and max(weight.start, weight.end) else ""
    return _Found(
        std,
        f"features collapse: spread {std:.3f} of 1, effective rank {rank:.1f}. Lower config.optimizer.lr{intra}, or raise "
        "config.teacher.momentum",
    )


def _soft_attention(reading: _Reading) -> _Found | None:
    share, limits = reading.values["attention_share"], reading.limits
    if share <= limits.soft_attention or reading.inv_temp >= limits.soft_inv_temp:
        return None
    return _Found(
        share,
        f"mean-shift is too soft for this width: τ‖z‖² is {reading.inv_temp:.2g} (the paper's {_PAPER_INV_TEMP:g}) and the "
        f"attention entropy {share:.1%} of ln N, so every mode is the mean of its view. {_harder(reading)}",
    )


def _harder(reading: _Reading) -> str:
    if reading.config.objective.inv_temp_scale == "mean":
        return "Raise config.objective.self_inv_temp and cross_inv_temp to the paper's 1.96 and 3.92"
    factor = f" about {_PAPER_INV_TEMP / reading.inv_temp:.0f} times" if reading.inv_temp > 0 else ""
    return (
        f"Raise config.objective.self_inv_temp and cross_inv_temp{factor}, or set them to 1.96 and 3.92 with "
        "config.objective.inv_temp_scale=mean"
    )


def _softer(reading: _Reading) -> str:
    return (
        "Lower config.objective.self_inv_temp and cross_inv_temp, by up to "
        f"{reading.inv_temp / _PAPER_INV_TEMP:.0f} times"
    )


@dataclasses.dataclass(frozen=True)
class Sharpness:
    """τ‖z‖² of the mean-shift, with tokens as LayerNorm makes them at the start: ‖z‖² = D. `paper`: the published one.

    `kind` is "soft" or "hard" where the monitor would look for the temperature's fault, and `advice` what it would say then;
    otherwise both are empty.
    """

    value: float
    paper: float
    kind: str = ""
    advice: str = ""


def sharpness_at_start(config: Config, *, limits: Thresholds | None = None) -> Sharpness:
    """How sharp the mean-shift of a config is for its width, before anything is trained; `limits`: the monitor's own."""
    limits = limits or Thresholds()
    reading = _Reading(values={}, config=config, limits=limits, settled=False)
    value = reading.inv_temp
    if value < limits.soft_inv_temp:
        return Sharpness(value, _PAPER_INV_TEMP, "soft", _harder(reading))
    if value > limits.hard_inv_temp:
        return Sharpness(value, _PAPER_INV_TEMP, "hard", _softer(reading))
    return Sharpness(value, _PAPER_INV_TEMP)


def _hard_attention(reading: _Reading) -> _Found | None:
    share, limits = reading.values["attention_share"], reading.limits
    if reading.values["intra"] >= limits.hard_intra or reading.inv_temp <= limits.hard_inv_temp:
        return None
    return _Found(
        share,
        f"mean-shift is too hard: every mode is its own query (attention entropy {share:.1%} of ln N, τ‖z‖² "
        f"{reading.inv_temp:.3g}, the paper's {_PAPER_INV_TEMP:g}). {_softer(reading)}",
    )


def _one_mode(reading: _Reading) -> _Found | None:
    share, alike = reading.values["attention_share"], reading.values["mode_similarity"]
    if alike <= reading.limits.one_mode and share <= reading.limits.soft_attention:
        return None
    if _soft_attention(reading) is not None:
        return None
    return _Found(
        alike,
        f"all tokens of an image have one mode: modes have cosine {alike:.2f}, attention entropy is {share:.1%} of ln N. "
        "Lower config.optimizer.lr or weight_decay, raise config.teacher.momentum, or raise config.objective.self_inv_temp "
        "and cross_inv_temp together",
    )


def _position_shortcut(reading: _Reading) -> _Found | None:
    images = reading.config.batch_size
    if images == 1:
        return None
    # Noise has a share of one over the batch.
    share = (reading.values["position_share"] - 1 / images) / (1 - 1 / images)
    if share <= reading.limits.position_share:
        return None
    config = reading.config
    embedding = "" if config.model.pos_embed == "learned" else ", use config.model.pos_embed=learned"
    flip = "" if config.views.flip else ", or switch config.views.flip on"
    return _Found(
        share,
        f"the place in the grid explains {share:.0%} of the features. Make crops smaller (config.views.student_area)"
        f"{embedding}{flip}",
    )


def _no_agreement(reading: _Reading) -> _Found | None:
    agreement = reading.values["agreement"]
    if agreement >= max(reading.limits.no_agreement, 1 / reading.config.head.centroids):
        return None
    return _Found(
        agreement,
        f"student and teacher agree on {agreement:.1%} of the queries. Lower config.optimizer.lr, raise "
        "config.teacher.momentum, or weaken the colour jitter in config.views",
    )


# τ‖z‖² of the published self-attention at its own width: 0.1/√384 · 384.
_PAPER_INV_TEMP = 1.96

_CHECKS = (
    _Check(name="one_centroid", needs=("mean_entropy",), judge=_one_centroid, early=True),
    _Check(name="undecided", needs=("teacher_entropy",), judge=_undecided),
    _Check(name="dead_centroids", needs=("used_centroids",), judge=_dead_centroids),
    _Check(name="constant_features", needs=("feature_std", "effective_rank"), judge=_constant_features, early=True),
    _Check(name="soft_attention", needs=("attention_share",), judge=_soft_attention, early=True),
    _Check(name="hard_attention", needs=("attention_share", "intra"), judge=_hard_attention, early=True),
    _Check(name="one_mode", needs=("attention_share", "mode_similarity"), judge=_one_mode),
    _Check(name="position_shortcut", needs=("position_share",), judge=_position_shortcut),
    _Check(name="no_agreement", needs=("agreement",), judge=_no_agreement),
)
