"""The networks to write, as canonical tensors, with what is known of their training; any machine can read them."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flsl_jax.checkpoints import find_checkpoint, read_checkpoint
from flsl_jax.config import AS_THE_FILE_SAYS, Config, ReadingConfig, parse_saved_config, self_inv_temp
from flsl_jax.data.images.levels import decoding_of
from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.errors import UserError
from flsl_jax.models import Architecture
from flsl_jax.networks import architecture_of
from flsl_jax.weights.canonical import NetworkName, Tensors, backbone_tensors, head_tensors
from flsl_jax.weights.load import check_for_run, is_run
from flsl_jax.weights.reading.importing import import_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """Networks and their origin.

    Attributes:
        architecture: what the backbones compute.
        backbones: canonical tensors, by "teacher" and "student".
        heads: canonical tensors of the heads, likewise; empty without heads.
        source: name of the run's folder or of the weight file.
        mean, std: of pixel levels from 0 to 1, for each channel.
        window: as of `data.levels.Decoding`.
        inv_temp: τ of the mean shift that they were trained with, a factor of products of tokens; None: not known.
        config, step, workdir: of the run; None where the source is a weight file.
        notes: what was left out or assumed when a weight file was read.
    """

    architecture: Architecture
    backbones: Mapping[str, Tensors]
    heads: Mapping[str, Tensors]
    source: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    window: tuple[float, float] | None = None
    inv_temp: float | None = None
    config: Config | None = None
    step: int | None = None
    workdir: Path | None = None
    notes: tuple[str, ...] = ()


def read_trained(
    path: Path, *, networks: Collection[NetworkName], reading: ReadingConfig = AS_THE_FILE_SAYS
) -> Trained:
    """Reads networks from a run's workdir or one of its checkpoints, written on any topology, or from a weight file.

    Args:
        path: of any of these.
        networks: which ones.
        reading: what a weight file does not say; its `network` does not count.

    Raises:
        UserError: there is nothing that can be read.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run's workdir, a checkpoint in it, or a weight file")
    told = {name: value for name, value in reading.arguments().items() if name != "network"}
    if not is_run(path):
        return _read_file(path, networks=networks, told=told)
    check_for_run(path, **told)
    place = find_checkpoint(path)
    step, state, run = read_checkpoint(place.folder, step=place.step, parts=networks)
    config, workdir = parse_saved_config(run["config"]), place.folder.absolute().parent
    architecture = architecture_of(config)
    return Trained(
        architecture=architecture,
        backbones={name: backbone_tensors(state[name]["backbone"], architecture) for name in networks},
        heads={name: head_tensors(state[name]["head"]) for name in networks},
        source=workdir.name,
        mean=config.views.mean,
        std=config.views.std,
        window=decoding_of(config.data).window,
        inv_temp=self_inv_temp(config).end,
        config=config,
        step=step,
        workdir=workdir,
    )


def _read_file(path: Path, *, networks: Collection[NetworkName], told: dict[str, Any]) -> Trained:
    found = {name: import_weights(path, network=name, **told) for name in networks}
    first = next(iter(found.values()))
    return Trained(
        architecture=first.architecture,
        backbones={name: imported.backbone for name, imported in found.items()},
        heads={name: imported.head for name, imported in found.items() if imported.head is not None},
        source=path.name,
        mean=first.mean,
        std=first.std,
        window=first.window,
        inv_temp=first.inv_temp,
        notes=tuple(first.report().splitlines()),
    )
