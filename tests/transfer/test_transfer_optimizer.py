"""Which parameters learn at which rate and decay, and the rate of a step."""

import pytest

torch = pytest.importorskip("torch")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.transfer.config import OptimizerConfig
from flsl_jax.transfer.networks.backbone import torch_backbone
from flsl_jax.transfer.networks.pyramids import SimplePyramid
from flsl_jax.transfer.networks.vit import BackboneOptions
from flsl_jax.transfer.optimizer import make_optimizer, set_learning_rate
from tests.transfer.tiny_backbones import tiny_loaded


def pyramid():
    options = BackboneOptions(window=2, relative_grid=(2, 2))
    backbone = torch_backbone(tiny_loaded(), options=options, blocks=(3,))
    return SimplePyramid(backbone.network, channels=8), backbone.network


def of_parameters(config):
    """Factor and weight decay of each parameter by its name."""
    model, network = pyramid()
    groups = make_optimizer(model, network, config).param_groups
    found = {
        id(parameter): (group["factor"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    assert len(found) == sum(len(group["params"]) for group in groups)
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


def test_norms_and_position_embedding_do_not_decay_and_biases_and_relative_positions_do():
    values = of_parameters(OptimizerConfig(weight_decay=0.1, decay_norms=False))
    spared = {name for name, (_, decay) in values.items() if decay == 0}
    blocks = {f"backbone.blocks.{i}.norm{j}.{kind}" for i in range(4) for j in (1, 2) for kind in ("weight", "bias")}
    assert {"backbone.pos_embed"} | blocks < spared
    others = spared - blocks - {"backbone.pos_embed"}
    assert all(name.startswith("scales.") for name in others)  # LayerNorms of the pyramid
    assert values["backbone.blocks.0.attn.qkv.bias"] == (1.0, 0.1)
    assert values["backbone.blocks.0.rel_pos_h"] == (1.0, 0.1)
    assert {decay for _, decay in of_parameters(OptimizerConfig(weight_decay=0.1)).values()} == {0.1}


def test_rates_fall_from_the_head_to_the_patches_as_in_vitdet():
    values = of_parameters(OptimizerConfig(layer_decay=0.5))
    factors = {name: factor for name, (factor, _) in values.items()}
    assert {factor for name, factor in factors.items() if not name.startswith("backbone.")} == {1.0}
    for block, expected in enumerate((0.5**4, 0.5**3, 0.5**2, 0.5)):
        assert {f for name, f in factors.items() if name.startswith(f"backbone.blocks.{block}.")} == {expected}
    assert factors["backbone.pos_embed"] == 0.5**5
    assert {f for name, f in factors.items() if "patch_embed" in name} == {0.5**5}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"warmup_steps": 3, "drops": (0.5, 0.9)}, [0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]),
        ({"schedule": "poly"}, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    ],
)
def test_the_rate_of_each_of_ten_steps(settings, expected):
    model, network = pyramid()
    config = OptimizerConfig(lr=2.0, layer_decay=0.5, **settings)
    optimizer = make_optimizer(model, network, config)
    rates = [set_learning_rate(optimizer, config, step=step, steps=10) for step in range(10)]
    assert rates == pytest.approx([2 * value for value in expected])
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(rates[-1] * group["factor"])
