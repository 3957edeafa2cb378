"""Networks as functions of one image: what they find is what the networks themselves find, at any size."""

import pytest

torch = pytest.importorskip("torch")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")
from torch.nn.functional import interpolate

from flsl_jax.transfer.networks.backbone import torch_backbone
from flsl_jax.transfer.networks.detectors import patch_detector, vitdet
from flsl_jax.transfer.networks.semantic_fpn import SemanticFpn
from flsl_jax.transfer.networks.vit import BackboneOptions
from flsl_jax.transfer.programs import DetectorProgram, SegmenterProgram, exportable
from tests.transfer.networks.test_detectors import detector
from tests.transfer.tiny_backbones import tiny_loaded

SIZES = [(50, 70), (70, 50), (64, 64), (33, 80), (200, 130), (40, 300), (8, 8)]


def picture(height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("kind", "masks", "patch_size"), [(patch_detector, False, 8), (patch_detector, True, 16), (vitdet, True, 16)]
)
@torch.no_grad()
def test_a_detectors_program_finds_what_the_detector_finds(kind, masks, patch_size):
    model = detector(kind, masks=masks, patch_size=patch_size).eval()
    program = DetectorProgram(model)
    assert program.outputs == ("boxes", "labels", "scores", "masks")[: 4 if masks else 3]
    for size in SIZES:
        image = picture(*size)
        (expected,) = model([image.float() / 255])
        assert len(expected["boxes"]) == 5
        found = dict(zip(program.outputs, program(image), strict=True))
        torch.testing.assert_close(found["boxes"], expected["boxes"])
        torch.testing.assert_close(found["scores"], expected["scores"])
        assert found["labels"].tolist() == (expected["labels"] - 1).tolist()
        if masks:
            sure = (expected["masks"][:, 0] - 0.5).abs() > 1e-5
            assert found["masks"].dtype == torch.bool
            assert ((found["masks"] == (expected["masks"][:, 0] >= 0.5)) | ~sure).all()


@torch.no_grad()
def test_a_higher_threshold_leaves_nothing_and_that_is_no_error():
    program = DetectorProgram(detector(patch_detector, masks=True).eval())
    program.score_threshold.fill_(1.0)
    shapes = [tuple(output.shape) for output in program(picture(50, 70))]
    assert shapes == [(0, 4), (0,), (0,), (0, 50, 70)]


@torch.no_grad()
def test_a_segmenters_program_resizes_classifies_and_goes_back():
    backbone = torch_backbone(tiny_loaded(patch_size=8), options=BackboneOptions(), blocks=(0, 1, 2, 3))
    network = SemanticFpn(backbone, num_classes=5, pyramid_channels=16).eval()
    program = SegmenterProgram(network, short=48, long=96)
    image = picture(60, 80)
    assert program.resized(60, 80) == (48, 64)
    assert program.resized(20, 80) == (24, 96)
    levels = interpolate(image[None].float() / 255, size=(48, 64), mode="bilinear", antialias=True)
    probabilities = interpolate(network(levels), size=(60, 80), mode="bilinear")[0].softmax(0)
    labels, scores = program(image)
    assert torch.equal(labels, probabilities.argmax(0))
    torch.testing.assert_close(scores, probabilities.amax(0))
    assert labels.unique().numel() > 1


@torch.no_grad()
def test_positions_by_products_of_matrices_are_dinos_and_only_for_the_time_of_an_export():
    loaded = tiny_loaded(patch_size=8, pos_resize="bicubic_dino", grid=(4, 5))
    vit = torch_backbone(loaded, options=BackboneOptions(), blocks=(0,)).network
    for grid in [(4, 5), (4, 4), (3, 7), (10, 5), (1, 1), (30, 22)]:
        expected = vit._positions(grid)
        with exportable(torch.nn.Sequential(vit)):
            torch.testing.assert_close(vit._positions(grid), expected)
    assert "_positions" not in vars(vit)
