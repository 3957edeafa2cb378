"""Semantic FPN: logits of the image's own size at any size, the head of the published one, and that it learns."""

import math

import pytest

torch = pytest.importorskip("torch")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")
from flsl_jax.transfer.networks.backbone import torch_backbone
from flsl_jax.transfer.networks.semantic_fpn import SemanticFpn
from flsl_jax.transfer.networks.vit import BackboneOptions
from tests.transfer.tiny_backbones import tiny_loaded


def segmenter(*, patch_size=16, num_classes=5, **settings):
    backbone = torch_backbone(tiny_loaded(patch_size=patch_size), options=BackboneOptions(), blocks=(0, 1, 2, 3))
    torch.manual_seed(0)
    return SemanticFpn(backbone, num_classes=num_classes, channels=16, **settings)


@torch.no_grad()
@pytest.mark.parametrize(("patch_size", "one_scale"), [(8, False), (16, False), (16, True)])
@pytest.mark.parametrize("size", [(45, 77), (64, 32)])
def test_logits_have_the_size_of_the_image(patch_size, one_scale, size):
    model = segmenter(patch_size=patch_size, one_scale=one_scale).eval()
    assert model(torch.rand(2, 3, *size)).shape == (2, 5, *size)


@torch.no_grad()
def test_odd_images_are_padded_with_their_mean_at_the_right_and_bottom():
    model, images = segmenter().eval(), torch.rand(1, 3, 45, 50)
    padded = torch.empty(1, 3, 64, 64)
    padded[:] = model.mean
    padded[:, :, :45, :50] = images
    torch.testing.assert_close(model(images), model(padded)[:, :, :45, :50])


@torch.no_grad()
@pytest.mark.parametrize(("one_scale", "stride"), [(False, 4), (True, 16)])
def test_heads_have_a_convolution_for_each_doubling_and_meet_at_the_finest_map(one_scale, stride):
    model = segmenter(one_scale=one_scale).eval()
    names = [[type(layer).__name__ for layer in head] for head in model.heads]
    assert [of_level.count("Conv2d") for of_level in names] == [1, 1, 2, 3]
    assert [of_level.count("Upsample") for of_level in names] == [0, 1, 2, 3]
    summed = []
    model.classify.register_forward_hook(lambda module, inputs, output: summed.append(output.shape))
    model(torch.rand(1, 3, 64, 96))
    assert summed == [(1, 5, 64 // stride, 96 // stride)]


def test_starts_with_equal_classes_and_learns_one_image():
    model = segmenter(dropout=0.0).train()
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 5, (2, 4, 4)).repeat_interleave(16, 1)
    labels = labels.repeat_interleave(16, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(5), abs=0.1)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


@torch.no_grad()
def test_drops_whole_channels_in_training_only():
    model, images = segmenter(dropout=0.5), torch.rand(1, 3, 64, 64)
    seen = []
    model.dropout.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    model.eval()(images)
    assert seen[0][0] is seen[0][1] or torch.equal(*seen[0])
    model.train()(images)
    before, after = seen[1]
    kept = after.abs().amax((2, 3))[0] > 0
    assert 0 < kept.sum() < 16
    torch.testing.assert_close(after[:, kept], 2 * before[:, kept])
