"""The estimate of memory against what compilers say."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs import vitb16, vits8, vits16
from flsl_jax.config import parse_config
from flsl_jax.networks import build_network, for_backend
from flsl_jax.training import memory
from tests.tiny import tiny_config

_CONFIGS = {"vits16": vits16, "vits8": vits8, "vitb16": vitb16}
# Whole steps compiled for devices without them (benchmarks/ahead.py, JAX 0.10.2, libtpu 0.0.42.1, 2026-11-27): images a device,
# what is not the default, and the compiler's peak on one device in MiB. All rows of docs/scale.md that are within 10 %.
_TPU = [
    ("vits16", 64, {}, 5166),
    ("vits16", 16, {"devices": 256}, 1613),
    ("vits16", 64, {"remat": "dots"}, 3294),
    ("vits16", 64, {"fsdp": 8}, 5678),
    ("vits16", 64, {"remat": "dots", "fsdp": 8}, 3611),
    ("vits16", 64, {"remat": "full", "fsdp": 8}, 1763),
    ("vits16", 64, {"remat": "full"}, 1930),
    ("vits16", 64, {"micro_batches": 2}, 2916),
    ("vits16", 64, {"micro_batches": 4}, 1765),
    ("vits16", 64, {"micro_batches": 4, "remat": "dots"}, 1327),
    ("vits16", 64, {"micro_batches": 4, "remat": "full"}, 920),
    ("vits16", 64, {"slices": 2, "devices": 16}, 6047),
    ("vits16", 64, {}, 5289),  # v5p
    ("vits16", 64, {"devices": 1}, 5310),
    ("vits8", 16, {}, 7446),
    ("vits8", 32, {"remat": "dots"}, 8124),
    ("vits8", 16, {"fsdp": 8}, 7336),
    ("vits8", 32, {"remat": "full", "fsdp": 8}, 4348),
    ("vits8", 64, {"micro_batches": 4, "fsdp": 8}, 7942),
    ("vits8", 32, {"remat": "full"}, 3673),
    ("vits8", 16, {"micro_batches": 4}, 2319),
    ("vits8", 64, {"micro_batches": 4}, 7654),
    ("vits8", 16, {"devices": 1}, 7677),
    ("vitb16", 64, {}, 10885),
    ("vitb16", 64, {"remat": "dots"}, 7439),
    ("vitb16", 64, {"fsdp": 8}, 9651),
    ("vitb16", 64, {"micro_batches": 4, "fsdp": 8}, 2970),
    ("vitb16", 64, {"remat": "full"}, 3406),
    ("vitb16", 64, {"micro_batches": 4}, 4531),
    ("vitb16", 64, {"devices": 1}, 11152),
]
# The same for H100s with our attention; blocks are written out unless there is remat or the row says otherwise.
_GPU = [
    ("vits16", 64, {"devices": 1}, 6262),
    ("vits16", 64, {}, 6469),
    ("vits16", 64, {"scan_blocks": "unroll", "remat": "dots"}, 5473),
    ("vits16", 64, {"fsdp": 8}, 6071),
    ("vits16", 64, {"scan_blocks": "scan", "fsdp": 8}, 4623),
    ("vits16", 64, {"scan_blocks": "unroll", "remat": "full"}, 4915),
    ("vits16", 64, {"micro_batches": 4}, 2231),
    ("vits16", 64, {"scan_blocks": "scan"}, 5014),
    ("vits16", 64, {"scan_blocks": "scan", "remat": "dots"}, 3652),
    ("vits16", 64, {"scan_blocks": "scan", "remat": "full"}, 1751),
    ("vits16", 64, {"scan_blocks": "scan", "remat": "full", "micro_batches": 4}, 1152),
    ("vits8", 16, {}, 12795),
    ("vits8", 16, {"scan_blocks": "unroll", "remat": "dots"}, 6311),
    ("vits8", 32, {"scan_blocks": "unroll", "remat": "full"}, 10967),
    ("vits8", 32, {"scan_blocks": "scan", "remat": "full"}, 4927),
    ("vitb16", 64, {}, 12914),
    ("vitb16", 64, {"scan_blocks": "unroll", "remat": "dots"}, 9720),
    ("vitb16", 64, {"micro_batches": 4}, 4737),
]
# The steps of benchmarks/README.md on a CPU, in float32.
_CPU = [("vits16", 4, 1157), ("vits8", 1, 1413), ("vitb16", 2, 2365)]


@functools.cache
def parameters(name):
    config = parse_config(_CONFIGS[name].get_config().to_dict())
    network = nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def estimated(name, *, platform, images, fsdp=1, devices=8, slices=1, **compute):
    """Bytes of one device."""
    values = _CONFIGS[name].get_config()
    values.batch_size = images * devices
    values.parallel.fsdp = fsdp
    values.compute.update(compute)
    config = for_backend(parse_config(values.to_dict()), platform)
    compute_bytes = 4 if platform == "cpu" else 2
    sizes = {"parameters": parameters(name), "devices": devices, "compute_bytes": compute_bytes, "slices": slices}
    return memory.estimate_memory(config, platform=platform, **sizes).total


@pytest.mark.parametrize(("name", "images", "changes", "peak"), _TPU)
def test_a_tpus_estimate_is_within_ten_percent_of_the_compilers_peak(name, images, changes, peak):
    assert estimated(name, platform="tpu", images=images, **changes) == pytest.approx(peak * 2**20, rel=0.1)


@pytest.mark.parametrize(("name", "images", "changes", "peak"), _GPU)
def test_a_gpus_estimate_is_within_ten_percent_of_the_compilers_peak(name, images, changes, peak):
    assert estimated(name, platform="gpu", images=images, **changes) == pytest.approx(peak * 2**20, rel=0.1)


@pytest.mark.parametrize(("name", "images", "peak"), _CPU)
def test_a_cpus_estimate_is_within_ten_percent_of_the_compiled_step(name, images, peak):
    assert estimated(name, platform="cpu", images=images, devices=1) == pytest.approx(peak * 2**20, rel=0.1)


@pytest.mark.parametrize("platform", ["tpu", "gpu", "cpu"])
@pytest.mark.parametrize("changes", [{}, {"fsdp": 8}, {"remat": "full"}, {"micro_batches": 4}])
def test_more_images_never_need_less(platform, changes):
    sizes = [estimated("vits16", platform=platform, images=images, **changes) for images in (4, 12, 64, 68, 256)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("shape", "padded"),
    [((192, 784, 784), 192 * 784 * 896), ((768, 196, 64), 768 * 64 * 256), ((25088, 384), 25088 * 384), ((7, 1), 7)],
)
def test_a_tpus_arrays_fill_tiles_of_8_by_128(shape, padded):
    """Sizes from the compiler's own list of arrays."""
    assert memory._bytes(shape, 2, padded=True) == 2 * padded
    assert memory._bytes(shape, 2, padded=False) == 2 * math.prod(shape)


@pytest.mark.parametrize(("remat", "width"), [("none", 64), ("none", 96), ("dots", 64), ("full", 64)])
def test_estimated_activations_are_what_the_compiler_sets_aside(remat, width):
    depth, images = 4, 8
    config = tiny_config(
        batch_size=images,
        model={"width": width, "depth": depth, "drop_path": 0.0},
        views={"size": 64},
        compute={"remat": remat, "scan_blocks": "scan"},
    )
    backbone = build_network(config, rngs=nnx.Rngs(0)).backbone
    graph, params = nnx.split(backbone, nnx.Param)

    def loss(params, pixels):
        return jnp.sum(jnp.square(nnx.merge(graph, params)(pixels)))

    pixels = jnp.zeros((2 * images, 64, 64, 3))  # the paper's two student views of each image
    compiled = jax.jit(jax.grad(loss)).lower(params, pixels).compile()
    estimate = memory.estimate_memory(config, parameters=0, devices=1, compute_bytes=4, platform="cpu")
    assert estimate.activations == pytest.approx(compiled.memory_analysis().temp_size_in_bytes, rel=0.2)


def test_bfloat16_keeps_less_than_half_of_float32_and_devices_share_the_batch():
    """Statistics stay in float32, but GELU's result is not kept."""

    def activations(**settings):
        config = tiny_config(model={"depth": 12})
        return memory.estimate_memory(config, parameters=0, platform="cpu", **settings).activations

    whole = activations(devices=1, compute_bytes=4)
    assert 0.35 * whole < activations(devices=1, compute_bytes=2) < 0.5 * whole
    assert activations(devices=4, compute_bytes=4) == whole / 4


def test_micro_batches_remat_and_fsdp_lower_the_estimate():
    def total(**groups):
        config = tiny_config(model={"depth": 12}, **groups)
        return memory.estimate_memory(config, parameters=10**5, devices=1, compute_bytes=4, platform="gpu").total

    plain = total()
    assert total(compute={"micro_batches": 4}) < plain
    assert total(compute={"remat": "full"}) < total(compute={"remat": "dots"}) < plain
    assert total(parallel={"fsdp": 4}) < plain


SIZES = {"parameters": 10**5, "devices": 2, "compute_bytes": 4, "platform": "gpu"}


def gib(config):
    return memory.estimate_memory(config, **SIZES).total


def test_what_does_not_fit_is_told_the_first_flags_that_make_it_fit():
    whole = tiny_config(batch_size=64)
    halves, eighths = (tiny_config(batch_size=64, compute={"micro_batches": parts}) for parts in (2, 8))
    loop = {"micro_batches": 32, "remat": "full", "scan_blocks": "scan"}
    spread = tiny_config(batch_size=64, compute=loop, parallel={"fsdp": 2})
    expected = {
        gib(halves): "--config.compute.micro_batches=2",
        gib(eighths): "--config.compute.micro_batches=8",
        gib(spread): "--config.compute.micro_batches=32 --config.compute.remat=full --config.compute.scan_blocks=scan "
        "--config.parallel.fsdp=2",
        0.99 * gib(spread): None,
    }
    for limit, flags in expected.items():
        assert memory.first_that_fits(whole, limit=limit, **SIZES) == flags


def test_what_is_set_already_is_not_told_again():
    compute = {"remat": "full", "scan_blocks": "scan"}
    config = tiny_config(batch_size=64, compute=compute | {"micro_batches": 8}, parallel={"data": 2})
    smaller = tiny_config(batch_size=64, compute=compute | {"micro_batches": 32}, parallel={"data": 2})
    assert memory.first_that_fits(config, limit=gib(smaller), **SIZES) == "--config.compute.micro_batches=32"
    assert memory.first_that_fits(config, limit=0.9 * gib(smaller), **SIZES) is None


def test_the_line_says_what_would_fit_before_anything_is_compiled():
    estimate = memory.MemoryEstimate(state=2.0**30, activations=2.0**33, logits=0.0, pixels=0.0)
    asked = []

    def line(limit):
        return memory.describe_memory(estimate, limit=limit, smaller=lambda most: asked.append(most) or "--config.x=1")

    assert line(None).endswith("pixels 0.00 GiB)")
    assert line(11 * 2.0**30).endswith(" of 11.00 GiB")
    assert asked == []
    assert line(2.0**33).endswith(" of 8.00 GiB; this may not fit. What would: --config.x=1")
    assert asked == [0.9 * 2.0**33]
    nothing = memory.describe_memory(estimate, limit=2.0**30, smaller=lambda most: None)
    assert nothing.endswith("this may not fit. Take more devices or a smaller batch")
