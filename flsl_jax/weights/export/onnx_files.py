"""Backbones as ONNX files, which onnxruntime computes."""

import json
from typing import Any

import numpy as np

from flsl_jax.errors import UserError, reason
from flsl_jax.weights.export.onnx_graph import OPSET, onnx_model
from flsl_jax.weights.export.program_files import Program, ProgramFormat, ProgramInput

_SNIPPET = """
import json

import numpy as np
import onnxruntime
{import_image}
session = onnxruntime.InferenceSession({path})
facts = {{key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}}
levels = {image} / np.float32(255)
images = ((levels - facts["mean"]) / facts["std"]).astype(np.float32).transpose(2, 0, 1)[None]
(tokens,) = session.run(None, {{"images": images}})  # [1, height / {patch}, width / {patch}, {width}]
""".strip()


def _program(given: ProgramInput) -> Program:
    """See `onnx_graph.onnx_model`."""
    trained, arch = given.trained, given.trained.architecture
    content = onnx_model(given.tensors, arch, mean=trained.mean, std=trained.std).SerializeToString()
    session = _session(content)
    import_image, image = given.image_code()
    return Program(
        content=content,
        version=f"opset {OPSET}",
        target=f"onnxruntime (opset {OPSET})",
        run=lambda images: _computed(session, images),
        snippet=_SNIPPET.format(
            import_image=import_image,
            image=image,
            path=json.dumps(str(given.output)),
            patch=arch.patch_size,
            width=arch.width,
        ),
    )


ONNX = ProgramFormat(
    suffix=".onnx",
    runtime="onnxruntime",
    packages=("onnx", "onnxruntime"),
    install="pip install onnx onnxruntime",
    build=_program,
)


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types
        raise _refusal(error) from error


def _computed(session: Any, images: np.ndarray) -> np.ndarray:
    try:
        return session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})[0]
    except Exception as error:  # onnxruntime's own types
        raise _refusal(error) from error


def _refusal(error: Exception) -> UserError:
    return UserError(f"onnxruntime cannot run this graph ({reason(error)}); nothing was written")
