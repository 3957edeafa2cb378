"""Checkpoints of a run: written while it trains, verified when they are read; a damaged one is never taken for a good one."""

from flsl_jax.checkpoints.folder import CheckpointPlace, find_checkpoint
from flsl_jax.checkpoints.inspection import DamagedCheckpoint, read_description
from flsl_jax.checkpoints.reading import read_checkpoint
from flsl_jax.checkpoints.saving import Saving
from flsl_jax.checkpoints.store import Checkpoints

__all__ = [
    "CheckpointPlace",
    "Checkpoints",
    "DamagedCheckpoint",
    "Saving",
    "find_checkpoint",
    "read_checkpoint",
    "read_description",
]
