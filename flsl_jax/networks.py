"""The networks that a config describes, computed as it says; training, evaluation and weights all build them here."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.config import Config
from flsl_jax.models import Architecture, Flsl, Head, Placement, ViT


def for_backend(config: Config, backend: str) -> Config:
    """The config with each "auto" of `compute` replaced by what suits a backend, and attention by ours.

    Args:
        config: a run's.
        backend: "cpu", "gpu" or "tpu", as `jax.Device.platform` and `jax.default_backend` have it.
    """
    compute = config.compute
    dtype = compute.dtype if compute.dtype != "auto" else "float32" if backend == "cpu" else "bfloat16"
    blocks = compute.scan_blocks
    if blocks == "auto":
        # With unrolled blocks remat saves little or nothing: XLA for CPUs merges the recomputation with the first computation,
        # and for GPUs it puts off the gradients of all weights until every block is computed again.
        blocks = "scan" if backend == "tpu" or compute.remat != "none" else "unroll"
    attention = "xla" if compute.attention == "auto" else compute.attention
    settled = dataclasses.replace(compute, dtype=dtype, scan_blocks=blocks, attention=attention)
    return dataclasses.replace(config, compute=settled)


def compute_dtype(config: Config) -> jnp.dtype:
    """The dtype of matrix products: that which the config names, or that of `for_backend` for this machine."""
    return jnp.dtype(for_backend(config, jax.default_backend()).compute.dtype)


def for_any_device(config: Config, *, dtype: str = "float32") -> Config:
    """The config without what was chosen for the devices that a run was trained on: its network computes on any device."""
    compute = dataclasses.replace(config.compute, dtype=dtype, attention="xla", remat="none", scan_blocks="auto")
    return dataclasses.replace(config, compute=compute)


def architecture_of(config: Config) -> Architecture:
    """The backbone that the config describes."""
    model = config.model
    side = model.pos_grid or config.views.size // model.patch_size
    return Architecture(
        patch_size=model.patch_size,
        width=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        mlp_ratio=model.mlp_ratio,
        grid=(side, side),
        pos_embed=model.pos_embed,
        pos_resize=model.pos_resize,
        num_prefix=model.num_prefix if model.prefix_tokens == "keep" else 0,
        layer_scale=model.layer_scale,
        norm_eps=model.norm_eps,
        channels=config.data.channels,
    )


def backbone_of(
    architecture: Architecture, config: Config, *, rngs: nnx.Rngs, placement: Placement | None = None
) -> ViT:
    """A backbone, freshly initialised, computed as the config says, and where it says "auto", as suits this machine."""
    compute = for_backend(config, jax.default_backend()).compute
    return ViT(
        architecture,
        drop_path=config.model.drop_path,
        init_std=config.model.init_std,
        patch_init=config.model.patch_init,
        dtype=compute.dtype,
        scan_blocks=compute.scan_blocks == "scan",
        remat=compute.remat,
        attention="cudnn" if compute.attention == "cudnn" else "xla",
        placement=placement,
        rngs=rngs,
    )


def build_network(config: Config, *, rngs: nnx.Rngs, placement: Placement | None = None) -> Flsl:
    """Backbone and head as the config describes them, freshly initialised."""
    head = config.head
    return Flsl(
        backbone=backbone_of(architecture_of(config), config, rngs=rngs, placement=placement),
        head=Head(
            width=config.model.width,
            hidden=head.hidden,
            bottleneck=head.bottleneck,
            centroids=head.centroids,
            norm_last_layer=head.norm_last_layer,
            last_layer_init=head.last_layer_init,
            dtype=compute_dtype(config),
            rngs=rngs,
        ),
    )


def network_graph(config: Config, *, placement: Placement | None = None) -> nnx.GraphDef:
    """The static part of the network, which `nnx.merge` joins with a parameter tree; allocates nothing."""
    network = nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0), placement=placement))
    return nnx.split(network, nnx.Param)[0]
