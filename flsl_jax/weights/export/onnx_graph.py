"""A backbone as an ONNX graph, made of its tensors without another framework: images of any size, batches of any length."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flsl_jax._version import __version__
from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import Tensors
from flsl_jax.weights.export.metadata import channel_names

OPSET = 17
# Of the format of the file; onnxruntime 1.14 and newer read it.
_IR_VERSION = 8


class _Graph:
    """Nodes and constants as they are added; every method returns the name of its result."""

    def __init__(self) -> None:
        from onnx import helper

        self._make_node = helper.make_node
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, values: Any, dtype: Any = np.float32, *, name: str = "") -> str:
        """A tensor of the file."""
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The result of one operator."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._make_node(kind, list(inputs), [name], **attributes))
        return name

    def sizes(self, *values: int) -> str:
        """A shape or axes."""
        return self.constant(values, np.int64)


def onnx_model(tensors: Tensors, architecture: Architecture, *, mean: Sequence[float], std: Sequence[float]) -> Any:
    """The backbone as an `onnx.ModelProto`, opset 17.

    Input: `images`, float32 [batch, C, height, width], normalised, with sides that the patch divides; what is left over is
    not seen. Output: `tokens`, float32 [batch, rows, columns, D]. The position embedding is resized inside, as the weights
    expect (`position.resize_embedding`).

    Args:
        tensors: canonical, float32.
        architecture: what they compute.
        mean, std: of pixel levels from 0 to 1, for the metadata.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    graph = _Graph()
    tokens = _tokens(graph, tensors, architecture)
    graph.nodes.append(helper.make_node("Identity", [tokens], ["tokens"]))
    images = helper.make_tensor_value_info(
        "images", TensorProto.FLOAT, ["batch", architecture.channels, "height", "width"]
    )
    shape = ["batch", "rows", "columns", architecture.width]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "backbone",
            [images],
            [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(values, name) for name, values in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="flsl_jax",
        producer_version=__version__,
    )
    metadata = {"patch_size": architecture.patch_size, "mean": list(mean), "std": list(std)}
    metadata |= {"channels": channel_names(architecture.channels)}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    checker.check_model(model)
    return model


def _tokens(graph: _Graph, tensors: Tensors, arch: Architecture) -> str:
    weights = {
        name: graph.constant(tensor, name=name)
        for name, tensor in tensors.items()
        if tensor.ndim < 2 and name != "rope_periods"
    }
    patch = [arch.patch_size, arch.patch_size]
    kernel = graph.constant(tensors["patch_embed.proj.weight"], name="patch_embed.proj.weight")
    patches = graph("Conv", "images", kernel, weights["patch_embed.proj.bias"], kernel_shape=patch, strides=patch)
    shape = graph("Shape", patches)
    batch, rows, columns = (graph("Gather", shape, graph.sizes(axis)) for axis in (0, 2, 3))
    x = graph("Transpose", patches, perm=[0, 2, 3, 1])
    turn = None
    if arch.pos_embed == "rope":
        turn = _rotation(graph, arch, rows, columns)
    else:
        x = graph("Add", x, _positions(graph, tensors, arch, rows, columns))
    x = graph("Reshape", x, graph.sizes(0, -1, arch.width))
    if arch.num_prefix:
        prefix = graph.constant(tensors["prefix"], name="prefix")
        wanted = graph("Concat", batch, graph.sizes(arch.num_prefix, arch.width), axis=0)
        x = graph("Concat", graph("Expand", prefix, wanted), x, axis=1)
    for number in range(arch.depth):
        x = _block(graph, x, tensors, arch, prefix=f"blocks.{number}.", turn=turn)
    if arch.final_norm:
        x = _norm(graph, x, tensors, arch, name="norm")
    if arch.num_prefix:
        x = graph("Slice", x, graph.sizes(arch.num_prefix), graph.sizes(2**62), graph.sizes(1))
    return graph("Reshape", x, graph("Concat", batch, rows, columns, graph.sizes(arch.width), axis=0))


def _block(
    graph: _Graph, x: str, tensors: Tensors, arch: Architecture, *, prefix: str, turn: tuple[str, str] | None
) -> str:
    channels = arch.width // arch.num_heads
    qkv = _linear(graph, _norm(graph, x, tensors, arch, name=f"{prefix}norm1"), tensors, name=f"{prefix}attn.qkv")
    parts = graph("Reshape", qkv, graph.sizes(0, -1, 3, arch.num_heads, channels))
    parts = graph("Transpose", parts, perm=[2, 0, 3, 1, 4])
    query, key, value = (graph("Gather", parts, graph.constant(part, np.int64), axis=0) for part in range(3))
    if turn is not None:
        query, key = (_turned(graph, part, arch, turn) for part in (query, key))
    query = graph("Mul", query, graph.constant(channels**-0.5))
    logits = graph("MatMul", query, graph("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = graph("MatMul", graph("Softmax", logits, axis=-1), value)
    mixed = graph("Reshape", graph("Transpose", mixed, perm=[0, 2, 1, 3]), graph.sizes(0, -1, arch.width))
    x = _added(graph, x, _linear(graph, mixed, tensors, name=f"{prefix}attn.proj"), tensors, f"{prefix}ls1.gamma")
    hidden = _linear(graph, _norm(graph, x, tensors, arch, name=f"{prefix}norm2"), tensors, name=f"{prefix}mlp.fc1")
    hidden = _gated(graph, hidden, arch) if arch.mlp == "swiglu" else _gelu(graph, hidden)
    return _added(graph, x, _linear(graph, hidden, tensors, name=f"{prefix}mlp.fc2"), tensors, f"{prefix}ls2.gamma")


def _gelu(graph: _Graph, x: str) -> str:
    bent = graph("Erf", graph("Mul", x, graph.constant(math.sqrt(0.5))))
    return graph("Mul", x, graph("Mul", graph("Add", bent, graph.constant(1)), graph.constant(0.5)))


def _gated(graph: _Graph, x: str, arch: Architecture) -> str:
    """The gate of a SwiGLU MLP times what it lets through."""
    gate, wide = (_channels(graph, x, start, start + arch.hidden) for start in (0, arch.hidden))
    return graph("Mul", graph("Mul", gate, graph("Sigmoid", gate)), wide)


def _channels(graph: _Graph, x: str, start: int, stop: int) -> str:
    return graph("Slice", x, graph.sizes(start), graph.sizes(stop), graph.sizes(-1))


def _rotation(graph: _Graph, arch: Architecture, rows: str, columns: str) -> tuple[str, str]:
    """Sine and cosine of `position.rotation`, [rows * columns, d]."""
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    quarter = len(arch.rope_periods)
    grid = graph("Concat", rows, columns, graph.sizes(quarter), axis=0)
    angles = []
    for count, shape in ((rows, (-1, 1, 1)), (columns, (1, -1, 1))):
        places = graph("Cast", graph("Range", zero, graph("Squeeze", count), one), to=1)
        share = graph("Div", graph("Add", places, graph.constant(0.5)), graph("Cast", count, to=1))
        coordinates = graph("Sub", graph("Mul", share, graph.constant(2)), graph.constant(1))
        factors = graph.constant(2 * np.pi / np.asarray(arch.rope_periods))
        angles.append(graph("Expand", graph("Mul", graph("Reshape", coordinates, graph.sizes(*shape)), factors), grid))
    flat = graph("Reshape", graph("Concat", *angles, *angles, axis=-1), graph.sizes(-1, 4 * quarter))
    return graph("Sin", flat), graph("Cos", flat)


def _turned(graph: _Graph, x: str, arch: Architecture, turn: tuple[str, str]) -> str:
    """`position.turned` of [B, heads, M, d]."""
    half, end = 2 * len(arch.rope_periods), 2**62
    first, patches = (
        graph("Slice", x, graph.sizes(start), graph.sizes(stop), graph.sizes(2))
        for start, stop in ((0, arch.num_prefix), (arch.num_prefix, end))
    )
    across = graph(
        "Concat",
        graph("Neg", _channels(graph, patches, half, end)),
        _channels(graph, patches, 0, half),
        axis=-1,
    )
    sine, cosine = turn
    placed = graph("Add", graph("Mul", patches, cosine), graph("Mul", across, sine))
    return graph("Concat", first, placed, axis=2) if arch.num_prefix else placed


def _added(graph: _Graph, x: str, branch: str, tensors: Tensors, gamma: str) -> str:
    return graph("Add", x, graph("Mul", branch, gamma) if gamma in tensors else branch)


def _linear(graph: _Graph, x: str, tensors: Tensors, *, name: str) -> str:
    kernel = graph.constant(tensors[f"{name}.weight"].T, name=f"{name}.weight")
    return graph("Add", graph("MatMul", x, kernel), f"{name}.bias")


def _norm(graph: _Graph, x: str, tensors: Tensors, arch: Architecture, *, name: str) -> str:
    return graph("LayerNormalization", x, f"{name}.weight", f"{name}.bias", axis=-1, epsilon=arch.norm_eps)


def _positions(graph: _Graph, tensors: Tensors, arch: Architecture, rows: str, columns: str) -> str:
    """The position embedding [rows, columns, D], as `position.resize_embedding` resizes it."""
    height, width = arch.grid
    embedding = graph.constant(tensors["pos_embed"].reshape(height, width * arch.width), name="pos_embed")
    offset = graph.constant([0])
    if arch.pos_resize == "bicubic_dino":  # the grid of the training is left as it is
        equal = [graph("Equal", *pair) for pair in ((rows, graph.sizes(height)), (columns, graph.sizes(width)))]
        offset = graph("Where", graph("And", *equal), offset, graph.constant([0.1]))
    antialias = arch.pos_resize == "bicubic_antialias"
    by_rows, by_columns = (
        _interpolation(graph, old, new, offset, antialias=antialias) for old, new in ((height, rows), (width, columns))
    )
    tall = graph("MatMul", by_rows, embedding)
    tall = graph("Reshape", tall, graph.sizes(-1, width, arch.width))
    return graph("MatMul", by_columns, tall)


def _interpolation(graph: _Graph, old: int, new: str, offset: str, *, antialias: bool) -> str:
    """The matrix [new, old] that interpolates along one axis."""
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    places = graph("Range", zero, graph("Squeeze", new), one)
    places = graph("Unsqueeze", graph("Cast", places, to=1), graph.sizes(1))
    scale = graph("Div", graph.constant([old]), graph("Add", graph("Cast", new, to=1), offset))
    centre = graph("Sub", graph("Mul", graph("Add", places, graph.constant(0.5)), scale), graph.constant(0.5))
    # Without antialiasing, places beyond an edge count as the edge, to which `fold` adds them.
    taps = np.arange(old) if antialias else np.arange(-2, old + 2)
    distance = graph("Abs", graph("Sub", graph.constant(taps[None]), centre))
    if antialias:
        distance = graph("Div", distance, graph("Max", scale, graph.constant([1])))
    weights = _cubic(graph, distance, a=-0.5 if antialias else -0.75)
    fold = np.zeros((len(taps), old))
    fold[np.arange(len(taps)), np.clip(taps, 0, old - 1)] = 1
    weights = graph("MatMul", weights, graph.constant(fold))
    return graph("Div", weights, graph("ReduceSum", weights, graph.sizes(1), keepdims=1))


def _cubic(graph: _Graph, x: str, *, a: float) -> str:
    """Keys' cubic convolution kernel of distances."""

    def polynomial(*factors: float) -> str:
        value = graph.constant(factors[0])
        for factor in factors[1:]:
            value = graph("Add", graph("Mul", value, x), graph.constant(factor))
        return value

    near, far = polynomial(a + 2, -(a + 3), 0.0, 1.0), polynomial(a, -5 * a, 8 * a, -4 * a)
    outside = graph("Where", graph("Less", x, graph.constant(2)), far, graph.constant(0))
    return graph("Where", graph("LessOrEqual", x, graph.constant(1)), near, outside)
