"""A trained backbone from a run's workdir or one of its checkpoints."""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.config import parse_config
from flsl_jax.errors import UserError
from flsl_jax.models import ViT
from flsl_jax.training.checkpoints import read_checkpoint
from flsl_jax.training.state import network_graph


def load_model(path: str | Path, *, network: Literal["teacher", "student"] = "teacher") -> ViT:
    """The backbone of a run; see `flsl_jax.load`."""
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"{folder} does not exist; expected a run's workdir or a checkpoint folder inside it")
    if (folder / "checkpoints").is_dir():
        folder, step = folder / "checkpoints", None
    elif folder.name.isdigit():
        folder, step = folder.parent, int(folder.name)
    elif folder.name == "checkpoints":
        step = None
    else:
        raise UserError(
            f"{folder} is neither a run's workdir (no checkpoints/ in it) nor a checkpoint (checkpoints/STEP)"
        )
    _, state, run = read_checkpoint(folder, step=step)
    params = jax.tree.map(jnp.asarray, state[network])
    return nnx.merge(network_graph(parse_config(run["config"])), params).backbone
