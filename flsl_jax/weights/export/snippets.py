"""Code to copy that loads a written file in its framework, strictly; each takes `images` and makes `tokens`.

`images` are float [B, C, H, W], RGB unless it was trained on others, normalised as the file's metadata says; `tokens` are
float [B, N, D], row by row.
`model.eval()` has a line of its own because it does not return the model in the mm* packages.
"""

import json
import re
import string
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from flsl_jax.weights.layouts import LAYOUTS

_DINO_MODEL = """
from functools import partial

import torch
from vision_transformer import $imports

$read
state = {name.removeprefix("backbone."): tensor for name, tensor in state.items() if name.startswith("backbone.")}
model = VisionTransformer(
    img_size=[$size], patch_size=$patch, embed_dim=$width, depth=$depth, num_heads=$heads, mlp_ratio=$ratio, qkv_bias=True,
    norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),$in_chans
)
"""
_FLSL = f"""{_DINO_MODEL}make_vit_noclass(model)
model.load_state_dict(state, strict=True)
model.eval()
tokens = model(images)
"""
_DINO = f"""{_DINO_MODEL}model.load_state_dict(state, strict=True)
model.eval()
tokens = model.get_intermediate_layers(images, n=1)[0][:, 1:]  # after the final norm, without the class token
"""
_DINO_NO_CLASS_TOKEN = f"""{_DINO_MODEL}# DINO's class has a class token and this network none: one of zeros is
# loaded, and left out before the blocks.
state["cls_token"] = torch.zeros(1, 1, $width)
state["pos_embed"] = torch.nn.functional.pad(state["pos_embed"], (0, 0, 1, 0))
model.load_state_dict(state, strict=True)
model.eval()
tokens = model.prepare_tokens(images)[:, 1:]
for block in model.blocks:
    tokens = block(tokens)
tokens = model.norm(tokens)
"""

_DINOV2 = """
import torch
from dinov2.models.vision_transformer import DinoVisionTransformer

$read
model = DinoVisionTransformer(
    img_size=$size, patch_size=$patch, embed_dim=$width, depth=$depth, num_heads=$heads, mlp_ratio=$ratio,
    init_values=$init_values, block_chunks=0,$options$in_chans$ffn
)
model.load_state_dict(state, strict=True)
model.eval()
tokens = model.get_intermediate_layers(images, n=1)[0]  # after the final norm, patches alone
"""
_REGISTERS = " num_register_tokens=$registers, interpolate_antialias=True, interpolate_offset=0.0,"

_DINOV3 = """
import torch
from dinov3.models.vision_transformer import DinoVisionTransformer

$read
model = DinoVisionTransformer(
    img_size=$size, patch_size=$patch, embed_dim=$width, depth=$depth, num_heads=$heads, ffn_ratio=$ratio,
    layerscale_init=$init_values, norm_layer="$norm_layer", n_storage_tokens=$registers,
    pos_embed_rope_dtype="fp32",$in_chans$ffn
)
model.load_state_dict(state, strict=True)
model.eval()
tokens = model.get_intermediate_layers(images, n=1)[0]  # after the final norm, patches alone
"""

_SNIPPETS: Mapping[str, str] = MappingProxyType(
    {
        "flsl": _FLSL,
        "dino": _DINO,
        "dinov2": _DINOV2.replace("$options", ""),
        "dinov2-registers": _DINOV2.replace("$options", _REGISTERS),
        "dinov3": _DINOV3,
        "timm": """
import timm

model = timm.create_model("local-dir:$path", pretrained=True).eval()
tokens = model(images)  # any H and W that $patch divides
""",
        "detectron2": """
from functools import partial

import torch
from detectron2.modeling.backbone.vit import ViT

$read
state = {name.removeprefix("backbone.net."): tensor for name, tensor in state.items()}
model = ViT(
    img_size=$size, patch_size=$patch, embed_dim=$width, depth=$depth, num_heads=$heads, mlp_ratio=$ratio,
    norm_layer=partial(torch.nn.LayerNorm, eps=$eps), pretrain_img_size=$size, pretrain_use_cls_token=False,$in_chans
)
model.load_state_dict(state, strict=True)
model.eval()
tokens = model(images)["last_feat"].flatten(2).transpose(1, 2)
# In a LazyConfig: model.backbone.net with these arguments, train.init_checkpoint = "$path"
# and model.pixel_mean = $pixel_mean and model.pixel_std = $pixel_std
""",
        "mmdet-vitdet": """
from functools import partial

import torch
from projects.ViTDet.vitdet import ViT

$read
model = ViT(
    img_size=$size, patch_size=$patch, embed_dim=$width, depth=$depth, num_heads=$heads, mlp_ratio=$ratio,
    norm_cfg=dict(type="LN", eps=$eps), pretrain_img_size=$size, pretrain_use_cls_token=False,$in_chans
)
model.load_state_dict(state, strict=True)
model.eval()
tokens = model(images).flatten(2).transpose(1, 2)
# In a config: backbone=dict(type="ViT", ..., init_cfg=dict(type="Pretrained", checkpoint="$path"))
# and data_preprocessor=dict(..., mean=$pixel_mean, std=$pixel_std)
""",
        "mmseg": """
import torch
from mmseg.models.backbones.vit import VisionTransformer

$read
model = VisionTransformer(
    img_size=($size, $size), patch_size=$patch, embed_dims=$width, num_layers=$depth, num_heads=$heads, mlp_ratio=$ratio,
    out_indices=-1, qkv_bias=True, with_cls_token=False, patch_bias=True, final_norm=True,
    norm_cfg=dict(type="LN", eps=$eps), interpolate_mode="bicubic",$in_channels
)
model.load_state_dict(state, strict=True)
model.eval()
tokens = model(images)[0].flatten(2).transpose(1, 2)
# In a config: backbone=dict(type="VisionTransformer", ..., init_cfg=dict(type="Pretrained", checkpoint="$path"))
# and data_preprocessor=dict(..., mean=$pixel_mean, std=$pixel_std)
""",
        "mmpretrain": """
import torch
from mmpretrain.models.backbones.vision_transformer import VisionTransformer

$read
model = VisionTransformer(
    arch=dict(embed_dims=$width, num_layers=$depth, num_heads=$heads, feedforward_channels=$hidden),
    img_size=$size, patch_size=$patch, norm_cfg=dict(type="LN", eps=$eps), with_cls_token=False, out_type="featmap",$in_channels
)
model.load_state_dict(state, strict=True)
model.eval()
tokens = model(images)[0].flatten(2).transpose(1, 2)
# In a config: backbone=dict(type="VisionTransformer", ..., init_cfg=dict(type="Pretrained", checkpoint="$path"))
# and data_preprocessor=dict(..., mean=$pixel_mean, std=$pixel_std)
""",
        "transformers": """
from transformers import IJepaModel

model = IJepaModel.from_pretrained("$path").eval()
tokens = model(images, interpolate_pos_encoding=True).last_hidden_state
""",
        "transformers-vitdet": """
from transformers import VitDetBackbone

model = VitDetBackbone.from_pretrained("$path").eval()
tokens = model(images).feature_maps[-1].flatten(2).transpose(1, 2)  # no norm after the last block
""",
    }
)  # fmt: skip


def load_snippet(name: str, *, path: Path, network: str, fields: Mapping[str, str]) -> str:
    """The snippet of a format for one file, ready to copy."""
    layout = LAYOUTS[name]
    file, pth = (json.dumps(str(place), ensure_ascii=False)[1:-1] for place in (path, path.with_suffix(".pth")))
    if path.suffix == ".pth":
        key = {"network": f'["{network}"]', "bare": ""}.get(layout.wrapper, f'["{layout.wrapper}"]')
        read = f'state = torch.load("{file}", weights_only=True){key}'
        strip = 'state = {name.removeprefix("module."): tensor for name, tensor in state.items()}'
    else:
        read = f'from safetensors.torch import load_file\n\nstate = load_file("{file}")'
        strip = f'state = {{name.removeprefix("{network}.").removeprefix("module."): tensor for name, tensor in state.items()}}'
    if layout.wrapper == "network" and (network == "student" or path.suffix != ".pth"):
        read += f"\n{strip}"
    template = _DINO_NO_CLASS_TOKEN if name == "dino" and fields["class_token"] == "false" else _SNIPPETS[name]
    if path.suffix == ".safetensors":
        template = re.sub(r"# In a .*", "# Its configs read a .pth: convert with --output=$pth for them.", template)
    imports = (
        "VisionTransformer, make_vit_noclass  # the FLSL release's" if name == "flsl" else "VisionTransformer  # DINO's"
    )
    values = {**fields, "path": file, "pth": pth, "read": read, "imports": imports}
    return string.Template(template).substitute(values).strip() + "\n"
