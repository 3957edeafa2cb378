"""Cost formulas against the compiler and known numbers."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs import vits16
from flsl_jax.config import parse_config
from flsl_jax.models import Architecture, ViT
from flsl_jax.training import cost, memory
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

    def activations(**model):
        config = tiny_config(init_from="x", model=model)
        sizes = {"parameters": 10**6, "devices": 1, "compute_bytes": 4, "platform": "cpu"}
        return memory.estimate_memory(config, **sizes).activations

    assert flops(num_prefix=5) == flops() < flops(prefix_tokens="keep", num_prefix=5) < flops(mlp_ratio=8)
    assert activations(num_prefix=5) == activations() < activations(prefix_tokens="keep", num_prefix=5)


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
