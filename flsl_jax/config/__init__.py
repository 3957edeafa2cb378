"""The configuration of a run.

Files under `configs/` return an `ml_collections.ConfigDict`; `parse_config` turns it into a `Config` and refuses unknown
keys (naming the nearest valid one), wrong types and values out of range, each in one line that names the key.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flsl_jax.config.checks import check
from flsl_jax.config.evaluation import (
    BboxKnnConfig,
    ClusteringConfig,
    DiscoveryConfig,
    EvaluationConfig,
    ImageKnnConfig,
    LinearProbeConfig,
    RetrievalConfig,
    SeparabilityConfig,
    VideoConfig,
)
from flsl_jax.config.parsing import nearest_key, parse
from flsl_jax.config.run import (
    CheckpointConfig,
    ComputeConfig,
    Config,
    HeadConfig,
    LoggingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ParallelConfig,
    ScheduleConfig,
    TeacherConfig,
    ViewsConfig,
)
from flsl_jax.config.source import MaskedSourceConfig, SourceConfig
from flsl_jax.config.task_checks import check_sources, check_task

__all__ = [
    "BboxKnnConfig",
    "CheckpointConfig",
    "ClusteringConfig",
    "ComputeConfig",
    "Config",
    "DiscoveryConfig",
    "EvaluationConfig",
    "HeadConfig",
    "ImageKnnConfig",
    "LinearProbeConfig",
    "LoggingConfig",
    "MaskedSourceConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "RetrievalConfig",
    "ScheduleConfig",
    "SeparabilityConfig",
    "SourceConfig",
    "TeacherConfig",
    "VideoConfig",
    "ViewsConfig",
    "check_sources",
    "check_task",
    "nearest_key",
    "parse",
    "parse_config",
    "to_dict",
]


def parse_config(values: Mapping[str, Any]) -> Config:
    """Typed configuration from a nested mapping (a ConfigDict, or the `config.json` of a workdir).

    Args:
        values: nested mapping; a key that is left out takes its default.

    Raises:
        UserError: an unknown key, a wrong type or a value out of range; the message names the key.
    """
    config = parse(Config, values, path="config")
    check(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionary, as written to `config.json`; `parse_config` reads it back."""
    return dataclasses.asdict(config)
