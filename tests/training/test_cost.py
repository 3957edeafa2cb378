"""Cost formulas against the compiler and known numbers."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs import vits16
from flsl_jax.config import parse_config
from flsl_jax.models import Architecture, ViT
from flsl_jax.networks import build_network
from flsl_jax.training import cost
from tests.tiny import tiny_config


def test_forward_flops_equal_the_compilers_count_of_products():
    size = {"patch_size": 8, "width": 384, "depth": 1}
    model = ViT(Architecture(**size, num_heads=2, grid=(8, 8)), scan_blocks=False, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    compiled = jax.jit(lambda params, x: nnx.merge(graph, params)(x)).lower(params, jnp.zeros((1, 64, 64, 3))).compile()
    counted = compiled.cost_analysis()["flops"]
    assert cost.forward_flops(tokens=64, **size) == pytest.approx(counted, rel=0.05)


def test_prefix_tokens_are_in_every_block_but_not_in_the_patch_projection():
    size = {"patch_size": 8, "width": 384, "depth": 1}
    arch = Architecture(**size, num_heads=2, grid=(8, 8), num_prefix=32)
    graph, params = nnx.split(ViT(arch, scan_blocks=False, rngs=nnx.Rngs(0)))
    compiled = jax.jit(lambda params, x: nnx.merge(graph, params)(x)).lower(params, jnp.zeros((1, 64, 64, 3))).compile()
    counted = compiled.cost_analysis()["flops"]
    assert cost.forward_flops(tokens=64, num_prefix=32, **size) == pytest.approx(counted, rel=0.05)


def test_a_kept_prefix_and_another_mlp_are_part_of_a_steps_cost():
    def flops(**model):
        return cost.step_flops_per_image(tiny_config(init_from="x", model=model))

    def memory(**model):
        config = tiny_config(init_from="x", model=model)
        return cost.estimate_memory(config, parameters=10**6, devices=1, compute_bytes=4).activations

    assert flops(num_prefix=5) == flops() < flops(prefix_tokens="keep", num_prefix=5) < flops(mlp_ratio=8)
    assert memory(num_prefix=5) == memory() < memory(prefix_tokens="keep", num_prefix=5)


@pytest.mark.parametrize(
    ("model", "gflop"),
    [
        ({}, 79.5),
        ({"patch_size": 8}, 385.7),
        ({"width": 768, "num_heads": 12}, 286.6),
    ],
)
def test_the_paper_recipes_cost_what_the_limits_table_says_within_two_percent(model, gflop):
    settings = vits16.get_config()
    settings.model.update(model)
    config = parse_config(settings.to_dict())
    assert cost.step_flops_per_image(config) / 1e9 == pytest.approx(gflop, rel=0.02)


@pytest.mark.parametrize(
    ("device_kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("NVIDIA H1000", None),
        ("cpu", None),
    ],
)
def test_peaks_are_those_of_the_most_specific_name_of_whole_words(device_kind, peak):
    assert cost.peak_flops(device_kind) == peak


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
    estimate = cost.estimate_memory(config, parameters=0, devices=1, compute_bytes=4)
    assert estimate.activations == pytest.approx(compiled.memory_analysis().temp_size_in_bytes, rel=0.2)


def test_bfloat16_keeps_less_than_half_of_float32_and_devices_share_the_batch():
    """Statistics stay in float32, but GELU's result is not kept."""

    def activations(**settings):
        return cost.estimate_memory(tiny_config(), parameters=0, **settings).activations

    whole = activations(devices=1, compute_bytes=4)
    assert 0.35 * whole < activations(devices=1, compute_bytes=2) < 0.5 * whole
    assert activations(devices=4, compute_bytes=4) == whole / 4


def test_micro_batches_remat_and_fsdp_lower_the_estimate():
    def total(**groups):
        config = tiny_config(**groups)
        return cost.estimate_memory(config, parameters=10**6, devices=1, compute_bytes=4).total

    plain = total()
    assert total(compute={"micro_batches": 4}) < plain
    assert total(compute={"remat": "full"}) < total(compute={"remat": "dots"}) < plain
    assert total(parallel={"fsdp": 4}) < plain


SIZES = {"parameters": 10**6, "devices": 2, "compute_bytes": 4}


def gib(config):
    return cost.estimate_memory(config, **SIZES).total


def test_what_does_not_fit_is_told_the_first_flags_that_make_it_fit():
    whole = tiny_config(batch_size=64)
    halves, eighths = (tiny_config(batch_size=64, compute={"micro_batches": parts}) for parts in (2, 8))
    spread = tiny_config(batch_size=64, compute={"micro_batches": 32, "remat": "full"}, parallel={"fsdp": 2})
    expected = {
        gib(halves): "--config.compute.micro_batches=2",
        gib(eighths): "--config.compute.micro_batches=8",
        gib(spread): "--config.compute.micro_batches=32 --config.compute.remat=full --config.parallel.fsdp=2",
        0.99 * gib(spread): None,
    }
    for limit, flags in expected.items():
        assert cost.first_that_fits(whole, limit=limit, **SIZES) == flags


def test_what_is_set_already_is_not_told_again():
    config = tiny_config(batch_size=64, compute={"micro_batches": 8, "remat": "full"}, parallel={"data": 2})
    smaller = tiny_config(batch_size=64, compute={"micro_batches": 32, "remat": "full"}, parallel={"data": 2})
    assert cost.first_that_fits(config, limit=gib(smaller), **SIZES) == "--config.compute.micro_batches=32"
    assert cost.first_that_fits(config, limit=0.9 * gib(smaller), **SIZES) is None


def test_the_line_says_what_would_fit_before_anything_is_compiled():
    estimate = cost.MemoryEstimate(state=2.0**30, activations=2.0**33, logits=0.0, pixels=0.0)
    asked = []

    def line(limit):
        return cost.describe_memory(estimate, limit=limit, smaller=lambda most: asked.append(most) or "--config.x=1")

    assert line(None).endswith("pixels 0.00 GiB)")
    assert line(11 * 2.0**30).endswith(" of 11.00 GiB")
    assert asked == []
    assert line(2.0**33).endswith(" of 8.00 GiB; this may not fit. What would: --config.x=1")
    assert asked == [0.9 * 2.0**33]
    nothing = cost.describe_memory(estimate, limit=2.0**30, smaller=lambda most: None)
    assert nothing.endswith("this may not fit. Take more devices or a smaller batch")


def test_queries_of_an_image_are_those_of_all_its_views():
    views = {"size": 32, "local_size": 16, "local_count": 3}
    assert cost.queries_per_image(tiny_config()) == 2 * 4
    assert cost.queries_per_image(tiny_config(views={**views, "recipe": "released"})) == 4 + 3 * 1


def test_the_parameter_table_adds_up():
    params = {
        "backbone": {"blocks": {"attn": {"kernel": jnp.zeros((2, 3, 4))}}},
        "head": {"fc1": {"bias": jnp.zeros(5)}},
    }
    table = cost.parameter_table(params)
    assert "backbone.blocks.attn" in table
    assert table.splitlines()[-1].split() == ["total", "29"]
