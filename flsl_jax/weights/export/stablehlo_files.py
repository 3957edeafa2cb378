"""Backbones as StableHLO programs of `jax.export`: images of any size, on every platform."""

import json
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import Tensors, backbone_params
from flsl_jax.weights.export import parity
from flsl_jax.weights.export.any_size import AnySizeViT
from flsl_jax.weights.export.metadata import channel_names
from flsl_jax.weights.export.program_files import Program, ProgramFormat, ProgramInput
from flsl_jax.weights.export.trained import Trained

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

_SNIPPET = """
import json

import numpy as np
from jax import export
{import_image}
program = export.deserialize(bytearray(open({path}, "rb").read()))
facts = json.load(open({facts}))
levels = {image} / np.float32(255)
images = ((levels - facts["mean"]) / facts["std"]).astype(np.float32)[None]
tokens = program.call(images)  # [1, height / {patch}, width / {patch}, {width}]
""".strip()


def _program(given: ProgramInput) -> Program:
    """See `serialised`."""
    arch = given.trained.architecture
    content, version = serialised(given.tensors, arch)
    call = jax.jit(jax.export.deserialize(bytearray(content)).call)
    import_image, image = given.image_code()
    return Program(
        content=content,
        version=f"calling convention {version} of jax.export, for {', '.join(_PLATFORMS)}",
        target=f"jax.export (calling convention {version})",
        run=lambda images: np.asarray(call(images)),
        snippet=_SNIPPET.format(
            import_image=import_image,
            image=image,
            path=json.dumps(str(given.output)),
            facts=json.dumps(str(given.facts)),
            patch=arch.patch_size,
            width=arch.width,
        ),
    )


def serialised(tensors: Tensors, architecture: Architecture) -> tuple[bytes, int]:
    """A backbone's program and the version of `jax.export`'s calling convention.

    The program takes float32 images [batch, height, width, C], normalised, whose sides are multiples of the patch, and gives
    float32 tokens [batch, rows, columns, D]. Its parameters are in it, its products are in full float32.

    Args:
        tensors: canonical, float32.
        architecture: what they compute.
    """
    arch = architecture.written_out()
    graph = nnx.split(nnx.eval_shape(lambda: AnySizeViT(arch, rngs=nnx.Rngs(0))), nnx.Param)[0]
    params = backbone_params(tensors, arch)

    def tokens(images: Any) -> Any:
        return nnx.merge(graph, jax.tree.map(jnp.asarray, params))(images)

    patch = arch.patch_size
    shape = jax.export.symbolic_shape(f"batch, {patch}*rows, {patch}*columns, {arch.channels}")
    with jax.default_matmul_precision("highest"):
        program = jax.export.export(jax.jit(tokens), platforms=_PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.float32))
    return bytes(program.serialize()), program.calling_convention_version


def _facts(trained: Trained) -> dict[str, Any]:
    arch = trained.architecture
    return {
        "patch_size": arch.patch_size,
        "mean": list(trained.mean),
        "std": list(trained.std),
        "channels": channel_names(arch.channels),
        "image_size": list(parity.own_size(arch)),
        "inv_temp": trained.inv_temp,
    }


STABLEHLO = ProgramFormat(
    suffix=".stablehlo",
    runtime="jax.export",
    packages=("flatbuffers",),
    install="pip install flatbuffers",
    build=_program,
    facts=_facts,
)
