"""How other code names a backbone's tensors: one table of formats, to read and to write, and those that cannot be written.

A layout maps prefixes of canonical names (`flsl_jax.weights.canonical`) to prefixes of the target's names; `{n}` stands for
the block's number. Every difference that is not a name has a field of its own: tensors that the target has and ignores, a
row of zeros before the position embedding, a final norm that the target lacks. All of these are reported when a file is
written, and nothing else may differ. The facts come from the targets' code and were checked by loading random weights; see
docs/weights.md.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from flsl_jax.config import nearest_key
from flsl_jax.errors import UserError
from flsl_jax.models.position import PosResize

Names = Mapping[str, str | tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One target format.

    Attributes:
        target: the code that reads it, and its version.
        names: canonical prefix -> the target's prefix; three of them if query, key and value are separate.
        prefix: before every name of the backbone.
        head_prefix: before every name of the head; None: the target has no place for one.
        zero_row: whether the position embedding starts with a row of zeros for the class token: "never"; "always", even
            if the token takes no part; or "with_token", if the network has such a token, which includes its position.
        unused: names of tensors (1, 1, D) that the target has and does not use; written as zeros.
        mask_token: whether it has one (1, D), which only its own training uses; written as zeros.
        registers: its name of the registers.
        final_norm: whether the target has the norm after the last block; else it is left out.
        min_prefix, max_prefix: how many prefix tokens (class token, registers) it must have, and can hold.
        layer_scale: whether it can hold LayerScale.
        swiglu: names of the layers of a SwiGLU MLP, where they are not those of `names`; two of them if gate and what it
            multiplies are separate; None: the target has no such MLP.
        rotary: whether its positions are rotary; else it has an embedding of them.
        norm_eps: epsilon that is fixed in the target; None: it is in a config that is written or shown with the file.
        pos_resize: how the target resizes the position embedding for other image sizes.
        kind: "file" (.safetensors or .pth), or "folder" with config.json and model.safetensors.
        suffix: of a file that the target reads by itself.
        wrapper: key of the tensors in a .pth file: "network" stands for `student` or `teacher`; "bare" for a file that holds
            the tensors alone and so no metadata; "" for a folder, which has no such file.
        notes: what loading needs besides the file.
    """

    target: str
    names: Names
    prefix: str = ""
    head_prefix: str | None = None
    zero_row: Literal["never", "always", "with_token"] = "never"
    unused: tuple[str, ...] = ()
    mask_token: bool = False
    registers: str = "reg_token"
    final_norm: bool = True
    min_prefix: int = 0
    max_prefix: int = 0
    layer_scale: bool = False
    swiglu: Names | None = None
    rotary: bool = False
    norm_eps: float | None = None
    pos_resize: PosResize = "bicubic"
    kind: Literal["file", "folder"] = "file"
    suffix: Literal[".safetensors", ".pth"] = ".safetensors"
    wrapper: Literal["", "model", "state_dict", "network", "bare"] = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "file" and not self.wrapper:
            raise ValueError(
                f'the layout for {self.target} has no wrapper; name the key of the tensors in its .pth file, or "bare"'
            )


_CANONICAL = {
    "pos_embed": "pos_embed",
    "patch_embed.proj.": "patch_embed.proj.",
    "blocks.{n}.norm1.": "blocks.{n}.norm1.",
    "blocks.{n}.attn.qkv.": "blocks.{n}.attn.qkv.",
    "blocks.{n}.attn.proj.": "blocks.{n}.attn.proj.",
    "blocks.{n}.norm2.": "blocks.{n}.norm2.",
    "blocks.{n}.mlp.fc1.": "blocks.{n}.mlp.fc1.",
    "blocks.{n}.mlp.fc2.": "blocks.{n}.mlp.fc2.",
    "norm.": "norm.",
}
_TIMM = _CANONICAL | {"blocks.{n}.ls1.": "blocks.{n}.ls1.", "blocks.{n}.ls2.": "blocks.{n}.ls2."}
_DINOV2_SWIGLU = {"blocks.{n}.mlp.fc1.": "blocks.{n}.mlp.w12.", "blocks.{n}.mlp.fc2.": "blocks.{n}.mlp.w3."}
_DINOV3 = {("rope_periods" if key == "pos_embed" else key): name for key, name in _TIMM.items()}
_DINOV3 |= {"rope_periods": "rope_embed.periods"}
_MMPRETRAIN = {
    "pos_embed": "pos_embed",
    "patch_embed.proj.": "patch_embed.projection.",
    "blocks.{n}.norm1.": "layers.{n}.ln1.",
    "blocks.{n}.attn.qkv.": "layers.{n}.attn.qkv.",
    "blocks.{n}.attn.proj.": "layers.{n}.attn.proj.",
    "blocks.{n}.norm2.": "layers.{n}.ln2.",
    "blocks.{n}.mlp.fc1.": "layers.{n}.ffn.layers.0.0.",
    "blocks.{n}.mlp.fc2.": "layers.{n}.ffn.layers.1.",
    "norm.": "ln1.",
}
_MMSEG = _MMPRETRAIN | {
    "blocks.{n}.attn.qkv.": "layers.{n}.attn.attn.in_proj_",
    "blocks.{n}.attn.proj.": "layers.{n}.attn.attn.out_proj.",
}
_IJEPA = {
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "blocks.{n}.norm1.": "layers.{n}.layernorm_before.",
    "blocks.{n}.attn.qkv.": tuple(f"layers.{{n}}.attention.{part}_proj." for part in "qkv"),
    "blocks.{n}.attn.proj.": "layers.{n}.attention.o_proj.",
    "blocks.{n}.norm2.": "layers.{n}.layernorm_after.",
    "blocks.{n}.mlp.fc1.": "layers.{n}.mlp.fc1.",
    "blocks.{n}.mlp.fc2.": "layers.{n}.mlp.fc2.",
    "norm.": "layernorm.",
}
_HF_VITDET = {
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.": "embeddings.projection.",
    "blocks.{n}.norm1.": "encoder.layer.{n}.norm1.",
    "blocks.{n}.attn.qkv.": "encoder.layer.{n}.attention.qkv.",
    "blocks.{n}.attn.proj.": "encoder.layer.{n}.attention.proj.",
    "blocks.{n}.norm2.": "encoder.layer.{n}.norm2.",
    "blocks.{n}.mlp.fc1.": "encoder.layer.{n}.mlp.fc1.",
    "blocks.{n}.mlp.fc2.": "encoder.layer.{n}.mlp.fc2.",
}

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "flsl": Layout(
            target="the authors' FLSL release",
            names=_CANONICAL,
            prefix="backbone.",
            head_prefix="head.",
            unused=("cls_token",),
            norm_eps=1e-6,
            pos_resize="bicubic_dino",
            suffix=".pth",
            wrapper="network",
            notes=("set num_heads as below: the release's detection configs say 8, which loads but is wrong",),
        ),
        "dino": Layout(
            target="DINO's code",
            names=_CANONICAL,
            prefix="backbone.",
            head_prefix="head.",
            zero_row="with_token",
            max_prefix=1,
            norm_eps=1e-6,
            pos_resize="bicubic_dino",
            suffix=".pth",
            wrapper="network",
            notes=("iBOT's class has the same names",),
        ),
        "dinov2": Layout(
            target="DINOv2",
            names=_TIMM,
            zero_row="with_token",
            mask_token=True,
            min_prefix=1,
            max_prefix=1,
            layer_scale=True,
            swiglu=_DINOV2_SWIGLU,
            norm_eps=1e-6,
            pos_resize="bicubic_dino",
            suffix=".pth",
            wrapper="bare",
        ),
        "dinov2-registers": Layout(
            target="DINOv2 with registers",
            names=_TIMM,
            zero_row="with_token",
            mask_token=True,
            registers="register_tokens",
            min_prefix=2,
            max_prefix=1_000,
            layer_scale=True,
            swiglu=_DINOV2_SWIGLU,
            norm_eps=1e-6,
            pos_resize="bicubic_antialias",
            suffix=".pth",
            wrapper="bare",
        ),
        "dinov3": Layout(
            target="DINOv3",
            names=_DINOV3,
            mask_token=True,
            registers="storage_tokens",
            min_prefix=1,
            max_prefix=1_000,
            layer_scale=True,
            swiglu={
                "blocks.{n}.mlp.fc1.": ("blocks.{n}.mlp.w1.", "blocks.{n}.mlp.w2."),
                "blocks.{n}.mlp.fc2.": "blocks.{n}.mlp.w3.",
            },
            rotary=True,
            suffix=".pth",
            wrapper="bare",
        ),
        "timm": Layout(
            target="timm 1.0",
            names=_TIMM,
            max_prefix=1_000,
            layer_scale=True,
            swiglu={},
            norm_eps=1e-6,
            pos_resize="bicubic_antialias",
            kind="folder",
        ),
        "detectron2": Layout(
            target="detectron2's ViT (ViTDet)",
            names=_CANONICAL,
            prefix="backbone.net.",
            final_norm=False,
            suffix=".pth",
            wrapper="model",
            notes=(
                "set pretrain_use_cls_token=False, and no ?matching_heuristics=True behind the file's name",
                "relative positions (use_rel_pos=True) and the pyramid are not in the file and start afresh",
            ),
        ),
        "mmdet-vitdet": Layout(
            target="mmdetection 3, projects/ViTDet",
            names=_CANONICAL,
            final_norm=False,
            suffix=".pth",
            wrapper="model",
            notes=(
                "set pretrain_use_cls_token=False, and norm_cfg=dict(type='LN', eps=1e-6), which its config leaves at 1e-5",
                "relative positions and the pyramid are not in the file and start afresh",
            ),
        ),
        "mmseg": Layout(
            target="mmsegmentation 1.2's VisionTransformer",
            names=_MMSEG,
            zero_row="always",
            unused=("cls_token",),
            suffix=".pth",
            wrapper="state_dict",
            notes=(
                "set with_cls_token=False and patch_bias=True; without the latter the patch bias is dropped silently",
                "set final_norm=True for the norm after the last block, or leave ln1.* out",
            ),
        ),
        "mmpretrain": Layout(
            target="mmpretrain 1.2's VisionTransformer",
            names=_MMPRETRAIN,
            suffix=".pth",
            wrapper="state_dict",
            notes=("set with_cls_token=False and out_type='featmap'",),
        ),
        "transformers": Layout(
            target="transformers' IJepaModel, its ViT without class token",
            names=_IJEPA,
            kind="folder",
            notes=("pass interpolate_pos_encoding=True for images of another size",),
        ),
        "transformers-vitdet": Layout(
            target="transformers' VitDetBackbone",
            names=_HF_VITDET,
            zero_row="always",
            final_norm=False,
            kind="folder",
        ),
    }
)  # fmt: skip

_CLASS_TOKEN = "always has a class token, which these networks lack"
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "torchvision": f"torchvision's ViT {_CLASS_TOKEN}, and takes one image size only; use --format=timm",
        "transformers-vit": f"transformers' ViTModel {_CLASS_TOKEN}; use --format=transformers (IJepaModel)",
    }
)


# What `convert` writes that is no file of tensors.
PROGRAMS = ("onnx", "stablehlo")


def find_layout(name: str) -> Layout:
    """The layout of a format.

    Raises:
        UserError: the format is unknown (names the nearest one), or one that cannot hold these networks.
    """
    if name in REFUSED:
        raise UserError(f"format {name!r} cannot be written: {REFUSED[name]}")
    if name not in LAYOUTS:
        near = nearest_key(name, (*LAYOUTS, *PROGRAMS)).replace("valid keys", "formats")
        raise UserError(f"unknown format {name!r}; {near}")
    return LAYOUTS[name]
