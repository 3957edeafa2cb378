"""Writes a backbone as an ONNX file, once onnxruntime has computed the same tokens with it at three sizes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.config import AS_THE_FILE_SAYS, ReadingConfig
from flsl_jax.errors import UserError, reason, require_packages
from flsl_jax.weights.canonical import NetworkName
from flsl_jax.weights.export import parity
from flsl_jax.weights.export.card import card_paths, write_program_card
from flsl_jax.weights.export.exporting import check_shapes
from flsl_jax.weights.export.onnx_graph import OPSET, onnx_model
from flsl_jax.weights.export.trained import read_trained
from flsl_jax.weights.export.writing import check_new_file, whole_or_not

_SNIPPET = """
import json

import numpy as np
import onnxruntime
{import_image}
session = onnxruntime.InferenceSession("{path}")
facts = {{key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}}
levels = {image} / np.float32(255)
images = ((levels - facts["mean"]) / facts["std"]).astype(np.float32).transpose(2, 0, 1)[None]
(tokens,) = session.run(None, {{"images": images}})  # [1, height / {patch}, width / {patch}, {width}]
""".strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxReport:
    """What was written: `differences` of the tokens by size (height, width), as `parity.Parity` has them, and code to copy."""

    path: Path
    differences: dict[tuple[int, int], float]
    notes: tuple[str, ...]
    snippet: str
    card: Path | None = None

    def text(self) -> str:
        """The report in lines, with the snippet last."""
        size = self.path.stat().st_size / 2**20
        lines = [f"{self.path}: {size:.1f} MiB, opset {OPSET}", *(f"  {note}" for note in self.notes)]
        lines.append(f"largest difference of onnxruntime's tokens (tolerance {parity.TOLERANCE:.0e}), two images each:")
        lines += [f"  {height}×{width}  {value:.1e}" for (height, width), value in self.differences.items()]
        lines += [f"model card: {self.card}"] if self.card else []
        return "\n".join([*lines, "", self.snippet])


def export_onnx(
    source: Path,
    output: Path,
    *,
    network: NetworkName = "teacher",
    reading: ReadingConfig = AS_THE_FILE_SAYS,
    overwrite: bool = False,
    with_card: bool = False,
) -> OnnxReport:
    """Writes the backbone of a run, a checkpoint or a weight file as one ONNX file; see `onnx_graph.onnx_model`.

    Raises:
        UserError: a package is missing, the source cannot be read, the output cannot be written, or the file computes
            something else. Then nothing is left behind.
    """
    require_packages("onnx", "onnxruntime", install="pip install onnx onnxruntime")
    check_new_file(output, suffix=".onnx", overwrite=overwrite)
    trained = read_trained(source, networks=(network,), reading=reading)
    arch, tensors = trained.architecture, trained.backbones[network]
    card_path, _ = card_paths(output, is_folder=False)
    if with_card:
        check_new_file(card_path, suffix=".md", overwrite=overwrite)
    check_shapes(tensors, arch, source=trained.source)
    content = onnx_model(tensors, arch, mean=trained.mean, std=trained.std).SerializeToString()
    ours, differences = parity.forward(tensors, arch), {}
    own, odd = parity.own_size(arch), parity.odd_size(arch)
    for size in dict.fromkeys((own, odd, (2 * own[0], own[1] + arch.patch_size))):
        noise = parity.random_images(size, channels=arch.channels)
        images = np.concatenate([noise, -noise])
        theirs = _run(content, images.transpose(0, 3, 1, 2))
        differences[size] = _difference(theirs.reshape(2, -1, arch.width), ours(images).tokens)
    if not max(differences.values()) <= parity.TOLERANCE:
        raise UserError(
            f"onnxruntime computes something else with this graph: tokens differ by {max(differences.values()):.1e}, more than "
            f"{parity.TOLERANCE:.0e}; nothing was written; please report this with the versions of onnx and onnxruntime"
        )
    with whole_or_not(output) as temporary:
        temporary.write_bytes(content)
    reads = _reads(arch.channels, size=(own[1], own[0]))
    snippet = _SNIPPET.format(path=output, patch=arch.patch_size, width=arch.width, **reads)
    card = None
    if with_card:
        target = f"onnxruntime (opset {OPSET})"
        card = write_program_card(trained, output, target=target, snippet=snippet, differences=differences)
    return OnnxReport(path=output, differences=differences, notes=trained.notes, snippet=snippet, card=card)


def _reads(channels: int, *, size: tuple[int, int]) -> dict[str, str]:
    """Code that reads an image with so many channels as levels from 0 to 255, [height, width, channels]."""
    if channels not in (1, 3):
        return {"import_image": "", "image": 'np.load("image.npy")'}
    opened = f'Image.open("photo.jpg").convert("{"RGB" if channels == 3 else "L"}").resize({size})'
    return {
        "import_image": "from PIL import Image\n",
        "image": f"np.asarray({opened})" + ("" if channels == 3 else "[..., None]"),
    }


def _run(content: bytes, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return session.run(None, {"images": np.ascontiguousarray(images)})[0]
    except Exception as error:  # onnxruntime's own types
        raise UserError(f"onnxruntime cannot run this graph ({reason(error)}); nothing was written") from error


def _difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    return float(np.abs(theirs - ours).max() / max(1.0, float(np.abs(ours).max())))
