"""Alarms on the values of the monitor: what is seen, the likely cause, and what to change."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Alarm:
    """One alarm: `message` says what is seen, the likely cause and what to change."""

    name: str
    step: int
    value: float
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where alarms start. Entropies and counts are shares of their largest value.

    `readings`: consecutive readings that must agree; `repeat`: readings after which an alarm that holds is repeated.
    """

    one_centroid: float = 0.3
    undecided: float = 0.97
    used_centroids: float = 0.1
    feature_std: float = 0.1
    effective_rank: float = 2.0
    soft_attention: float = 0.95
    hard_attention: float = 0.02
    mode_similarity: float = 0.95
    position_share: float = 0.5
    no_agreement: float = 0.01
    readings: int = 3
    repeat: int = 20


class Monitor:
    """Turns the values of written steps into alarms.

    Args:
        num_centroids: K.
        thresholds: where alarms start.
    """

    def __init__(self, *, num_centroids: int, thresholds: Thresholds | None = None) -> None:
        self._log_centroids = math.log(num_centroids)
        self._centroids = num_centroids
        self._limits = thresholds or Thresholds()
        self._streaks: dict[str, int] = {}

    def update(self, step: int, values: dict[str, float]) -> list[Alarm]:
        """Alarms that this reading raises or repeats."""
        alarms = []
        for name, (value, seen, message) in self._checks(values).items():
            streak = self._streaks[name] = self._streaks.get(name, 0) + 1 if seen else 0
            if streak >= self._limits.readings and (streak - self._limits.readings) % self._limits.repeat == 0:
                alarms.append(Alarm(name=name, step=step, value=value, message=message))
        return alarms

    def _checks(self, values: dict[str, float]) -> dict[str, tuple[float, bool, str]]:
        limits = self._limits
        mean, teacher = (values[name] / self._log_centroids for name in ("mean_entropy", "teacher_entropy"))
        used = values["used_centroids"] / self._centroids
        std, rank = values["feature_std"], values["effective_rank"]
        attention, alike = values["attention_share"], values["mode_similarity"]
        place, agreement = values["position_share"], values["agreement"]
        return {
            "one_centroid": (
                mean,
                mean < limits.one_centroid,
                f"collapse to few centroids: H(p̄) is {mean:.0%} of ln K. The volume term is too weak: raise "
                "config.objective.volume_weight, or raise config.objective.teacher_temp",
            ),
            "undecided": (
                teacher,
                teacher > limits.undecided,
                f"nothing is decided: the teacher's mean entropy is {teacher:.1%} of ln K, so the loss stays near ln K. "
                "Lower config.objective.teacher_temp or volume_weight, raise config.optimizer.lr, or lower "
                "config.teacher.momentum in a short run",
            ),
            "dead_centroids": (
                used,
                used < limits.used_centroids,
                f"{values['used_centroids']:.0f} of {self._centroids} centroids are used. Raise "
                "config.objective.volume_weight, or lower config.head.centroids for a small data set or batch",
            ),
            "constant_features": (
                std,
                std < limits.feature_std or rank < limits.effective_rank,
                f"features collapse: spread {std:.3f} of 1, effective rank {rank:.1f}. Lower config.optimizer.lr or "
                "config.objective.intra_weight, or raise config.teacher.momentum",
            ),
            "soft_attention": (
                attention,
                attention > limits.soft_attention or alike > limits.mode_similarity,
                f"mean-shift is too soft: attention entropy is {attention:.1%} of ln N and the modes of an image have "
                f"cosine {alike:.2f}, so all queries of an image ask for the same. Raise config.objective.self_inv_temp and "
                "cross_inv_temp",
            ),
            "hard_attention": (
                attention,
                attention < limits.hard_attention,
                f"mean-shift is too hard: attention entropy is {attention:.1%} of ln N, so every mode is its own query. "
                "Lower config.objective.self_inv_temp and cross_inv_temp",
            ),
            "position_shortcut": (
                place,
                place > limits.position_share,
                f"the place in the grid explains {place:.0%} of the features. Make crops smaller "
                "(config.views.student_area), use config.model.pos_embed=learned, or switch config.views.flip on",
            ),
            "no_agreement": (
                agreement,
                agreement < limits.no_agreement,
                f"student and teacher agree on {agreement:.1%} of the queries. Lower config.optimizer.lr, raise "
                "config.teacher.momentum, or weaken the colour jitter in config.views",
            ),
        }
