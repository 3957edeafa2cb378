"""The guide of a second stage, from an earlier run or a weight file, fitted to the run that it guides."""

import jax
import numpy as np
from flax import nnx

from flsl_jax.config import Config
from flsl_jax.errors import UserError
from flsl_jax.training.guide import Guide, GuideNetwork
from flsl_jax.training.state import backbone_of
from flsl_jax.weights.load import load_network


def open_guide(config: Config) -> Guide | None:
    """What `config.guide.model` names: the teacher of a run, or a weight file's backbone; None where it names nothing.

    It may differ from the run's network in all but the patch size, since its tokens must lie where the run's do.

    Raises:
        UserError: it cannot be read, its patches are of another size, or it has no such block.
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
    params = nnx.split(loaded.model, nnx.Param)[1]
    graph = nnx.split(nnx.eval_shape(lambda: backbone_of(arch, config, rngs=nnx.Rngs(0))), nnx.Param)[0]
    return Guide(
        network=GuideNetwork(
            graph=graph, architecture=arch, block=settings.block, mean=tuple(loaded.mean), std=tuple(loaded.std)
        ),
        params=jax.tree.map(np.asarray, nnx.to_pure_dict(params)),
        report=loaded.report,
    )
