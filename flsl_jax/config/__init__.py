"""The configuration of a run.

Files under `configs/` return an `ml_collections.ConfigDict`; `parse_config` turns it into a `Config` and refuses unknown
keys (naming the nearest valid one), missing keys, wrong types and values out of range, each in one line that names the key.
"""

from collections.abc import Mapping
from typing import Any

from flsl_jax.config.checks import advice, check
from flsl_jax.config.evaluation import (
    MODE_SIMILARITY,
    BboxKnnConfig,
    ClusteringConfig,
    CorrespondenceConfig,
    DepthConfig,
    DiscoveryConfig,
    EvaluationConfig,
    ImageKnnConfig,
    LinearProbeConfig,
    RetrievalConfig,
    SeparabilityConfig,
    VideoConfig,
)
from flsl_jax.config.execution import CheckpointConfig, ComputeConfig, LoggingConfig, ParallelConfig
from flsl_jax.config.inverse_temperature import cross_inv_temp, self_inv_temp
from flsl_jax.config.parsing import nearest_key, parse
from flsl_jax.config.reading import AS_THE_FILE_SAYS, ReadingConfig, check_grid, check_reading
from flsl_jax.config.run import (
    Config,
    GuideConfig,
    HeadConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TeacherConfig,
    ViewsConfig,
    to_dict,
)
from flsl_jax.config.saved import parse_saved_config
from flsl_jax.config.source import (
    DepthSourceConfig,
    KeypointSourceConfig,
    MaskedSourceConfig,
    SourceConfig,
    TrainingImagesConfig,
    describe_source,
)
from flsl_jax.config.task_checks import check_sources, check_task, task_advice

__all__ = [
    "AS_THE_FILE_SAYS",
    "MODE_SIMILARITY",
    "BboxKnnConfig",
    "CheckpointConfig",
    "ClusteringConfig",
    "ComputeConfig",
    "Config",
    "CorrespondenceConfig",
    "DepthConfig",
    "DepthSourceConfig",
    "DiscoveryConfig",
    "EvaluationConfig",
    "GuideConfig",
    "HeadConfig",
    "ImageKnnConfig",
    "KeypointSourceConfig",
    "LinearProbeConfig",
    "LoggingConfig",
    "MaskedSourceConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ReadingConfig",
    "RetrievalConfig",
    "ScheduleConfig",
    "SeparabilityConfig",
    "SourceConfig",
    "TeacherConfig",
    "TrainingImagesConfig",
    "VideoConfig",
    "ViewsConfig",
    "advice",
    "check_grid",
    "check_reading",
    "check_sources",
    "check_task",
    "cross_inv_temp",
    "describe_source",
    "nearest_key",
    "parse",
    "parse_config",
    "parse_saved_config",
    "self_inv_temp",
    "task_advice",
    "to_dict",
]


def parse_config(values: Mapping[str, Any]) -> Config:
    """Typed configuration from a nested mapping (such as a ConfigDict).

    Args:
        values: nested mapping of all keys, as the files under `configs/` have them; a key that has a default may be left
            out.

    Raises:
        UserError: an unknown or missing key, a wrong type or a value out of range; the message names the key.
    """
    config = parse(Config, values, path="config")
    check(config)
    return config
