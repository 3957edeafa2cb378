"""Sizes of the pyramids' maps, and the maps themselves by plain formulas."""

import pytest

torch = pytest.importorskip("torch")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")
from flsl_jax.models import Architecture
from flsl_jax.transfer.networks.pyramids import LayerNorm2d, PatchPyramid, SimplePyramid, rescaling
from flsl_jax.transfer.networks.vit import BackboneOptions, DetectorViT


def backbone(*, patch_size, blocks=(0, 1, 2, 3)):
    architecture = Architecture(patch_size=patch_size, width=16, depth=4, num_heads=2, mlp_ratio=2, grid=(4, 4))
    return DetectorViT(architecture, options=BackboneOptions(), blocks=blocks)


def enlarged(maps, layer):
    """A transposed convolution of 2 × 2 with stride 2: each pixel becomes four, by four matrices."""
    batch, _, height, width = maps.shape
    out = torch.zeros(batch, layer.weight.shape[1], 2 * height, 2 * width)
    for row in (0, 1):
        for column in (0, 1):
            out[:, :, row::2, column::2] = torch.einsum("bchw,cd->bdhw", maps, layer.weight[:, :, row, column])
    return out + layer.bias[:, None, None]


def normed(maps, layer):
    variance, mean = torch.var_mean(maps, dim=1, keepdim=True, correction=0)
    return (maps - mean) / (variance + 1e-6).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]


@torch.no_grad()
def test_layer_norm_is_over_the_channels_of_each_pixel():
    layer, maps = LayerNorm2d(6), torch.randn(2, 6, 3, 4)
    layer.weight.normal_()
    layer.bias.normal_()
    torch.testing.assert_close(layer(maps), normed(maps, layer))


@torch.no_grad()
def test_rescaling_by_plain_formulas():
    maps = torch.randn(2, 8, 4, 4)
    four, channels = rescaling(4.0, 8, norm=LayerNorm2d, narrow=True)
    assert channels == 2
    between = torch.nn.functional.gelu(normed(enlarged(maps, four[0]), four[1]))
    torch.testing.assert_close(four(maps), enlarged(between, four[3]), rtol=1e-4, atol=1e-5)
    two, channels = rescaling(2.0, 8, norm=LayerNorm2d)
    assert channels == 8
    torch.testing.assert_close(two(maps), enlarged(maps, two), rtol=1e-4, atol=1e-5)
    assert rescaling(1.0, 8, norm=LayerNorm2d)[0](maps) is maps
    torch.testing.assert_close(rescaling(0.5, 8, norm=LayerNorm2d)[0](maps)[0, 0, 1, 0], maps[0, 0, 2:, :2].max())
    torch.testing.assert_close(rescaling(0.25, 8, norm=LayerNorm2d)[0](maps), maps.amax((2, 3), keepdim=True))


@torch.no_grad()
@pytest.mark.parametrize("patch_size", [8, 16])
def test_patch_pyramid_has_a_map_for_each_stride(patch_size):
    pyramid = PatchPyramid(backbone(patch_size=patch_size), channels=12).eval()
    maps = pyramid(torch.randn(2, 3, 96, 160))
    assert {name: tuple(one.shape) for name, one in maps.items()} == {
        "0": (2, 12, 24, 40),
        "1": (2, 12, 12, 20),
        "2": (2, 12, 6, 10),
        "3": (2, 12, 3, 5),
        "pool": (2, 12, 2, 3),
    }
    assert list(PatchPyramid(backbone(patch_size=patch_size), extra=False)(torch.randn(2, 3, 64, 64))) == list("0123")
    kinds = [type(scale).__name__ for scale in pyramid.scales]
    assert (
        kinds
        == {
            8: ["ConvTranspose2d", "Identity", "MaxPool2d", "MaxPool2d"],
            16: ["Sequential", "ConvTranspose2d", "Identity", "MaxPool2d"],
        }[patch_size]
    )


@torch.no_grad()
def test_patch_pyramid_adds_each_coarser_map_to_the_finer_one():
    network, images = backbone(patch_size=16).eval(), torch.randn(1, 3, 64, 96)
    pyramid = PatchPyramid(network, channels=12).eval()
    scaled = [scale(one) for scale, one in zip(pyramid.scales, network(images))]
    inner = [layer(one) for layer, one in zip(pyramid.fpn.inner_blocks, scaled)]
    for finer in (2, 1, 0):
        inner[finer] = inner[finer] + inner[finer + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = [layer(one) for layer, one in zip(pyramid.fpn.layer_blocks, inner)]
    maps = list(pyramid(images).values())
    for ours, theirs in zip(maps, [*expected, expected[3][:, :, ::2, ::2]], strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_simple_pyramid_makes_every_map_from_the_last_one():
    network, images = backbone(patch_size=16, blocks=(3,)).eval(), torch.randn(2, 3, 96, 160)
    pyramid = SimplePyramid(network, channels=12).eval()
    maps = pyramid(images)
    assert [tuple(one.shape[2:]) for one in maps.values()] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    (last,) = network(images)
    _, pointwise, first_norm, convolution, second_norm = pyramid.scales[2]
    narrowed = normed(torch.einsum("bchw,dc->bdhw", last, pointwise.weight[:, :, 0, 0]), first_norm)
    expected = normed(torch.nn.functional.conv2d(narrowed, convolution.weight, padding=1), second_norm)
    torch.testing.assert_close(maps["2"], expected, rtol=1e-4, atol=1e-5)
    assert pointwise.bias is convolution.bias is None


@pytest.mark.parametrize(
    ("pyramid", "patch_size", "blocks", "words"),
    [
        (PatchPyramid, 14, (0, 1, 2, 3), "patches of 14 pixels"),
        (PatchPyramid, 16, (3,), "1 maps; expected 8 or 16, and 4 maps"),
        (SimplePyramid, 8, (3,), "patches of 8 pixels"),
        (SimplePyramid, 16, (2, 3), "2 maps; expected 16, and one map"),
    ],
)
def test_refuses_a_backbone_that_does_not_fit(pyramid, patch_size, blocks, words):
    with pytest.raises(ValueError, match=words):
        pyramid(backbone(patch_size=patch_size, blocks=blocks))
