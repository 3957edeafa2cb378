"""Cost formulas against the compiler and known numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from flsl_jax.config import Config, ModelConfig
from flsl_jax.models import ViT
from flsl_jax.training import cost
from tests.tiny import tiny_config


def test_forward_flops_equal_the_compilers_count_of_products():
    size = {"patch_size": 8, "width": 384, "depth": 1}
    model = ViT(**size, num_heads=2, grid=(8, 8), scan_blocks=False, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    compiled = jax.jit(lambda params, x: nnx.merge(graph, params)(x)).lower(params, jnp.zeros((1, 64, 64, 3))).compile()
    counted = compiled.cost_analysis()["flops"]
    assert cost.forward_flops(tokens=64, **size) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(
    ("model", "gflop"),
    [
        (ModelConfig(), 79.5),
        (ModelConfig(patch_size=8), 385.7),
        (ModelConfig(width=768, num_heads=12), 286.6),
    ],
)
def test_the_paper_recipes_cost_what_the_limits_table_says_within_two_percent(model, gflop):
    config = dataclasses.replace(Config(), model=model)
    assert cost.step_flops_per_image(config) / 1e9 == pytest.approx(gflop, rel=0.02)


def test_peaks_are_those_of_the_most_specific_name():
    assert cost.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert cost.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert cost.peak_flops("cpu") is None


def test_micro_batches_remat_and_fsdp_lower_the_estimate():
    def total(**groups):
        config = tiny_config(**groups)
        return cost.estimate_memory(config, parameters=10**6, devices=1, compute_bytes=4).total

    plain = total()
    assert total(compute={"micro_batches": 4}) < plain
    assert total(compute={"remat": "full"}) < total(compute={"remat": "dots"}) < plain
    assert total(parallel={"fsdp": 4}) < plain


def test_the_parameter_table_adds_up():
    params = {
        "backbone": {"blocks": {"attn": {"kernel": jnp.zeros((2, 3, 4))}}},
        "head": {"fc1": {"bias": jnp.zeros(5)}},
    }
    table = cost.parameter_table(params)
    assert "backbone.blocks.attn" in table
    assert table.splitlines()[-1].split() == ["total", "29"]
