"""Every value that changes with the step, from the config's epochs."""

import dataclasses
from collections.abc import Mapping

from flsl_jax.config import Config, ObjectiveConfig, ScheduleConfig, cross_inv_temp, self_inv_temp
from flsl_jax.config.ranges import LARGEST_INT
from flsl_jax.errors import UserError
from flsl_jax.objective import TERMS, weight_key
from flsl_jax.schedules import Schedule
from flsl_jax.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSchedules:
    """Every value that changes with the step.

    `term_weights`: of every loss term, by the keyword of `flsl_loss`; a number for one without a schedule.
    """

    lr: Schedule
    weight_decay: Schedule
    momentum: Schedule
    teacher_temp: Schedule
    self_inv_temp: Schedule
    cross_inv_temp: Schedule
    projected_weight: Schedule
    guide_weight: Schedule
    term_weights: Mapping[str, Schedule | float]

    def term_weights_at(self, step: Int[Array, ""]) -> dict[str, float | Float[Array, ""]]:
        """The weight of every loss term at a step."""
        weights = self.term_weights.items()
        return {key: weight(step) if isinstance(weight, Schedule) else weight for key, weight in weights}


def make_schedules(config: Config, *, steps_per_epoch: int) -> StepSchedules:
    """Schedules in steps from the config's epochs; the learning rate scales with the batch size (per 256 images).

    Raises:
        UserError: the run has more steps than int32 counts.
    """
    total = config.epochs * steps_per_epoch
    if total > LARGEST_INT:
        raise UserError(
            f"config.epochs = {config.epochs} of {steps_per_epoch} steps are {total} steps; expected at most {LARGEST_INT}: "
            "lower config.epochs or raise config.batch_size"
        )

    def schedule(values: ScheduleConfig) -> Schedule:
        steps = round(values.epochs * steps_per_epoch) or total
        return Schedule(kind=values.kind, start=values.start, end=values.end, steps=steps)

    weights = [(key, _term_weight(config.objective, key)) for key in map(weight_key, TERMS)]
    return StepSchedules(
        lr=Schedule(
            kind="cosine",
            start=config.optimizer.lr * config.batch_size / 256,
            end=config.optimizer.final_lr,
            steps=total,
            warmup_steps=round(config.optimizer.warmup_epochs * steps_per_epoch),
        ),
        weight_decay=schedule(config.optimizer.weight_decay),
        momentum=schedule(config.teacher.momentum),
        teacher_temp=schedule(config.objective.teacher_temp),
        self_inv_temp=schedule(self_inv_temp(config)),
        cross_inv_temp=schedule(cross_inv_temp(config)),
        projected_weight=schedule(config.objective.projected_weight),
        guide_weight=schedule(config.guide.weight),
        term_weights={key: schedule(value) if isinstance(value, ScheduleConfig) else value for key, value in weights},
    )


def _term_weight(settings: ObjectiveConfig, key: str) -> float | ScheduleConfig:
    if not hasattr(settings, key):
        raise TypeError(f"a loss term has no weight: add the field {key} to ObjectiveConfig in flsl_jax/config/run.py")
    return getattr(settings, key)
