"""Detectors on tiny backbones: they learn, their boxes lie in the image, and their parts are those of the papers."""

import pytest

torch = pytest.importorskip("torch")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")
from flsl_jax.transfer.networks.backbone import torch_backbone
from flsl_jax.transfer.networks.detectors import patch_detector, vitdet
from flsl_jax.transfer.networks.vit import BackboneOptions
from tests.transfer.tiny_backbones import tiny_loaded

FEW = {
    "rpn_pre_nms_top_n_train": 20,
    "rpn_post_nms_top_n_train": 8,
    "rpn_pre_nms_top_n_test": 20,
    "rpn_post_nms_top_n_test": 8,
    "box_batch_size_per_image": 4,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 5,
}
WINDOWS = BackboneOptions(window=3, global_blocks=(1, 3), relative_grid=(6, 6))


def detector(kind, *, masks, patch_size=16, sizes=(64,), max_size=96):
    torch.manual_seed(0)
    simple = kind is vitdet
    backbone = torch_backbone(
        tiny_loaded(patch_size=patch_size, noise=0.02),
        options=WINDOWS if simple else BackboneOptions(),
        blocks=(3,) if simple else (0, 1, 2, 3),
    )
    return kind(backbone, num_classes=3, masks=masks, sizes=sizes, max_size=max_size, channels=64, **FEW)


def example():
    """An image of 50 × 70 pixels with two squares, and its targets."""
    image = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(1)) * 0.2
    boxes = torch.tensor([[4.0, 6.0, 30.0, 32.0], [38.0, 20.0, 68.0, 48.0]])
    masks = torch.zeros(2, 50, 70, dtype=torch.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
        image[number, top:bottom, left:right] = 1.0
        masks[number, top:bottom, left:right] = 1
    return image, {"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks}


@pytest.mark.parametrize(
    ("kind", "masks", "patch_size"), [(patch_detector, False, 8), (patch_detector, True, 16), (vitdet, True, 16)]
)
def test_learns_one_image_and_finds_boxes_inside_it(kind, masks, patch_size):
    model, (image, target) = detector(kind, masks=masks, patch_size=patch_size).train(), example()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
    totals = []
    for _ in range(3):
        torch.manual_seed(1)  # the same anchors and proposals are drawn in every step
        losses = model([image], [target])
        assert ("loss_mask" in losses) == masks
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[2] < 0.95 * totals[0]
    assert model.backbone.backbone.pos_embed.grad.abs().sum() > 0
    with torch.no_grad():
        (found,) = model.eval()([image])
    assert 1 <= len(found["boxes"]) <= 5
    left, top, right, bottom = found["boxes"].unbind(1)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= 70).all()
    assert (bottom <= 50).all()
    assert (left < right).all()
    assert (top < bottom).all()
    assert set(found["labels"].tolist()) <= {1, 2, 3}
    if masks:
        assert found["masks"].shape == (len(found["boxes"]), 1, 50, 70)
        assert 0 <= found["masks"].min() <= found["masks"].max() <= 1


def test_an_image_without_boxes_is_a_training_image_too():
    model, (image, _) = detector(patch_detector, masks=True).train(), example()
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 50, 70, dtype=torch.uint8),
    }
    losses = model([image], [empty])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0


def test_images_are_padded_to_multiples_of_32_and_for_vitdet_to_squares():
    image, _ = example()
    patches, squares = detector(patch_detector, masks=False), detector(vitdet, masks=False)
    assert patches.eval().transform([image])[0].tensors.shape == (1, 3, 64, 96)
    assert squares.eval().transform([image])[0].tensors.shape == (1, 3, 96, 96)
    uneven = detector(vitdet, masks=False, max_size=90)
    assert uneven.eval().transform([image])[0].tensors.shape == (1, 3, 96, 96)


def test_pixels_are_normalised_as_in_pretraining_and_the_last_size_is_for_measuring():
    model, (image, _) = detector(patch_detector, masks=False, sizes=(32, 48), max_size=999), example()
    loaded = tiny_loaded()
    assert model.transform.image_mean == list(loaded.mean)
    assert model.transform.image_std == list(loaded.std)
    assert model.eval().transform([image])[0].image_sizes[0][0] == 48
    heights = {model.train().transform([image])[0].image_sizes[0][0] for _ in range(20)}
    assert heights == {32, 48}


def test_vitdet_has_two_convolutions_for_proposals_and_four_with_layer_norm_for_boxes_and_masks():
    model = detector(vitdet, masks=True)

    def names(part):
        return [type(layer).__name__ for layer in part.modules()]

    assert names(model.rpn.head.conv).count("Conv2d") == 2
    assert names(model.rpn.head.conv).count("LayerNorm2d") == 0
    for head in (model.roi_heads.box_head, model.roi_heads.mask_head):
        assert names(head).count("Conv2d") == names(head).count("LayerNorm2d") == 4
        assert all(layer.bias is None for layer in head.modules() if isinstance(layer, torch.nn.Conv2d))
    assert names(model.roi_heads.box_head).count("Linear") == 1
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_anchors_have_the_sides_of_eight_strides_in_three_ratios():
    anchors = detector(patch_detector, masks=False).rpn.anchor_generator.cell_anchors
    for number, of_level in enumerate(anchors):
        width, height = of_level[:, 2] - of_level[:, 0], of_level[:, 3] - of_level[:, 1]
        side = 32 * 2**number
        assert of_level[1].tolist() == [-side / 2, -side / 2, side / 2, side / 2]
        torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]), rtol=0.05, atol=0.0)
        torch.testing.assert_close((height * width).sqrt(), torch.full((3,), float(side)), rtol=0.05, atol=0.0)


def test_a_landscape_image_in_a_square_does_not_change_where_later_boxes_are_pooled():
    model, image = detector(vitdet, masks=True, sizes=(96,)).eval(), torch.rand(3, 96, 64)
    with torch.no_grad():
        (first,) = detector(vitdet, masks=True, sizes=(96,)).eval()([image])
        model([torch.rand(3, 64, 96)])
        (later,) = model([image])
    assert all(torch.equal(first[name], later[name]) for name in first)
    assert model.roi_heads.box_roi_pool.scales == model.roi_heads.mask_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


@pytest.mark.parametrize("kind", [patch_detector, vitdet])
def test_in_half_precision_boxes_stay_whole(kind):
    """Proposals and boxes that are found are float32 numbers that bfloat16 does not hold."""
    model, (image, _) = detector(kind, masks=False).eval(), example()
    proposals = []
    model.roi_heads.register_forward_pre_hook(lambda module, inputs: proposals.extend(inputs[1]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (found,) = model([image])
    for boxes in (*proposals, found["boxes"]):
        assert boxes.dtype == torch.float32
        assert (boxes != boxes.bfloat16().float()).any()
