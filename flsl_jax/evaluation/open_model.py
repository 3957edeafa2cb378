"""What an evaluation or a picture is made of, from one word: a run, a checkpoint, a weight file, or a baseline."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path, PurePath

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.config import AS_THE_FILE_SAYS, Config, ReadingConfig, self_inv_temp
from flsl_jax.data.images.levels import decoding_of
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder, NetworkEncoder, NoEncoder, PixelEncoder
from flsl_jax.models import ViT
from flsl_jax.networks import build_network, for_any_device
from flsl_jax.weights.load import load_network
from flsl_jax.weights.start import read_start
from flsl_jax.workdir import read_run_config

log = logging.getLogger(__name__)

# Of raw pixels by themselves, which no training gives a size.
_PIXEL_IMAGE_SIZE = 224


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """An encoder and where it comes from.

    `source`: the word it was asked for by. `step`: updates it was trained for, None where that is not known. `config`: of
    its run, None for others; `workdir`: of that run. `results`: the folder where its results go unless another is named:
    `results/` of a run's workdir, in it `step_S/`, `untrained/` and `pixels/` for one checkpoint and the baselines; None for
    what has no workdir.
    """

    encoder: Encoder
    source: str
    step: int | None = None
    config: Config | None = None
    workdir: Path | None = None
    results: Path | None = None

    def description(self) -> dict[str, str | int | None]:
        """What a result says of its model."""
        return {
            "name": self.encoder.name,
            "source": self.source,
            "step": self.step,
            "patch_size": self.encoder.patch_size,
            "image_size": self.encoder.image_size,
        }


def open_model(source: str, *, patch_size: int = 0, reading: ReadingConfig = AS_THE_FILE_SAYS) -> OpenedModel:
    """Opens a model for its features.

    Args:
        source: a run's workdir (its newest checkpoint), a checkpoint (`WORKDIR/checkpoints/STEP`), a weight file of any
            format that `flsl_jax.load` reads, `untrained:WORKDIR` (what that run started from),
            `pixels:WORKDIR` (raw pixels in that run's patches), or `pixels` (with `patch_size`). Empty: no model.
        patch_size: of `pixels` alone, in pixels.
        reading: what a weight file does not say, and which network of a run or file is taken.

    Raises:
        UserError: nothing that can be opened is there.
    """
    if not source:
        return OpenedModel(encoder=NoEncoder(), source="no model")
    kind, _, place = source.partition(":")
    if source == "pixels":
        if patch_size < 1:
            raise UserError("--model=pixels needs --patch_size; or name a run to take it from: --model=pixels:WORKDIR")
        return OpenedModel(encoder=PixelEncoder(patch_size=patch_size, image_size=_PIXEL_IMAGE_SIZE), source=source)
    if kind in ("untrained", "pixels"):
        if not place:
            raise UserError(f"--model={source} names no run; write --model={kind}:WORKDIR")
        return _baseline(kind, Path(place))
    return _trained(source, reading=reading)


def short_names(models: Sequence[OpenedModel]) -> list[str]:
    """The models' names without the folders before them, unless two would become equal.

    Raises:
        UserError: a model is named more than once.
    """
    full = [model.encoder.name for model in models]
    if twice := {name for name in full if full.count(name) > 1}:
        raise UserError(f"--model names {', '.join(sorted(twice))} more than once; name every model once")
    short = [PurePath(name).name for name in full]
    return short if len(set(short)) == len(short) else full


def _baseline(kind: str, workdir: Path) -> OpenedModel:
    config = read_run_config(workdir, at_start=True)
    if kind == "pixels":
        sizes = {"patch_size": config.model.patch_size, "image_size": config.views.size}
        encoder = PixelEncoder(decoding=decoding_of(config.data), **sizes)
    else:
        encoder = open_start(config, workdir=workdir)
    step = 0 if kind == "untrained" else None
    return OpenedModel(
        encoder=encoder,
        source=f"{kind}:{workdir}",
        step=step,
        config=config,
        workdir=workdir,
        results=workdir / "results" / kind,
    )


def open_start(config: Config, *, workdir: Path) -> NetworkEncoder:
    """The encoder of `start_network`; raises what that does."""
    name = f"{workdir}, {'at its start' if config.init_from else 'untrained'}"
    return encoder_of(start_network(config, workdir=workdir), config, name=name)


def start_network(config: Config, *, workdir: Path) -> ViT:
    """The backbone that the run in `workdir` started from: that of `config.init_from` if it names one, else random weights.

    Raises:
        UserError: the run keeps no copy of that backbone, and it cannot be read again.
    """
    start = read_start(config, workdir=workdir)
    backbone = build_network(for_any_device(config), rngs=nnx.Rngs(config.seed)).backbone
    if start is None:
        return backbone
    return nnx.merge(nnx.split(backbone, nnx.Param)[0], jax.tree.map(jnp.asarray, start))


def _trained(source: str, *, reading: ReadingConfig) -> OpenedModel:
    path = Path(source)
    loaded = load_network(path, **reading.arguments())
    model = loaded.model
    if path.is_dir() and path.name.isdigit() and path.parent.name == "checkpoints":
        workdir = path.parent.parent
        results = workdir / "results" / f"step_{loaded.step}"
    elif (path / "checkpoints").is_dir() or path.name == "checkpoints":
        workdir = path if (path / "checkpoints").is_dir() else path.parent
        results = workdir / "results"
    else:
        log.info("%s", loaded.report)
        encoder = NetworkEncoder(
            model,
            name=source,
            mean=loaded.mean,
            std=loaded.std,
            decoding=model.decoding,
            inv_temp=model.inv_temp,
        )
        return OpenedModel(encoder=encoder, source=source)
    config, name = read_run_config(workdir), f"{workdir}, step {loaded.step}"
    if reading.network == "student":
        # The numbers in a run's own folder are its teacher's.
        name, results = f"{name}, student", None
    encoder = encoder_of(model, config, name=name)
    return OpenedModel(
        encoder=encoder, source=source, step=loaded.step, config=config, workdir=workdir, results=results
    )


def encoder_of(model: ViT, config: Config, *, name: str) -> NetworkEncoder:
    """A network of a run, which knows its images and its mean shift."""
    return NetworkEncoder(
        model,
        name=name,
        mean=config.views.mean,
        std=config.views.std,
        decoding=decoding_of(config.data),
        inv_temp=self_inv_temp(config).end,
        image_size=config.views.size,
    )
