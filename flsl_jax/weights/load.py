"""A trained backbone from a run's workdir or one of its checkpoints."""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.config import parse_config
from flsl_jax.models import ViT
from flsl_jax.training.checkpoints import find_checkpoint, read_checkpoint
from flsl_jax.training.state import network_graph


def load_model(path: str | Path, *, network: Literal["teacher", "student"] = "teacher") -> ViT:
    """The backbone of a run; see `flsl_jax.load`."""
    place = find_checkpoint(Path(path))
    _, state, run = read_checkpoint(place.folder, step=place.step, parts=[network])
    params = jax.tree.map(jnp.asarray, state[network])
    return nnx.merge(network_graph(parse_config(run["config"])), params).backbone
