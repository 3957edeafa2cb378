"""A backbone from a run, one of its checkpoints, or a weight file of this or other code."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.checkpoints import find_checkpoint, read_checkpoint
from flsl_jax.config import check_reading, parse_saved_config, self_inv_temp
from flsl_jax.data.images.levels import Decoding, decoding_of
from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.errors import UserError
from flsl_jax.features import Backbone, as_backbone
from flsl_jax.models import ViT
from flsl_jax.networks import for_any_device, network_graph
from flsl_jax.weights.canonical import NetworkName, backbone_params
from flsl_jax.weights.reading.importing import Imported, import_weights
from flsl_jax.weights.reading.weight_shards import is_checkpoint_folder

log = logging.getLogger(__name__)

_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A backbone and how its images are normalised.

    `mean`, `std`: of pixel levels from 0 to 1, for each channel. `report`: what was read, left out and assumed, in lines.
    `heads_known`: whether the number of attention heads was given and not assumed from the width.
    `step`: of a run's checkpoint.
    """

    model: Backbone
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    report: str
    heads_known: bool = True
    step: int | None = None


def load_model(
    path: str | Path,
    *,
    network: NetworkName = "teacher",
    prefix: str | None = None,
    source: str | None = None,
    num_heads: int | None = None,
    grid: tuple[int, int] | None = None,
    dtype: str = "float32",
) -> Backbone:
    """The backbone alone; see `flsl_jax.load`."""
    loaded = load_network(
        path, network=network, prefix=prefix, source=source, num_heads=num_heads, grid=grid, dtype=dtype
    )
    # A wrong number of heads loads but gives wrong tokens, so an assumed number is logged as a warning.
    log.log(logging.INFO if loaded.heads_known else logging.WARNING, "%s", loaded.report)
    return loaded.model


def load_network(
    path: str | Path,
    *,
    network: NetworkName = "teacher",
    prefix: str | None = None,
    source: str | None = None,
    num_heads: int | None = None,
    grid: tuple[int, int] | None = None,
    dtype: str = "float32",
) -> Loaded:
    """The backbone with its normalisation; the arguments are those of `flsl_jax.load`.

    Raises:
        UserError: there is nothing that can be loaded.
    """
    if dtype not in _DTYPES:
        raise UserError(f"dtype is {dtype!r}; expected {' or '.join(map(repr, _DTYPES))}")
    check_reading(network=network, prefix=prefix, source=source, num_heads=num_heads)
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run's workdir, a checkpoint in it, or a weight file")
    if is_run(path):
        check_for_run(path, prefix=prefix, source=source, num_heads=num_heads, grid=grid)
        return _load_run(path, network=network, dtype=dtype)
    imported = import_weights(path, network=network, prefix=prefix, source=source, num_heads=num_heads, grid=grid)
    return Loaded(
        model=as_backbone(
            build_backbone(imported, dtype=dtype),
            mean=imported.mean,
            std=imported.std,
            decoding=Decoding(channels=imported.architecture.channels, window=imported.window),
            inv_temp=imported.inv_temp,
        ),
        mean=imported.mean,
        std=imported.std,
        report=imported.report(),
        heads_known=imported.heads_known,
    )


def is_run(path: Path) -> bool:
    """Whether a path is read as a run or its checkpoint: a folder with `checkpoints/`, or one without weight files."""
    files = ("*.safetensors", "*.bin", "*.index.json")
    if not path.is_dir() or is_checkpoint_folder(path):
        return False
    return (path / "checkpoints").is_dir() or not any(any(path.glob(name)) for name in files)


def check_for_run(run: Path, **told: Any) -> None:
    """Refuses for a run what is told of weight files (`num_heads`, `grid`, …), because its config knows it.

    Raises:
        UserError: something is told that is neither None nor empty.
    """
    for name, value in told.items():
        if value:
            raise UserError(
                f"{name}={value} is for weight files that do not say it; the config of the run {run} does; leave it out"
            )


def build_backbone(imported: Imported, *, dtype: str = "float32") -> ViT:
    """The network of an imported backbone; its parameters are float32, `dtype` is that of its matrix products."""
    arch = imported.architecture
    graph = nnx.split(nnx.eval_shape(lambda: ViT(arch, dtype=dtype, rngs=nnx.Rngs(0))), nnx.Param)[0]
    return nnx.merge(graph, jax.tree.map(jnp.asarray, backbone_params(imported.backbone, arch)))


def _load_run(path: Path, *, network: str, dtype: str) -> Loaded:
    place = find_checkpoint(path)
    step, state, run = read_checkpoint(place.folder, step=place.step, parts=[network])
    params = jax.tree.map(jnp.asarray, state[network])
    config = for_any_device(parse_saved_config(run["config"]), dtype=dtype)
    model = as_backbone(
        nnx.merge(network_graph(config), params).backbone,
        mean=config.views.mean,
        std=config.views.std,
        image_size=config.views.size,
        inv_temp=self_inv_temp(config).end,
        decoding=decoding_of(config.data),
    )
    report = f"{network} of {place.folder.parent}, step {step}"
    return Loaded(model=model, mean=model.mean, std=model.std, report=report, step=step)
