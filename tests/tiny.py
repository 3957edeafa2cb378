"""A configuration small enough to compile and step within seconds, shared by the tests of the step and of the run."""

from ml_collections import ConfigDict

from configs import vits16
from flsl_jax.config import Config, parse_config

_VALUES = {
    "batch_size": 8,
    "epochs": 3,
    "model": {"patch_size": 8, "width": 32, "depth": 2, "num_heads": 2, "drop_path": 0.1},
    "head": {"hidden": 32, "bottleneck": 16, "centroids": 24},
    "views": {"size": 32, "local_size": 16},
    "data": {"name": "scenes", "count": 32, "scene_size": 40},
    "optimizer": {"warmup_epochs": 1.0, "lr": 0.005},
    "compute": {"workers": 0},
    "logging": {"every_steps": 1, "tensorboard": False},
    "checkpoint": {"every_epochs": 0.5},
}


def get_config() -> ConfigDict:
    """For the command line: --config=tests/tiny.py."""
    config = vits16.get_config()
    config.update(_VALUES)
    return config


def tiny_config(**groups) -> Config:
    """Two blocks of width 32 on 32 px scenes, 8 images a batch; `groups` override keys, group by group."""
    values = get_config().to_dict()
    for name, group in groups.items():
        values[name] = {**values[name], **group} if isinstance(group, dict) else group
    return parse_config(values)
