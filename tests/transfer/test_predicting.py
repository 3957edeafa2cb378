"""A trained model, loaded again: it predicts what it was measured by, on any folder, and says what it cannot do."""

import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators
from tests.transfer.tiny_backbones import as_loaded

operators.install()
pytest.importorskip("torchvision")

from flax import nnx

from flsl_jax.errors import UserError
from flsl_jax.models import Architecture, ViT
from flsl_jax.transfer.judging.measuring import average_precision, detect
from flsl_jax.transfer.networks.backbone import torch_backbone
from flsl_jax.transfer.networks.building import backbone_options, default_blocks
from flsl_jax.transfer.predicting import predict_folder, segment
from flsl_jax.transfer.trained import load_trained
from flsl_jax.transfer.training import fine_tune, open_data
from tests.transfer.test_fine_tuning import run, tiny


def learned(kind, workdir, *, steps=40):
    """A run that has learned two scenes by heart."""
    scenes = {"name": "scenes", "count": 2, "scene_size": 48, "split": "train"}
    config = tiny(
        kind,
        steps=steps,
        log_every=steps,
        data=dict.fromkeys(("train", "val", "train_masks", "val_masks"), scenes),
        augment={"flip": 0.0, "sizes": (48,), "max_size": 48},
        optimizer={"lr": 3e-3, "warmup_steps": 5},
    )
    return config, run(config, workdir)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("detector")
    return workdir, *learned("mask_rcnn", workdir)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("segmenter")
    return workdir, *learned("semantic_fpn", workdir)


def photos(folder, images):
    (folder / "deeper").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "deeper" / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return str(folder)


def test_a_loaded_detector_has_the_ap_that_the_run_measured(detector):
    workdir, config, outcome = detector
    trained = load_trained(workdir)
    val = open_data(config).val
    found = detect(trained.network, val, device=trained.device, indices=range(len(val)))
    assert average_precision(val, found) == outcome.metrics
    assert trained.class_names == val.class_names


def test_a_detectors_results_are_coco_results_with_pictures(detector, tmp_path, caplog):
    workdir, config, _ = detector
    val = open_data(config).val
    folder = photos(tmp_path / "photos", [val.image(0), val.image(1), np.zeros((30, 70, 3), np.uint8)])
    trained = load_trained(workdir)
    assert predict_folder(trained, folder, tmp_path / "out", score=0.3) == 3
    assert "left out: broken.jpg" in caplog.text
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [image["file_name"] for image in images["images"]] == ["deeper/0.png", "deeper/1.png", "deeper/2.png"]
    assert [category["name"] for category in images["categories"]] == list(val.class_names)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    ids = {image["id"]: number for number, image in enumerate(images["images"])}
    on_val = [result | {"image_id": ids[result["image_id"]]} for result in results if ids[result["image_id"]] < 2]
    expected = detect(trained.network, val, device=trained.device, indices=range(2))
    assert on_val == expected
    with Image.open(tmp_path / "out" / "pictures" / "deeper" / "2.png") as picture:
        assert picture.size == (13 * 70, 13 * 30)
    with pytest.raises(UserError, match="has files in it; name another folder"):
        predict_folder(trained, folder, tmp_path / "out", score=0.3)


def test_a_segmenters_masks_are_its_classes(segmenter, tmp_path):
    workdir, config, _ = segmenter
    source = open_data(config).val
    folder = photos(tmp_path / "photos", [source[0].image, source[1].image])
    trained = load_trained(workdir)
    assert predict_folder(trained, folder, tmp_path / "out", score=0.5) == 2
    for number in range(2):
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "deeper" / f"{number}.png"))
        np.testing.assert_array_equal(mask, segment(trained, source[number].image))
        assert (mask == source[number].mask).mean() > 0.9
        assert (tmp_path / "out" / "pictures" / "deeper" / f"{number}.png").exists()


def test_a_run_does_not_go_on_with_another_backbone(segmenter):
    workdir, config, _ = segmenter
    arch = Architecture(patch_size=8, width=48, depth=2, num_heads=2, grid=(4, 4))
    options, blocks = backbone_options(config.network), default_blocks(config.network, depth=2)
    other = torch_backbone(as_loaded(ViT(arch, rngs=nnx.Rngs(0))), options=options, blocks=blocks)
    with pytest.raises(UserError, match=r"begun with another backbone or other classes \(architecture of model.json"):
        fine_tune(config, backbone=other, workdir=workdir)


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    with pytest.raises(
        UserError, match=r"model.json cannot be read .*; name the workdir of a run of flsl_jax.transfer"
    ):
        load_trained(tmp_path)
