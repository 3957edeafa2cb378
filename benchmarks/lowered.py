"""What a lowered program (StableHLO) multiplies and sums, before any compiler has seen it, and so without a device.

Loops are counted as often as they run, functions as often as they are called.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.mlir import ir

_NAME = re.compile(r'"([^"]*)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix product or convolution: element types such as "bf16", shapes, FLOPs (2 · MAC) and where it is from.

    `flops`: of all times that it runs. `precision`: "DEFAULT", "HIGH" or "HIGHEST". `source`: the names of the functions and
    primitives that JAX recorded, outermost first.
    """

    left: str
    right: str
    result: str
    precision: str
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    times: int
    flops: float
    source: str

    @property
    def kind(self) -> str:
        """The types alone, such as "bf16 × bf16 → f32"; a precision other than the default follows."""
        kind = f"{self.left} × {self.right} → {self.result}"
        return kind if self.precision == "DEFAULT" else f"{kind}, {self.precision.lower()}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sum:
    """One reduction by addition: the element type in which it adds, the shapes before and after, and where it is from."""

    dtype: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    times: int
    source: str


def products(lowered: jax.stages.Lowered) -> list[Product]:
    """The matrix products of a program, in its order."""
    return [
        _product(op, times)
        for op, times in _operations(lowered)
        if op.name in ("stablehlo.dot_general", "stablehlo.convolution")
    ]


def sums(lowered: jax.stages.Lowered) -> list[Sum]:
    """The sums over axes of a program, in its order."""
    found = []
    for op, times in _operations(lowered):
        if op.name != "stablehlo.reduce" or _body(op) != "stablehlo.add":
            continue
        dtype, before = _type(op.operands[0])
        found.append(Sum(dtype=dtype, before=before, after=_type(op.results[0])[1], times=times, source=_source(op)))
    return found


def by_kind(found: list[Product]) -> dict[str, tuple[int, float]]:
    """Number and FLOPs of the products of each kind, most FLOPs first."""
    number, flops = collections.Counter(), collections.Counter()
    for product in found:
        number[product.kind] += product.times
        flops[product.kind] += round(product.flops)
    return {kind: (number[kind], total) for kind, total in flops.most_common()}


def _operations(lowered: jax.stages.Lowered) -> Iterator[tuple[Any, int]]:
    """Every operation of the program with the number of times that it runs; of branches, all count."""
    module = lowered.compiler_ir("stablehlo")
    assert module is not None
    functions = {ir.StringAttr(op.attributes["sym_name"]).value: op.operation for op in module.body.operations}

    def walk(operation: Any, times: int) -> Iterator[tuple[Any, int]]:
        for region in operation.regions:
            for block in region.blocks:
                for op in block.operations:
                    yield from visit(op.operation, times)

    def visit(op: Any, times: int) -> Iterator[tuple[Any, int]]:
        if op.name in ("func.call", "call"):
            yield from walk(functions[ir.FlatSymbolRefAttr(op.attributes["callee"]).value], times)
        elif op.name == "stablehlo.while":
            yield from walk(op, times * _trips(op))
        else:
            yield op, times
            if op.name not in ("stablehlo.reduce", "stablehlo.sort"):
                yield from walk(op, times)

    yield from walk(functions["main"], 1)


def _trips(loop: Any) -> int:
    """How often a loop of `jax.lax.scan` runs: its condition compares a counter from 0 with a constant. Others count once."""
    condition = list(loop.regions[0].blocks[0].operations)
    constants = [op for op in condition if op.operation.name == "stablehlo.constant"]
    compares = [op for op in condition if op.operation.name == "stablehlo.compare"]
    if len(constants) != 1 or len(compares) != 1:
        return 1
    return int(re.findall(r"dense<(\d+)>", str(constants[0].attributes["value"]))[0])


def _body(reduction: Any) -> str:
    """The operation that a reduction repeats."""
    blocks = reduction.regions[0].blocks
    return next(iter(blocks[0].operations)).operation.name


def _type(value: Any) -> tuple[str, tuple[int, ...]]:
    tensor = ir.RankedTensorType(value.type)
    return str(tensor.element_type), tuple(tensor.shape)


def _source(op: Any) -> str:
    """The names that JAX recorded for an operation, as "jit(step)/…/dot_general"."""
    names = _NAME.findall(str(op.location))
    return names[0] if names else ""


def _product(op: Any, times: int) -> Product:
    (left, left_shape), (right, right_shape) = (_type(operand) for operand in list(op.operands)[:2])
    result, shape = _type(op.results[0])
    text = str(op.attributes["precision_config"]) if "precision_config" in op.attributes else ""
    found = re.findall(r"DEFAULT|HIGHEST|HIGH", text)
    if op.name == "stablehlo.dot_general":
        axes = re.search(r"lhs_contracting_dimensions = \[([\d, ]*)\]", str(op.attributes["dot_dimension_numbers"]))
        contracted = [int(axis) for axis in axes.group(1).split(",") if axis.strip()] if axes else []
        flops = 2.0 * math.prod(shape) * math.prod(left_shape[axis] for axis in contracted)
    else:
        flops = _convolution_flops(op, right_shape, shape)
    return Product(
        left=left,
        right=right,
        result=result,
        precision=max(found or ["DEFAULT"], key=("DEFAULT", "HIGH", "HIGHEST").index),
        shapes=(left_shape, right_shape, shape),
        times=times,
        flops=times * flops,
        source=_source(op),
    )


def _convolution_flops(op: Any, kernel: tuple[int, ...], result: tuple[int, ...]) -> float:
    """Without padding and dilation: every value of the result is a sum over the kernel's inputs."""
    numbers = str(op.attributes["dimension_numbers"])
    labels = re.search(r"x\[([^\]]*)\]->", numbers)
    assert labels is not None, numbers
    outputs = kernel[[label.strip() for label in labels.group(1).split(",")].index("o")]
    groups = ir.IntegerAttr(op.attributes["batch_group_count"]).value
    return 2.0 * math.prod(result) * math.prod(kernel) / outputs / groups
