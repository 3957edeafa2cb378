"""The sources whose state dicts can be read: how each names its tensors and resizes its position embedding.

A source is recognised by one tensor that all its files have, the patch projection, and by marks among the other names.
Formats that are also written have the names of `flsl_jax.weights.layouts`. The facts come from the sources' code; see
docs/weights.md.
"""

import dataclasses
import re
from collections.abc import Collection

from flsl_jax.config import nearest_key
from flsl_jax.errors import UserError
from flsl_jax.models.position import PosResize
from flsl_jax.weights.layouts import LAYOUTS, Names


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Code that writes state dicts.

    Attributes:
        name: the name by which a user chooses it.
        maker: the code that writes such files, for messages.
        names: canonical prefix -> the source's prefix, prefix tokens (`cls_token`, `dist_token`, `reg_token`) included.
        anchor: name of the patch projection's weight; whatever stands before it is the prefix of the whole backbone.
        marks: patterns that must each be found among the file's names, in addition to the anchor.
        older: patterns of names from earlier versions, and the form that such names have in `names`.
        norm_eps: epsilon of its LayerNorms, unless a config says otherwise.
        pos_resize: how it resizes the position embedding.
        final_norm: whether it always has a norm after the last block; if not, tokens of a file without it are not normalised.
        placeless_token: whether its class token may lack a position; elsewhere n² positions beside one are ambiguous.
        rotary: whether its positions are rotary.
        spare_row: whether the position embedding may have a first row for a class token that the file lacks.
    """

    name: str
    maker: str
    names: Names
    anchor: str
    marks: tuple[str, ...] = ()
    older: tuple[tuple[str, str], ...] = ()
    norm_eps: float = 1e-6
    pos_resize: PosResize = "bicubic"
    final_norm: bool = True
    spare_row: bool = False
    rotary: bool = False
    placeless_token: bool = False


_TOKENS = {"cls_token": "cls_token", "dist_token": "dist_token", "reg_token": "reg_token"}
_TIMM = {**LAYOUTS["timm"].names, **_TOKENS}
_DINOV2 = _TIMM | {"reg_token": "register_tokens"}
_DINOV3 = {**LAYOUTS["dinov3"].names, "cls_token": "cls_token", "reg_token": "storage_tokens"}
# DeiT III and BEiT keep LayerScale's factors in the block itself.
_GAMMAS = ((r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),)
_HF_TOKENS = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "reg_token": "embeddings.register_tokens",
}
_HF_VIT = {**LAYOUTS["transformers"].names, **_HF_TOKENS}
_HF_DINOV2 = _HF_VIT | {
    "blocks.{n}.norm1.": "layers.{n}.norm1.",
    "blocks.{n}.ls1.gamma": "layers.{n}.layer_scale1.lambda1",
    "blocks.{n}.norm2.": "layers.{n}.norm2.",
    "blocks.{n}.ls2.gamma": "layers.{n}.layer_scale2.lambda1",
}
_HF_DINOV3 = {key: name for key, name in _HF_DINOV2.items() if key != "pos_embed"}
_HF_DINOV3 |= {"patch_embed.proj.": "embeddings.patch_embeddings.", "norm.": "norm."}
# The names of transformers 4, which transformers 5 still writes, and what 5 itself calls them.
_HF_OLDER = (
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attention.\1."),
    (r"\.attention\.(q)uery\.|\.attention\.(k)ey\.|\.attention\.(v)alue\.", r".attention.\1\2\3_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
_TORCHVISION = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.": "conv_proj.",
    "blocks.{n}.norm1.": "encoder.layers.encoder_layer_{n}.ln_1.",
    "blocks.{n}.attn.qkv.": "encoder.layers.encoder_layer_{n}.self_attention.in_proj_",
    "blocks.{n}.attn.proj.": "encoder.layers.encoder_layer_{n}.self_attention.out_proj.",
    "blocks.{n}.norm2.": "encoder.layers.encoder_layer_{n}.ln_2.",
    "blocks.{n}.mlp.fc1.": "encoder.layers.encoder_layer_{n}.mlp.0.",
    "blocks.{n}.mlp.fc2.": "encoder.layers.encoder_layer_{n}.mlp.3.",
    "norm.": "encoder.ln.",
}
_GOOGLE_BLOCK = "Transformer.encoderblock_{n}."
_GOOGLE = {
    "cls_token": "cls",
    "pos_embed": "Transformer.posembed_input.pos_embedding",
    "patch_embed.proj.": "embedding.",
    "blocks.{n}.norm1.": f"{_GOOGLE_BLOCK}LayerNorm_0.",
    "blocks.{n}.attn.qkv.": tuple(
        f"{_GOOGLE_BLOCK}MultiHeadDotProductAttention_1.{part}." for part in ("query", "key", "value")
    ),
    "blocks.{n}.attn.proj.": f"{_GOOGLE_BLOCK}MultiHeadDotProductAttention_1.out.",
    "blocks.{n}.norm2.": f"{_GOOGLE_BLOCK}LayerNorm_2.",
    "blocks.{n}.mlp.fc1.": f"{_GOOGLE_BLOCK}MlpBlock_3.Dense_0.",
    "blocks.{n}.mlp.fc2.": f"{_GOOGLE_BLOCK}MlpBlock_3.Dense_1.",
    "norm.": "Transformer.encoder_norm.",
}
# big_vision counts the layers of a kind by themselves, and has the positions outside.
_GOOGLE_OTHER = (
    (r"\.MultiHeadDotProductAttention_0\.", ".MultiHeadDotProductAttention_1."),
    (r"\.LayerNorm_1\.", ".LayerNorm_2."),
    (r"\.MlpBlock_0\.", ".MlpBlock_3."),
    (r"^pos_embedding$", "Transformer.posembed_input.pos_embedding"),
)
_TIMM_ANCHOR = "patch_embed.proj.weight"
_MM_ANCHOR = "patch_embed.projection.weight"
_HF_ANCHOR = "embeddings.patch_embeddings.projection.weight"

# The first source whose marks are all found is taken, so special sources stand before general ones.
SOURCES: tuple[WeightSource, ...] = (
    WeightSource(
        name="detectron2",
        maker="detectron2's ViTDet",
        names={**LAYOUTS["detectron2"].names, **_TOKENS},
        anchor=_TIMM_ANCHOR,
        marks=(r"(^|\.)net\.patch_embed\.",),
        final_norm=False,
        spare_row=True,
    ),
    WeightSource(
        name="dinov3",
        maker="DINOv3",
        names=_DINOV3,
        anchor=_TIMM_ANCHOR,
        marks=(r"(^|\.)rope_embed\.periods$",),
        norm_eps=1e-5,
        rotary=True,
    ),
    WeightSource(
        name="dinov2-registers",
        maker="DINOv2 with registers",
        names=_DINOV2,
        anchor=_TIMM_ANCHOR,
        marks=(r"(^|\.)register_tokens$",),
        pos_resize="bicubic_antialias",
    ),
    WeightSource(
        name="mae",
        maker="MAE",
        names=_TIMM,
        anchor=_TIMM_ANCHOR,
        marks=(r"(^|\.)decoder_embed\.weight$",),
    ),
    WeightSource(
        name="dinov2",
        maker="DINOv2",
        names=_DINOV2,
        anchor=_TIMM_ANCHOR,
        marks=(r"(^|\.)mask_token$",),
        pos_resize="bicubic_dino",
    ),
    WeightSource(
        name="ibot",
        maker="iBOT",
        names=_TIMM,
        anchor=_TIMM_ANCHOR,
        marks=(r"(^|\.)(masked_embed|head\.last_layer2\.\S+)$",),
        pos_resize="bicubic_dino",
    ),
    WeightSource(
        name="dino",
        maker="DINO, or the FLSL release",
        names=_TIMM,
        anchor=_TIMM_ANCHOR,
        marks=(r"(^|\.)backbone\.patch_embed\.|^(student|teacher)\.",),
        pos_resize="bicubic_dino",
        placeless_token=True,
    ),
    WeightSource(
        name="ijepa",
        maker="I-JEPA",
        names=_TIMM,
        anchor=_TIMM_ANCHOR,
        marks=(r"^(target_)?encoder\.(module\.)?patch_embed\.",),
    ),
    WeightSource(
        name="deit",
        maker="DeiT, MAE's encoder, or mmdetection's ViTDet",
        names=_TIMM,
        anchor=_TIMM_ANCHOR,
        marks=(r"^model\.patch_embed\.",),
        older=_GAMMAS,
        final_norm=False,
        spare_row=True,
    ),
    WeightSource(
        name="timm-dinov3",
        maker="timm's DINOv3",
        names={key: name for key, name in _TIMM.items() if key != "pos_embed"},
        anchor=_TIMM_ANCHOR,
        older=_GAMMAS,
        norm_eps=1e-5,
        rotary=True,
        # All its names are those of other ViTs of timm; `find_source` sees that it has no positions.
        marks=(r"^(?!)",),
    ),
    WeightSource(
        name="timm",
        maker="timm",
        names=_TIMM,
        anchor=_TIMM_ANCHOR,
        older=_GAMMAS,
        pos_resize="bicubic_antialias",
        final_norm=False,
    ),
    WeightSource(
        name="mmseg",
        maker="mmsegmentation",
        names={**LAYOUTS["mmseg"].names, "cls_token": "cls_token"},
        anchor=_MM_ANCHOR,
        marks=(r"\.attn\.attn\.in_proj_weight$",),
        final_norm=False,
        spare_row=True,
    ),
    WeightSource(
        name="mmpretrain",
        maker="mmpretrain",
        names={**LAYOUTS["mmpretrain"].names, "cls_token": "cls_token"},
        anchor=_MM_ANCHOR,
        final_norm=False,
    ),
    WeightSource(
        name="transformers-dinov3",
        maker="transformers' DINOv3ViTModel",
        names=_HF_DINOV3,
        anchor="embeddings.patch_embeddings.weight",
        older=((r"^(model\.)?layer\.", "layers."),),
        norm_eps=1e-5,
        rotary=True,
    ),
    WeightSource(
        name="google",
        maker="Google's ViT (vision_transformer, AugReg, big_vision)",
        names=_GOOGLE,
        anchor="embedding.weight",
        marks=(r"(^|\.)Transformer\.encoderblock_\d+\.",),
        older=_GOOGLE_OTHER,
        pos_resize="bicubic_antialias",
    ),
    WeightSource(
        name="transformers-dinov2-registers",
        maker="transformers' Dinov2WithRegistersModel",
        names=_HF_DINOV2,
        anchor=_HF_ANCHOR,
        marks=(r"\.layer_scale1\.lambda1$", r"embeddings\.register_tokens$"),
        older=_HF_OLDER,
        pos_resize="bicubic_antialias",
    ),
    WeightSource(
        name="transformers-dinov2",
        maker="transformers' Dinov2Model",
        names=_HF_DINOV2,
        anchor=_HF_ANCHOR,
        marks=(r"\.layer_scale1\.lambda1$",),
        older=_HF_OLDER,
    ),
    WeightSource(
        name="transformers",
        maker="transformers' ViTModel, DeiTModel, ViTMAEModel or IJepaModel",
        names=_HF_VIT,
        anchor=_HF_ANCHOR,
        older=_HF_OLDER,
        norm_eps=1e-12,
    ),
    WeightSource(
        name="transformers-vitdet",
        maker="transformers' VitDetBackbone",
        names=LAYOUTS["transformers-vitdet"].names,
        anchor="embeddings.projection.weight",
        final_norm=False,
        spare_row=True,
    ),
    WeightSource(
        name="torchvision",
        maker="torchvision's ViT",
        names=_TORCHVISION,
        anchor="conv_proj.weight",
        older=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    ),
)

# What a file may have besides the backbone and a head like ours, and what it is. Names are without the backbone's prefix.
ALLOWED: tuple[tuple[str, str], ...] = (
    (r"(mask_token|masked_embed|embeddings\.mask_token)$", "mask token of its training"),
    (r"decoder(_\w+)?\.|decoder_(pos_embed|mask_token)$", "decoder of its training"),
    (
        r"(heads?(_dist)?|pre_logits|fc_norm|attn_pool|pooler|MAPHead_\d+|(cls_|distillation_)?classifier)\.",
        "pooling and classification",
    ),
    (r"(local_)?cls_norm\.", "norm of the class token alone"),
    (r"rope_embeddings\.inv_freq$", "frequencies that its config gives too"),
    (r"(dino_head|ibot_head|predictor)\.", "head of its training"),
    (r"(dino|ibot\w*|koleo)_loss\.|center2?$", "state of its loss"),
    (r"((decode|auxiliary|roi|rpn|bbox|mask)_heads?|proposal_generator|neck|simfp_\d\.\w+)\.", "detector or segmenter"),
    (r"pixel_(mean|std)$", "normalisation of a detector"),
)

# Names of parts that the backbone here lacks, and the networks that have them.
REFUSED: tuple[tuple[str, str], ...] = (
    (r"(mlp|attn)\.norm\.", "norms inside its branches, as EVA02 has"),
    (r"attn\.[qk]_norm\.", "normalised queries and keys"),
    (r"(^|\.)norm_pre\.", "a norm before the first block, as CLIP has"),
    (r"(^|\.)(conv_root|gn_root|block\d+\.unit\d+)\.", "convolutions before its patches, as hybrid ViTs have"),
    (r"rel(ative)?_pos", "relative positions, as BEiT, Swin and detectors after fine-tuning have"),
    (r"(^|\.)(rope|storage_tokens|rope_embed)(\.|$)", "rotary positions of a kind that is not known here"),
)


def find_source(
    names: Collection[str], *, chosen: str | None, described: str | None, torch_file: bool
) -> WeightSource | None:
    """The source of a state dict; None if no known vision transformer has such names.

    Args:
        names: of all tensors in the file.
        chosen: the name of the source that the user chose.
        described: the name of the source by the file's metadata or config.
        torch_file: whether it is a torch file. timm no longer writes them, so a bare backbone in one is taken for DINO's.

    Raises:
        UserError: no source is called `chosen`.
    """
    by_name = {source.name: source for source in SOURCES}
    if chosen is not None and chosen not in by_name:
        raise UserError(
            f"source {chosen!r} is unknown; {nearest_key(chosen, by_name).replace('valid keys', 'sources')}"
        )
    anchored = [s for s in SOURCES if any(name == s.anchor or name.endswith(f".{s.anchor}") for name in names)]
    for wanted in (chosen, described):
        if wanted in by_name and by_name[wanted] in anchored:
            return by_name["timm-dinov3"] if wanted == "timm" and _is_rotary_timm(names) else by_name[wanted]
    found = next((s for s in anchored if all(any(re.search(mark, n) for n in names) for mark in s.marks)), None)
    if found is by_name["timm"] and _is_rotary_timm(names):
        return by_name["timm-dinov3"]
    if (
        found is by_name["timm"]
        and torch_file
        and not any(re.search(r"(^|\.)(head|fc_norm)\.", name) for name in names)
    ):
        return dataclasses.replace(by_name["dino"], placeless_token=False)
    return found


def _is_rotary_timm(names: Collection[str]) -> bool:
    """Whether names of timm's are those of its DINOv3: registers and LayerScale in the block itself, and no positions."""
    endings = {name.rpartition(".")[2] for name in names}
    return {"reg_token", "gamma_1"} <= endings and "pos_embed" not in endings


def kind_of_network(names: Collection[str]) -> str:
    """What a file without any known patch projection is, in words."""
    joined = "\n".join(names)
    for pattern, kind in (
        (r"running_mean$|\bbn\d?\.|(^|\.)conv1\.weight$|stages\.\d|features\.\d+\.", "a convolutional network"),
        (r"relative_position_bias_table|layers\.\d\.blocks", "a Swin transformer"),
        (r"embed_tokens|word_embeddings|wte\.|lm_head", "a language model"),
        (r"patch_embed\.kernel|Transformer/encoderblock|params[./]", "a file of JAX or TensorFlow"),
        (r"class_embedding|visual\.", "a CLIP model"),
    ):
        if re.search(pattern, joined, flags=re.MULTILINE):
            return kind
    return "not a vision transformer that is known here"
