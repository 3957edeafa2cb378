"""The frozen backbone of an earlier run that guides the cross-attention of a second stage (docs/method.md, Second stage)."""

import dataclasses
import functools
import hashlib
import logging
from typing import Any

import flax.struct
import jax
import numpy as np
from flax import nnx

from flsl_jax import parallel
from flsl_jax.config import Config
from flsl_jax.data.normalisation import normalise
from flsl_jax.errors import UserError
from flsl_jax.models import Architecture, ViT
from flsl_jax.networks import backbone_of
from flsl_jax.objective import gather_tokens, guided_weights
from flsl_jax.typing import Array, Float, Int
from flsl_jax.weights.load import load_network

log = logging.getLogger(__name__)


@flax.struct.dataclass
class GuideFeatures:
    """The guide's features of unaugmented pixels: of one size's student views, and of the base crop that they lie in."""

    student: Float[Array, "B V N E"]
    base: Float[Array, "B M E"]

    def weights(self, indices: Int[Array, "B V Q"], *, inv_temp: float, sharpness: float) -> Float[Array, "B V Q M"]:
        """Which tokens of the base crop belong with the queries at `indices`; see `flsl_jax.objective.guided_weights`."""
        weights = functools.partial(guided_weights, inv_temp=inv_temp, sharpness=sharpness)
        return jax.vmap(weights, in_axes=(1, None), out_axes=1)(gather_tokens(self.student, indices), self.base)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuideNetwork:
    """The guide without its parameters, which the training state carries.

    `graph`, `architecture`: of its `ViT`, which ends with the block whose output is compared. `mean`, `std`: of pixel levels
    from 0 to 1, as in its training.
    """

    graph: nnx.GraphDef
    architecture: Architecture
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def features(self, params: Any, images: Float[Array, "*b H W C"]) -> Float[Array, "*b N E"]:
        """One feature per patch, row by row, of images in levels from 0 to 255."""
        model: ViT = nnx.merge(self.graph, params)
        flat = normalise(images.reshape(-1, *images.shape[-3:]), mean=self.mean, std=self.std)
        output = model(flat)
        return output.reshape(*images.shape[:-3], -1, output.shape[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guide:
    """A complete guide. `params`: nested dictionaries of NumPy arrays. `report`: what was read, in lines."""

    network: GuideNetwork
    params: Any
    report: str

    @property
    def name(self) -> str:
        """What was read, in a line."""
        return self.report.splitlines()[0]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything that its features depend on."""
        network = self.network
        digest = hashlib.sha256(repr((network.architecture, network.mean, network.std)).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
            digest.update(leaf.tobytes())
        return digest.hexdigest()

    def description(self) -> dict[str, str]:
        """The description that a checkpoint holds; plain JSON."""
        return {"name": self.name, "sha256": self.digest}


def open_guide(config: Config) -> Guide | None:
    """Opens what `config.guide.model` names: the teacher of a run, or a weight file's backbone; None if it names nothing.

    It may differ from the run's network in everything but the patch size, because its tokens must lie where the run's do.
    Blocks after the one that is compared are left out. All processes open it together.

    Raises:
        UserError: it cannot be read, its patches are of another size, it has no such block, or processes read different ones.
    """
    settings = config.guide
    if not settings.model:
        return None
    try:
        loaded = load_network(settings.model, num_heads=settings.num_heads or None)
    except UserError as error:
        raise UserError(f"config.guide: {error}") from error
    arch = loaded.model.architecture
    if arch.patch_size != config.model.patch_size:
        raise UserError(
            f"config.guide.model = {settings.model!r} has patches of {arch.patch_size} pixels; expected those of "
            f"config.model.patch_size = {config.model.patch_size}, because its attention is between the same patches"
        )
    if arch.channels != config.data.channels:
        raise UserError(
            f"config.guide.model = {settings.model!r} sees {arch.channels} channels, and config.data.channels is "
            f"{config.data.channels}; name a guide that was trained on such images"
        )
    if not -arch.depth <= settings.block < arch.depth:
        raise UserError(
            f"config.guide.block is {settings.block}, but config.guide.model = {settings.model!r} has {arch.depth} blocks; "
            f"expected {-arch.depth} to {arch.depth - 1}"
        )
    depth = range(arch.depth)[settings.block] + 1
    params = nnx.to_pure_dict(nnx.split(loaded.model, nnx.Param)[1])
    params.pop("norm", None)
    params["blocks"] = jax.tree.map(lambda leaf: leaf[:depth], params["blocks"])
    kept = dataclasses.replace(arch, depth=depth, final_norm=False)
    graph = nnx.split(nnx.eval_shape(lambda: backbone_of(kept, config, rngs=nnx.Rngs(0))), nnx.Param)[0]
    guide = Guide(
        network=GuideNetwork(graph=graph, architecture=kept, mean=loaded.mean, std=loaded.std),
        params=jax.tree.map(np.asarray, params),
        report=loaded.report,
    )
    if len(set(parallel.of_every_process(guide.digest))) > 1:
        raise UserError(
            f"the processes read different guides from config.guide.model = {settings.model!r} (here: {guide.name}); a run "
            "that is still training changes: name one of its checkpoints (RUN/checkpoints/STEP)"
        )
    # As in `flsl_jax.load`: a wrong number of heads gives wrong features, so an assumed number is logged as a warning.
    level = logging.INFO if loaded.heads_known else logging.WARNING
    log.log(level, "guided by block %d of %s", settings.block, loaded.report)
    return guide


def check_same_guide(guide: Guide | None, *, config: Config, saved: dict[str, Any]) -> None:
    """Refuses to continue a run if the guide has the same path and other content than before, which nobody asked for.

    Args:
        guide: as opened now.
        config: the present one; if its `guide.model`, `block` or `num_heads` is not the saved one, that is intended.
        saved: the description of the run in the checkpoint.

    Raises:
        UserError: the guide has changed; names the old and the new one.
    """
    before = saved.get("guide")
    if guide is None or before is None or before["sha256"] == guide.digest:
        return
    settings, old = dataclasses.asdict(config.guide), saved["config"]["guide"]
    if all(settings[key] == old[key] for key in ("model", "block", "num_heads")):
        raise UserError(
            f"config.guide.model = {config.guide.model!r} is no longer the guide that this run began with "
            f"({before['name']}; now {guide.name}); put that one back, name it by its checkpoint (RUN/checkpoints/STEP) "
            "where it is still there, or take another --workdir"
        )
