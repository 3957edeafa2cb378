"""The PyTorch twin equals the network block by block, with prefix, LayerScale and every resize of the position embedding."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from flsl_jax.models import Architecture, ViT
from flsl_jax.weights.canonical import backbone_tensors
from flsl_jax.weights.export import parity
from tests.weights.test_canonical import random_params

ARCHITECTURE = Architecture(patch_size=4, width=16, depth=2, num_heads=2, grid=(7, 7), num_prefix=2, layer_scale=True)


def twin_and_images(mode, *, size):
    torch = pytest.importorskip("torch")
    from flsl_jax.weights.export.torch_twin import TorchViT

    drawn = backbone_tensors(random_params(ViT(ARCHITECTURE, rngs=nnx.Rngs(0))), ARCHITECTURE)
    tensors = {name: np.float32(0.4) * tensor for name, tensor in drawn.items()}
    twin = TorchViT(ARCHITECTURE, pos_resize=mode).eval()
    twin.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()}, strict=True)
    return twin, tensors, np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(28, 28), (20, 36)])
@pytest.mark.parametrize("mode", ["bicubic", "bicubic_antialias", "bicubic_dino"])
def test_equals_the_network(mode, size):
    twin, tensors, images = twin_and_images(mode, size=size)
    import torch

    ours = parity.forward(tensors, dataclasses.replace(ARCHITECTURE, pos_resize=mode))(images)
    with torch.inference_mode():
        theirs = twin(torch.tensor(images).permute(0, 3, 1, 2))
    for expected, found in zip([*ours.blocks, ours.tokens], [*theirs.blocks, theirs.tokens], strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_without_a_mode_it_takes_its_own_size_only():
    twin, _, images = twin_and_images(None, size=(28, 28))
    import torch

    own = torch.tensor(images).permute(0, 3, 1, 2)
    assert twin(own).tokens.shape == (2, 49, 16)
    with pytest.raises(ValueError, match=r"grid of \(6, 7\) tokens; this network takes \(7, 7\) only"):
        twin(own[:, :, :24])


def test_parity_names_the_odd_size_of_224_pixels_and_judges_not_a_number():
    assert parity.odd_size(Architecture(patch_size=16, width=16, depth=1, num_heads=2)) == (160, 288)
    found = parity.Parity(counterpart="x", differences={(8, 8): (1e-6, 2e-5), (4, 12): (1e-6, 3e-6)})
    assert found.holds
    assert found.largest == 2e-5
    assert found.table().splitlines()[-1].split() == ["tokens", "2.0e-05", "3.0e-06"]
    assert not parity.Parity(counterpart="x", differences={(8, 8): (1e-6, float("nan"))}).holds
