"""The factor of the products of tokens in the mean shift, from the config's inverse temperatures and their scale."""

import dataclasses

from flsl_jax.config.run import Config, ScheduleConfig


def self_inv_temp(config: Config) -> ScheduleConfig:
    """τ of the attention to the query's own view, a factor of z Zᵀ (Eq. 4), whatever `objective.inv_temp_scale` is."""
    return _factor(config, config.objective.self_inv_temp)


def cross_inv_temp(config: Config) -> ScheduleConfig:
    """τ of the attention to the teacher's view, a factor of z Z⁺ᵀ (Eq. 12), whatever `objective.inv_temp_scale` is."""
    return _factor(config, config.objective.cross_inv_temp)


def _factor(config: Config, values: ScheduleConfig) -> ScheduleConfig:
    if config.objective.inv_temp_scale == "sum":
        return values
    width = config.model.width
    return dataclasses.replace(values, start=values.start / width, end=values.end / width)
