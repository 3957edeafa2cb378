"""What the step multiplies, sums and sends between devices, read from its program: no clock, and no accelerator."""

import jax
import numpy as np
import pytest

from benchmarks import compiled, lowered
from configs import vits16
from flsl_jax import parallel
from flsl_jax.config import parse_config
from flsl_jax.objective.precision import FLOAT32_SCOPE
from flsl_jax.training.setup import build_training
from tests.tiny import tiny_config

# Equations of the two products that cut and resize the views (`flsl_jax.data.resample`).
_RESIZING = ("bxw,bhwc->bhxc", "byh,bhxc->byxc")
_BFLOAT16 = {"dtype": "bfloat16"}


def lower(config, *, devices=8, platform="cpu"):
    """The step and its program for a platform, on the first of the fake devices."""
    mesh = parallel.make_mesh(config.parallel, devices=jax.devices()[:devices])
    training = build_training(config, mesh=mesh, steps_per_epoch=4)
    size = config.views.size
    pixels = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), np.uint8, sharding=training.batch_sharding)
    sample = jax.ShapeDtypeStruct((config.batch_size,), np.uint32, sharding=training.batch_sharding)
    traced = training.step.trace(training.abstract_state, pixels, sample)
    return training, traced.lower(lowering_platforms=(platform,))


def small_bfloat16(**groups):
    """`tiny_config` in bfloat16; rows (256 tokens, 64 queries) are more than any width but that of a patch (192)."""
    compute = {"compute": _BFLOAT16 | groups.pop("compute", {})}
    return tiny_config(**compute, **groups)


def vits16_bfloat16(**groups):
    values = vits16.get_config()
    values.update({"batch_size": 8, "compute": {"dtype": "bfloat16"}} | groups)
    return parse_config(values.to_dict())


@pytest.fixture(scope="module", name="vits16_program")
def _vits16_program():
    return lower(vits16_bfloat16(), devices=1, platform="tpu")


@pytest.fixture(scope="module", name="small_program", params=["cpu", "cuda", "tpu"])
def _small_program(request):
    return lower(small_bfloat16(), devices=1, platform=request.param)[1]


def assert_only_named_products_are_of_float32(products):
    """Those of the objective and of the views, in whole float32 precision, and one of the monitor."""
    for product in products:
        types = {product.left, product.right}
        assert len(types) == 1, product
        if types == {"f32"}:
            named = FLOAT32_SCOPE in product.source or any(name in product.source for name in _RESIZING)
            assert (named and product.precision == "HIGHEST") or "covariance" in product.source, product


def test_only_named_products_are_of_float32(small_program, vits16_program):
    assert_only_named_products_are_of_float32(lowered.products(small_program))
    assert_only_named_products_are_of_float32(lowered.products(vits16_program[1]))


def test_products_of_float32_are_a_small_share(vits16_program):
    """63.9 GFLOP of 5,027 at batch 64: mean-shift and last layer; 18.2 more: the views."""
    kinds = lowered.by_kind(lowered.products(vits16_program[1]))
    total = sum(flops for _, flops in kinds.values())
    assert sum(flops for kind, (_, flops) in kinds.items() if "f32 × f32" in kind) < 0.018 * total


def test_flops_are_those_of_the_cost_model(vits16_program):
    training, program = vits16_program
    counted = sum(product.flops for product in lowered.products(program))
    assert counted == pytest.approx(8 * training.flops_per_image, rel=0.005)


def test_nothing_is_summed_in_bfloat16(small_program, vits16_program):
    for program in (small_program, vits16_program[1]):
        assert [one for one in lowered.sums(program) if one.dtype == "bf16"] == []


@pytest.mark.parametrize("layer_scale", [False, True])
def test_kept_prefix_tokens_and_layer_scale_too_are_summed_in_float32(layer_scale):
    model = {"prefix_tokens": "keep", "num_prefix": 2, "layer_scale": layer_scale}
    _, program = lower(small_bfloat16(init_from="x", model=model), devices=1)
    assert [one for one in lowered.sums(program) if one.dtype == "bf16"] == []


def test_gradients_of_kernels_are_float32_before_devices_add_theirs_up(small_program):
    """A product over the rows of a batch, which lie on several devices, has a result in float32."""
    over_rows = 0
    for product in lowered.products(small_program):
        left, _, result = product.shapes
        contracted = product.flops / product.times / 2 / np.prod(result)
        if product.left == "bf16" and contracted in (256, 64) and len(left) == 2:
            assert product.result == "f32", product
            over_rows += product.times
    assert over_rows >= 2 * 4 + 1 + 3  # four kernels of each of two blocks, the patches' and three of the head


def test_micro_batches_make_every_view_once():
    """The products that resize the views are as many as without micro-batches, in bytes and FLOPs; they were twice."""

    def resized(**compute):
        _, program = lower(small_bfloat16(compute=compute), devices=1)
        return sum(x.flops for x in lowered.products(program) if any(name in x.source for name in _RESIZING))

    assert resized(micro_batches=4) == resized()


def compiled_collectives(**groups):
    _, program = lower(small_bfloat16(**groups))
    return compiled.collectives(program.compile().as_text())


def elements(type_):
    return np.prod([int(x) for x in type_.partition("[")[2].rstrip("]").split(",") if x], dtype=int)


def test_without_fsdp_devices_exchange_sums_of_gradients_and_vectors_alone():
    found = compiled_collectives()
    assert {one.kind for one in found} == {"all-reduce"}
    assert {type_.partition("[")[0] for one in found for type_ in one.types} == {"f32"}


def test_with_fsdp_devices_gather_parameters_and_no_tokens():
    """8 images of two views with 16 tokens of 32 channels; the largest kernel has 6,144 numbers, a view's pixels 3,072."""
    found = compiled_collectives(parallel={"fsdp": 8}, model={"width": 64}, batch_size=16)
    tokens = 16 * 2 * 16 * 64
    assert {one.kind for one in found} <= {"all-reduce", "all-gather", "reduce-scatter"}
    gathered = [elements(type_) for one in found if one.kind == "all-gather" for type_ in one.types]
    assert gathered
    assert max(gathered) < tokens
    rows = [type_ for one in found for type_ in one.types if f"[{16 * 2 * 16}," in type_]
    assert rows == []
