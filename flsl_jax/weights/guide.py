"""The guide of a second stage, from an earlier run or a weight file, fitted to the run that it guides."""

import dataclasses
import logging

import jax
import numpy as np
from flax import nnx

from flsl_jax import parallel
from flsl_jax.config import Config
from flsl_jax.errors import UserError
from flsl_jax.training.guide import Guide, GuideNetwork
from flsl_jax.training.state import backbone_of
from flsl_jax.weights.load import load_network

log = logging.getLogger(__name__)


def open_guide(config: Config) -> Guide | None:
    """What `config.guide.model` names: the teacher of a run, or a weight file's backbone; None where it names nothing.

    It may differ from the run's network in all but the patch size, since its tokens must lie where the run's do. What
    comes after the block that is compared is left out. All processes open it together.

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
        network=GuideNetwork(graph=graph, architecture=kept, mean=tuple(loaded.mean), std=tuple(loaded.std)),
        params=jax.tree.map(np.asarray, params),
        report=loaded.report,
    )
    if not parallel.all_same(guide.digest):
        raise UserError(
            f"the processes read different guides from config.guide.model = {settings.model!r} (here: {guide.name}); a run "
            "that is still training changes: name one of its checkpoints (RUN/checkpoints/STEP)"
        )
    # As with `flsl_jax.load`: a wrong number of heads gives wrong features, and an assumed one is not to be missed.
    level = logging.INFO if loaded.heads_known else logging.WARNING
    log.log(level, "guided by block %d of %s", settings.block, loaded.report)
    return guide
