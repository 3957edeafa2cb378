"""A trained detector or segmenter as one ONNX file, which runs without this package and without PyTorch.

The file is compared with the network before it appears: on random images of two sizes, each through its own code.
"""

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from flsl_jax._version import __version__
from flsl_jax.errors import UserError, reason, require_packages
from flsl_jax.transfer.data.samples import as_levels, measured_size
from flsl_jax.transfer.predicting import segment
from flsl_jax.transfer.programs import MASK_THRESHOLD, DetectorProgram, SegmenterProgram, exportable
from flsl_jax.transfer.trained import Trained
from flsl_jax.weights.export.writing import whole_or_not

Program = DetectorProgram | SegmenterProgram

# Largest differences between the file and the network: boxes by the image's long side, and scores.
_BOX_TOLERANCE, _SCORE_TOLERANCE = 1e-3, 1e-3
# What share must be equal: of detections, because rounding decides between equally good ones; of pixels, at the edges.
_DETECTIONS, _PIXELS = 0.95, 0.99
_OUTPUTS = {
    "boxes": "float32 [objects, 4]: left, top, right and bottom edge in pixels of the given image, surest object first",
    "labels": "int64 [objects]: place in class_names and category_ids, from 0",
    "scores": "float32 [objects]: the softmax over all classes and none, from score_threshold to 1",
    "masks": f"bool [objects, height, width]: pixels that are the object's with a probability of {MASK_THRESHOLD} or more",
}
_PIXEL_OUTPUTS = {
    "labels": "int64 [height, width]: place in class_names, from 0",
    "scores": "float32 [height, width]: the softmax over all classes, of the class in labels, 0 to 1",
}
_SNIPPET = """
import json

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{path}")
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
image = np.asarray(Image.open("photo.jpg").convert("RGB")).transpose(2, 0, 1)
{outputs} = session.run(None, {{"image": image}})
""".strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written: `differences` between the file and the network, in words, and the code that runs it."""

    path: Path
    differences: tuple[str, ...]
    snippet: str

    def text(self) -> str:
        """The report in lines, with the snippet last."""
        size = self.path.stat().st_size / 2**20
        return "\n".join([f"{self.path}: {size:.1f} MiB", *self.differences, "", self.snippet])


def check_export(path: Path, *, overwrite: bool) -> None:
    """Checks that `path` can be written, before anything is read.

    Raises:
        UserError: a package is missing, the name does not end in .onnx, or `path` exists or cannot be written.
    """
    require_packages("onnx", "onnxruntime", "onnxscript", install="pip install onnx onnxruntime onnxscript")
    if path.suffix != ".onnx":
        raise UserError(f"--export={path}: expected a name that ends in .onnx")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"{path} exists; name another file, or replace it with --overwrite")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--export={path} cannot be written: {parent} is not a folder that can be written to")


def export_trained(trained: Trained, path: Path, *, overwrite: bool = False) -> ExportReport:
    """Writes a trained model as one ONNX file that takes an image of any size, uint8 [3, H, W].

    Args:
        trained: the model, on a CPU.
        path: of the file, which ends in .onnx.
        overwrite: whether a file that is there is replaced.

    Raises:
        UserError: `path` cannot be written, or the file computes something else. Then nothing is left behind.
    """
    check_export(path, overwrite=overwrite)
    program = make_program(trained)
    model = _onnx_model(program, trained)
    differences = tuple(_compare(model, program, trained, size) for size in _sizes(program, trained))
    with whole_or_not(path, flag="--export") as temporary:
        temporary.write_bytes(model.SerializeToString())
    return ExportReport(
        path=path,
        differences=differences,
        snippet=run_snippet(path, outputs=program.outputs),
    )


def run_snippet(path: Path, *, outputs: Sequence[str]) -> str:
    """Code to copy that runs a file on a photo; it needs onnxruntime, NumPy and Pillow."""
    return _SNIPPET.format(path=path, outputs=", ".join(outputs))


def make_program(trained: Trained) -> Program:
    """The network as a function of one image."""
    if trained.config.is_segmentation:
        augment = trained.config.augment
        network: Any = trained.network
        return SegmenterProgram(network, short=augment.sizes[-1], long=augment.max_size).eval()
    return DetectorProgram(cast(Any, trained.network)).eval()


def _onnx_model(program: Program, trained: Trained) -> Any:
    """The program as an ONNX model with its metadata.

    Raises:
        UserError: this version of PyTorch cannot translate it.
    """
    short, long = program.limits
    # No side is another's, or so small that a map has a side of 1: the graph would hold that to be so for all images.
    example = torch.zeros(3, 2 * short, 2 * min(long, short + 64) + 1, dtype=torch.uint8)
    sizes = {1: torch.export.Dim("height", min=1, max=2**15), 2: torch.export.Dim("width", min=1, max=2**15)}
    try:
        # The backend that has no kernel of its own: what it computes can be written as a graph.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), exportable(program), _quiet():
            exported = torch.export.export(
                program,
                (example,),
                dynamic_shapes={"image": sizes},
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            written = torch.onnx.export(
                exported,
                dynamo=True,
                input_names=["image"],
                output_names=list(program.outputs),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever torch.export and torch.onnx raise: there are many types
        raise UserError(
            f"PyTorch {torch.__version__} cannot export this network ({reason(error)}); 2.13 and 2.14 could"
        ) from error
    assert written is not None
    model = written.model_proto
    # Sizes of what lies between are noted as PyTorch saw them, and not all of them hold for every image.
    del model.graph.value_info[:]
    _name_sizes(model)
    for name, value in _metadata(program, trained).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    return model


def _name_sizes(model: Any) -> None:
    """Calls the sizes that vary by their names."""
    names = {2: ("height", "width"), 3: ("objects", "height", "width")}
    for value in [*model.graph.input, *model.graph.output]:
        dims = [dim for dim in value.type.tensor_type.shape.dim if not dim.HasField("dim_value")]
        for dim, name in zip(dims, names.get(len(dims), ("objects",)), strict=True):
            dim.dim_param = name


def _metadata(program: Program, trained: Trained) -> dict[str, str]:
    """What the file says of itself; all but sentences is JSON."""
    short, long = program.limits
    is_detector = isinstance(program, DetectorProgram)
    meanings = _OUTPUTS if is_detector else _PIXEL_OUTPUTS
    values: dict[str, Any] = {
        "task": trained.config.network.kind,
        "class_names": trained.class_names,
        "input": "image: uint8 [3, height, width], red, green and blue, of any size; it is resized and normalised inside",
        "outputs": {name: meanings[name] for name in program.outputs},
        "resized_to": {"short_side": short, "long_side_at_most": long},
        "mean": program.mean,
        "std": program.std,
        "flsl_jax": __version__,
        "torch": torch.__version__,
    }
    if is_detector:
        heads = program.network.roi_heads
        values |= {
            "category_ids": trained.category_ids,
            "score_threshold": heads.score_thresh,
            "overlap_threshold": heads.nms_thresh,
            "objects_at_most": heads.detections_per_img,
        }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _sizes(program: Program, trained: Trained) -> list[tuple[int, int]]:
    """An upright and a wide size of images at which the network itself rounds as the program does.

    Both bring images to whole pixels, one in floating point and one in integers; some sizes come out a pixel apart.
    """

    def same(height: int, width: int) -> bool:
        if isinstance(program, DetectorProgram):
            own = program.network.transform([torch.zeros(3, height, width)])[0].image_sizes[0]
        else:
            own = measured_size((height, width), trained.config.augment)
        return tuple(own) == program.resized(height, width)

    short = program.limits[0]
    found = []
    for height, width in ((short, short * 3 // 4), (short * 2 // 3, short + 7)):
        found.append(next((height, width + more) for more in range(100) if same(height, width + more)))
    return found


def _compare(model: Any, program: Program, trained: Trained, size: tuple[int, int]) -> str:
    """What the model and the network find in a random image, compared; in words.

    Raises:
        UserError: they differ.
    """
    image = np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)
    if isinstance(program, SegmenterProgram):
        labels, scores = _run(model, image)
        same = float((labels == segment(trained, image)).mean())
        with torch.no_grad():
            expected = program(torch.tensor(image).permute(2, 0, 1))[1].numpy()
        apart = float(np.abs(scores - expected).max())
        _refuse_unless(same >= _PIXELS and apart <= _SCORE_TOLERANCE, f"{same:.2%} of pixels alike, scores {apart:.1e}")
        return f"{size[1]} × {size[0]} random pixels: {same:.2%} have the network's class, scores differ by {apart:.1e} at most"
    # Trained detectors find nothing in noise that they are sure of; so all that they find counts here.
    with _without_threshold(program, model), torch.no_grad():
        (raw,) = trained.network([as_levels(image)])
        found = dict(zip(program.outputs, _run(model, image)))
    expected = {name: value.numpy() for name, value in raw.items()} | {"labels": raw["labels"].numpy() - 1}
    same = count_alike(found, expected, size=size)
    total = max(len(expected["boxes"]), len(found["boxes"]))
    _refuse_unless(same >= _DETECTIONS * total, f"{same} of {total} detections alike")
    return f"{size[1]} × {size[0]} random pixels: {same} of {total} detections are the network's"


def count_alike(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], *, size: tuple[int, int]) -> int:
    """How many detections have one in the other list with the same label, and nearly the same score, box and mask.

    Args:
        found: of the file: `boxes`, `labels`, `scores` and perhaps `masks` [N, H, W].
        expected: of the network; `masks` are probabilities [N, 1, H, W].
        size: height and width of the image.
    """
    free = list(range(len(expected["boxes"])))
    for number in range(len(found["boxes"])):
        for other in free:
            alike = (
                found["labels"][number] == expected["labels"][other]
                and abs(found["scores"][number] - expected["scores"][other]) <= _SCORE_TOLERANCE
                and np.abs(found["boxes"][number] - expected["boxes"][other]).max() <= _BOX_TOLERANCE * max(size)
            )
            if alike and "masks" in found:
                mask = expected["masks"][other, 0] >= MASK_THRESHOLD
                alike = (found["masks"][number] == mask).mean() >= _PIXELS
            if alike:
                free.remove(other)
                break
    return len(expected["boxes"]) - len(free)


def _run(model: Any, image: np.ndarray) -> list[np.ndarray]:
    """Outputs of an ONNX model for uint8 [H, W, 3]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return cast(list[np.ndarray], session.run(None, {"image": np.ascontiguousarray(image.transpose(2, 0, 1))}))
    except Exception as error:  # onnxruntime's own types
        _refuse_unless(False, reason(error))
        raise


@contextlib.contextmanager
def _without_threshold(program: DetectorProgram, model: Any) -> Iterator[None]:
    """Lets network and model give what they are least sure of too."""
    import onnx

    heads = program.network.roi_heads
    (held,) = (tensor for tensor in model.graph.initializer if tensor.name == "score_threshold")
    kept, kept_tensor = heads.score_thresh, onnx.TensorProto()
    kept_tensor.CopyFrom(held)
    heads.score_thresh = 0.0
    held.CopyFrom(onnx.numpy_helper.from_array(np.array(0, np.float32), held.name))
    try:
        yield
    finally:
        heads.score_thresh = kept
        held.CopyFrom(kept_tensor)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what PyTorch says of its own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refuse_unless(equal: bool, what: str) -> None:
    if not equal:
        raise UserError(
            f"the exported network computes something else than the trained one ({what}), so it was not written; please "
            "report this with the versions of torch, onnxscript and onnxruntime"
        )
