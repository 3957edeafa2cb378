"""FLSL in JAX: feature-level self-supervised pretraining of vision transformers for dense prediction."""

import importlib
import sys
import types
import typing

from flsl_jax import keyboard
from flsl_jax._version import __version__
from flsl_jax.api import get_config, load, preprocess, pretrain, train
from flsl_jax.errors import UserError

if typing.TYPE_CHECKING:
    from flsl_jax import config as config
    from flsl_jax import errors as errors
    from flsl_jax import features as features
    from flsl_jax import models as models
    from flsl_jax import objective as objective
    from flsl_jax import schedules as schedules

if sys.argv[:1] == ["-m"]:  # Python is about to run one of this package's commands
    keyboard.watch()

__all__ = ["UserError", "__version__", "get_config", "load", "preprocess", "pretrain", "train"]

# Imported when they are first asked for, because most import JAX: `flsl_jax.objective.mean_shift` needs no further import.
_SUBMODULES = ("config", "errors", "features", "models", "objective", "schedules")


def __getattr__(name: str) -> types.ModuleType:
    if name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
