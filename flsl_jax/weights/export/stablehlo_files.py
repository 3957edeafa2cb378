"""Writes a backbone as a StableHLO program by `jax.export`, once it has computed the same tokens at three sizes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax.config import AS_THE_FILE_SAYS, ReadingConfig
from flsl_jax.errors import UserError, require_packages
from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import NetworkName, Tensors, backbone_params
from flsl_jax.weights.export import parity
from flsl_jax.weights.export.any_size import AnySizeViT
from flsl_jax.weights.export.card import card_paths, write_program_card
from flsl_jax.weights.export.exporting import check_shapes
from flsl_jax.weights.export.metadata import channel_names
from flsl_jax.weights.export.trained import Trained, read_trained
from flsl_jax.weights.export.writing import check_new_file, whole_or_not

SUFFIX = ".stablehlo"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Of a serialised program; its format cannot be longer.
_MOST_BYTES = 2**31 - 2**20

_SNIPPET = """
import json

import numpy as np
from jax import export
from PIL import Image

program = export.deserialize(bytearray(open({path}, "rb").read()))
facts = json.load(open({facts}))
levels = np.asarray(Image.open("photo.jpg").convert("RGB").resize({size}), np.float32) / 255
images = ((levels - facts["mean"]) / facts["std"]).astype(np.float32)[None]
tokens = program.call(images)  # [1, height / {patch}, width / {patch}, {width}]
""".strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StableHloReport:
    """What was written: `differences` of the tokens by size (height, width), as `parity.Parity` has them, and code to copy."""

    path: Path
    facts: Path
    version: int
    differences: dict[tuple[int, int], float]
    notes: tuple[str, ...]
    snippet: str
    card: Path | None = None

    def text(self) -> str:
        """The report in lines, with the snippet last."""
        size = self.path.stat().st_size / 2**20
        lines = [
            f"{self.path}: {size:.1f} MiB, calling convention {self.version} of jax.export, for {', '.join(_PLATFORMS)}"
        ]
        lines += [f"{self.facts}: patch size, mean and standard deviation", *(f"  {note}" for note in self.notes)]
        lines.append(f"largest difference of its tokens (tolerance {parity.TOLERANCE:.0e}), two images each:")
        lines += [f"  {height}×{width}  {value:.1e}" for (height, width), value in self.differences.items()]
        lines += [f"model card: {self.card}"] if self.card else []
        return "\n".join([*lines, "", self.snippet])


def export_stablehlo(
    source: Path,
    output: Path,
    *,
    network: NetworkName = "teacher",
    reading: ReadingConfig = AS_THE_FILE_SAYS,
    overwrite: bool = False,
    with_card: bool = False,
) -> StableHloReport:
    """Writes the backbone of a run, a checkpoint or a weight file as one program, and a JSON file of facts beside it.

    The program takes float32 images [batch, height, width, C], normalised, whose sides are multiples of the patch, and gives
    float32 tokens [batch, rows, columns, D]. Its parameters are in it, its products are in full float32.

    Raises:
        UserError: the source cannot be read, the output cannot be written, the network is too large, or the program computes
            something else. Then nothing is left behind.
    """
    require_packages("flatbuffers", install="pip install flatbuffers")
    facts = output.with_suffix(".json")
    check_new_file(output, suffix=SUFFIX, overwrite=overwrite)
    check_new_file(facts, suffix=".json", overwrite=overwrite)
    trained = read_trained(source, networks=(network,), reading=reading)
    arch, tensors = trained.architecture, trained.backbones[network]
    card_path, _ = card_paths(output, is_folder=False)
    if with_card:
        check_new_file(card_path, suffix=".md", overwrite=overwrite)
    check_shapes(tensors, arch, source=trained.source)
    _check_size(tensors, source=trained.source)
    content, version = serialised(tensors, arch)
    differences = _differences(content, tensors, arch)
    if not max(differences.values()) <= parity.TOLERANCE:
        raise UserError(
            f"the program computes something else: tokens differ by {max(differences.values()):.1e}, more than "
            f"{parity.TOLERANCE:.0e}; nothing was written; please report this with the version of jax"
        )
    with whole_or_not(facts) as first, whole_or_not(output) as second:
        first.write_text(json.dumps(_facts(trained), indent=2) + "\n")
        second.write_bytes(content)
    own = parity.own_size(arch)
    snippet = _SNIPPET.format(
        path=json.dumps(str(output)),
        facts=json.dumps(str(facts)),
        size=own[::-1],
        patch=arch.patch_size,
        width=arch.width,
    )
    card = None
    if with_card:
        target = f"jax.export (calling convention {version})"
        card = write_program_card(trained, output, target=target, snippet=snippet, differences=differences)
    return StableHloReport(
        path=output,
        facts=facts,
        version=version,
        differences=differences,
        notes=trained.notes,
        snippet=snippet,
        card=card,
    )


def _check_size(tensors: Tensors, *, source: str) -> None:
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > _MOST_BYTES:
        raise UserError(
            f"{source} has {size / 2**30:.1f} GiB of parameters, and a program holds less than 2; use --format=timm or another "
            "format of tensors"
        )


def serialised(tensors: Tensors, architecture: Architecture) -> tuple[bytes, int]:
    """A backbone's program and the version of `jax.export`'s calling convention.

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


def _differences(content: bytes, tensors: Tensors, arch: Architecture) -> dict[tuple[int, int], float]:
    """Of what the program gives after it has been read back, from our own network, by size."""
    program = jax.export.deserialize(bytearray(content))
    run: Callable[[Any], Any] = jax.jit(program.call)
    ours, differences = parity.forward(tensors, arch), {}
    own, odd = parity.own_size(arch), parity.odd_size(arch)
    for size in dict.fromkeys((own, odd, (2 * own[0], own[1] + arch.patch_size))):
        one = parity.random_images(size, channels=arch.channels)
        images = np.concatenate([one, -one])
        expected = ours(images).tokens
        found = np.asarray(run(images)).reshape(expected.shape)
        differences[size] = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    return differences
