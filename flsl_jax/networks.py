"""The networks that a config describes, computed as it says; training, evaluation and weights all build them here."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.config import Config
from flsl_jax.models import Architecture, Flsl, Head, ViT


def compute_dtype(config: Config) -> jnp.dtype:
    """The dtype of matrix products: bfloat16 on accelerators, float32 on CPU, unless the config names one."""
    name = config.compute.dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


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
    )


def backbone_of(architecture: Architecture, config: Config, *, rngs: nnx.Rngs) -> ViT:
    """A backbone, freshly initialised, computed as the config says: dtype, scan, remat, attention."""
    scan = config.compute.scan_blocks == "scan"
    if config.compute.scan_blocks == "auto":
        # With unrolled blocks, XLA for CPUs merges the recomputation with the first computation, so remat has no effect.
        backend = jax.default_backend()
        scan = backend == "tpu" or (backend == "cpu" and config.compute.remat != "none")
    return ViT(
        architecture,
        drop_path=config.model.drop_path,
        init_std=config.model.init_std,
        patch_init=config.model.patch_init,
        dtype=compute_dtype(config),
        scan_blocks=scan,
        remat=config.compute.remat,
        attention=config.compute.attention,
        rngs=rngs,
    )


def build_network(config: Config, *, rngs: nnx.Rngs) -> Flsl:
    """Backbone and head as the config describes them, freshly initialised."""
    head = config.head
    return Flsl(
        backbone=backbone_of(architecture_of(config), config, rngs=rngs),
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


def network_graph(config: Config) -> nnx.GraphDef:
    """The static part of the network, which `nnx.merge` joins with a parameter tree; allocates nothing."""
    return nnx.split(nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0))), nnx.Param)[0]
