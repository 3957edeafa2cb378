"""What is written beside the tensors: metadata of every file, and the config.json of timm and transformers."""

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from flsl_jax._version import __version__
from flsl_jax.models import Architecture
from flsl_jax.weights.export.trained import Trained
from flsl_jax.weights.layouts import LAYOUTS

# Names that timm has registered; every argument in which a network may differ from them is in the config.
_TIMM_NAMES = {
    (192, 16): "vit_tiny_patch16_224",
    (384, 16): "vit_small_patch16_224",
    (384, 8): "vit_small_patch8_224",
    (768, 16): "vit_base_patch16_224",
    (768, 8): "vit_base_patch8_224",
    (1024, 16): "vit_large_patch16_224",
}
_COLOUR = 3
_LIBRARIES = ("jax", "flax", "orbax-checkpoint", "numpy", "safetensors")


def file_metadata(trained: Trained, *, name: str, networks: tuple[str, ...], what: str, dtype: str) -> dict[str, str]:
    """The metadata for the header of a safetensors file: strings by name; nested values are JSON.

    `architecture` has the fields of `Architecture`, as the weights expect them; `layout` is the format's name;
    `target_pos_resize` is how the target resizes the position embedding, which may differ from what the weights expect.
    """
    arch, config, layout = trained.architecture, trained.config, LAYOUTS[name]
    versions = {library: importlib.metadata.version(library) for library in _LIBRARIES}
    values = {
        "layout": name,
        "target": layout.target,
        "networks": list(networks),
        "what": what,
        "dtype": dtype,
        "architecture": arch.as_dict(),
        "image_size": list(image_size(trained)),
        "mean": trained.mean,
        "std": trained.std,
        "channels": channel_names(arch.channels),
        "window": trained.window,
        "inv_temp": trained.inv_temp,
        "class_token": bool(arch.num_prefix),
        "final_norm": arch.final_norm and layout.final_norm,
        "target_pos_resize": layout.pos_resize,
        "source": trained.source,
        "step": trained.step,
        "recipe": None if config is None else config.views.recipe,
        "versions": {"flsl_jax": __version__} | versions,
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return {"format": "pt"} | texts


def channel_names(channels: int) -> str:
    """What the channels of the images are, in a word."""
    return {1: "grey", 3: "RGB"}.get(channels, f"{channels} bands")


def image_size(trained: Trained) -> tuple[int, int]:
    """Height and width, in pixels, of images whose tokens form the grid of the position embedding."""
    arch = trained.architecture
    return arch.grid[0] * arch.patch_size, arch.grid[1] * arch.patch_size


def folder_config(trained: Trained, *, name: str, dtype: str) -> dict[str, dict[str, Any]]:
    """The JSON files beside the weights, by file name, for formats that are folders; empty for the others."""
    if name == "timm":
        return {"config.json": _timm(trained)}
    if name in ("transformers", "transformers-vitdet"):
        config = _ijepa(trained) if name == "transformers" else _vitdet(trained)
        return {"config.json": config | {"dtype": dtype}, "preprocessor_config.json": _preprocessor(trained)}
    return {}


def _timm(trained: Trained) -> dict[str, Any]:
    arch, (height, width) = trained.architecture, image_size(trained)
    arguments = {
        "img_size": [height, width],
        "patch_size": arch.patch_size,
        "embed_dim": arch.width,
        "depth": arch.depth,
        "num_heads": arch.num_heads,
        # Of a SwiGLU MLP, timm counts the gate too; half a channel more guards its rounding down.
        "mlp_ratio": (2 * arch.hidden + 0.5) / arch.width if arch.mlp == "swiglu" else arch.mlp_ratio,
        "class_token": arch.num_prefix > 0,
        "reg_tokens": max(arch.num_prefix - 1, 0),
        "no_embed_class": arch.num_prefix > 0,
        "init_values": 1.0 if arch.layer_scale else None,
        "global_pool": "",
        "num_classes": 0,
        "dynamic_img_size": True,
        "in_chans": arch.channels if arch.channels != _COLOUR else None,
    }
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if arch.mlp == "swiglu" and not arch.layer_scale:
        arguments["init_values"] = None  # the one name with such MLPs has LayerScale, unless it is told otherwise
    return {
        "architecture": _timm_name(trained.architecture),
        "num_classes": 0,
        "num_features": arch.width,
        "global_pool": "",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [arch.channels, height, width],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": list(trained.mean),
            "std": list(trained.std),
            "num_classes": 0,
            "pool_size": None,
            # Where timm is told the name, it changes the kernel for other images than RGB.
            "first_conv": "patch_embed.proj" if arch.channels == _COLOUR else None,
            "classifier": "head",
        },
    }


def _timm_name(arch: Architecture) -> str:
    if arch.mlp == "swiglu":  # no argument of timm says so, only the name
        return "vit_giant_patch14_dinov2"
    return _TIMM_NAMES.get((arch.width, arch.patch_size), "vit_small_patch16_224")


def _transformers(trained: Trained) -> dict[str, Any]:
    arch = trained.architecture
    return {
        "hidden_size": arch.width,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.num_heads,
        "hidden_act": "gelu",
        "layer_norm_eps": arch.norm_eps,
        "patch_size": arch.patch_size,
        "num_channels": arch.channels,
        "qkv_bias": True,
    }


def _ijepa(trained: Trained) -> dict[str, Any]:
    arch = trained.architecture
    return _transformers(trained) | {
        "architectures": ["IJepaModel"],
        "model_type": "ijepa",
        "intermediate_size": arch.mlp_ratio * arch.width,
        "image_size": image_size(trained)[0],
    }


def _vitdet(trained: Trained) -> dict[str, Any]:
    side = image_size(trained)[0]
    return _transformers(trained) | {
        "architectures": ["VitDetBackbone"],
        "model_type": "vitdet",
        "mlp_ratio": trained.architecture.mlp_ratio,
        "image_size": side,
        "pretrain_image_size": side,
        "window_block_indices": [],
        "window_size": 0,
        "use_absolute_position_embeddings": True,
        "use_relative_position_embeddings": False,
        "out_features": [f"stage{trained.architecture.depth}"],
    }


def _preprocessor(trained: Trained) -> dict[str, Any]:
    height, width = image_size(trained)
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(trained.mean),
        "image_std": list(trained.std),
    }


def _levels(shares: tuple[float, ...]) -> str:
    """Shares of the range from black to white as levels from 0 to 255, as code."""
    return f"[{', '.join(f'{255 * share:.6g}' for share in shares)}]"


def snippet_fields(trained: Trained) -> Mapping[str, str]:
    """The values that the load snippets fill in."""
    arch, (height, width) = trained.architecture, image_size(trained)
    return {
        "size": str(height),
        "image_size": f"({height}, {width})" if height != width else str(height),
        "patch": str(arch.patch_size),
        "width": str(arch.width),
        "depth": str(arch.depth),
        "heads": str(arch.num_heads),
        "ratio": _ratio(arch),
        "hidden": str(arch.hidden),
        "eps": repr(arch.norm_eps),
        "class_token": str(arch.num_prefix > 0).lower(),
        "registers": str(max(arch.num_prefix - 1, 0)),
        "ffn": '\n    ffn_layer="swiglu",' if arch.mlp == "swiglu" else "",
        "norm_layer": "layernorm" if arch.norm_eps == 1e-6 else "layernormbf16",
        "init_values": "1.0" if arch.layer_scale else "None",
        "in_chans": "" if arch.channels == _COLOUR else f" in_chans={arch.channels},",
        "in_channels": "" if arch.channels == _COLOUR else f" in_channels={arch.channels},",
        "pixel_mean": _levels(trained.mean),
        "pixel_std": _levels(trained.std),
    }


def _ratio(arch: Architecture) -> str:
    """Hidden channels over D; of SwiGLU's as DINOv2's classes take it, which use two thirds, rounded up to a multiple of 8."""
    return repr(1.5 * arch.hidden / arch.width) if arch.mlp == "swiglu" else str(arch.mlp_ratio)
