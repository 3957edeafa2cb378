"""Trained networks as ONNX files: they run without this package and find what the networks find, or are not written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")
from pycocotools import mask as rle

from flsl_jax.errors import UserError
from flsl_jax.transfer import exporting
from flsl_jax.transfer.exporting import check_export, count_alike, export_trained, run_snippet
from flsl_jax.transfer.predicting import detect_objects, segment
from flsl_jax.transfer.trained import load_trained
from flsl_jax.transfer.training import open_data
from tests.transfer.test_fine_tuning import run, tiny
from tests.transfer.test_predicting import learned

CPU = torch.device("cpu")


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def as_input(image):
    return {"image": np.ascontiguousarray(image.transpose(2, 0, 1))}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A detector that has begun to learn two scenes, with masks, its images, and its file."""
    workdir = tmp_path_factory.mktemp("detector")
    config, _ = learned("mask_rcnn", workdir, steps=14)
    trained = load_trained(workdir, device=CPU)
    return trained, open_data(config).val, export_trained(trained, workdir / "deeper" / "model.onnx")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("segmenter")
    config, _ = learned("semantic_fpn", workdir)
    trained = load_trained(workdir, device=CPU)
    return trained, open_data(config).val, export_trained(trained, workdir / "model.onnx")


def test_a_detectors_file_finds_what_the_detector_finds_in_images_of_any_size(detector):
    trained, val, report = detector
    session = session_of(report.path)
    images = [val.image(0), val.image(1)]
    counts = []
    for image in [*images, np.vstack([images[0], images[1][:20]]), np.zeros((5, 90, 3), np.uint8)]:
        boxes, labels, scores, masks = session.run(None, as_input(image))
        found = detect_objects(trained, image)
        counts.append(len(found))
        assert len(boxes) == len(labels) == len(scores) == len(masks) == len(found)
        assert masks.shape[1:] == image.shape[:2]
        for number, item in enumerate(found):
            left, top, width, height = item["bbox"]
            np.testing.assert_allclose(boxes[number], [left, top, left + width, top + height], atol=0.01)
            assert scores[number] == pytest.approx(item["score"], abs=1e-4)
            assert trained.category_ids[labels[number]] == item["category_id"]
            assert (masks[number] == rle.decode(item["segmentation"])).mean() > 0.99
    assert min(counts[:2]) >= 1
    assert all("detections are the network's" in line for line in report.differences)


def test_a_segmenters_file_gives_each_pixels_class_at_the_images_own_size(segmenter):
    trained, val, report = segmenter
    session = session_of(report.path)
    for image in (val[0].image, np.ascontiguousarray(val[1].image[:30]), np.zeros((5, 90, 3), np.uint8)):
        labels, scores = session.run(None, as_input(image))
        assert labels.shape == scores.shape == image.shape[:2]
        assert (labels == segment(trained, image)).mean() > 0.99
        assert 1 / len(trained.class_names) <= scores.min() <= scores.max() <= 1
    assert (session.run(None, as_input(val[0].image))[0] == val[0].mask).mean() > 0.9


def test_a_vitdets_file_is_the_network_too(tmp_path):
    backbone = {"kind": "faster_rcnn", "pyramid": "simple", "window": 3, "global_blocks": (1,), "relative_grid": 6}
    config = tiny("faster_rcnn", network=backbone | {"channels": 16}, augment={"sizes": (64,), "max_size": 96}, steps=1)
    run(config, tmp_path, patch_size=16)
    report = export_trained(load_trained(tmp_path, device=CPU), tmp_path / "model.onnx")
    assert len(report.differences) == 2
    assert len(session_of(report.path).run(None, as_input(np.zeros((30, 50, 3), np.uint8)))) == 3


def test_the_printed_code_runs_the_file_without_this_package_and_without_pytorch(detector, tmp_path):
    trained, val, report = detector
    Image.fromarray(val.image(0)).save(tmp_path / "photo.jpg", quality=100, subsampling=0)
    code = report.snippet + (
        "\nimport sys\nassert not {'torch', 'flsl_jax', 'jax'} & set(sys.modules)"
        "\nprint(json.dumps([names[labels[0]], boxes[0].tolist(), float(scores[0])]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    name, box, score = json.loads(done.stdout)
    decoded = np.asarray(Image.open(tmp_path / "photo.jpg"))
    best = detect_objects(trained, decoded)[0]
    assert trained.category_ids[trained.class_names.index(name)] == best["category_id"]
    np.testing.assert_allclose(box[:2], best["bbox"][:2], atol=0.05)
    assert score == pytest.approx(best["score"], abs=1e-3)


def test_the_page_has_the_code_that_is_printed():
    page = (Path(__file__).parents[2] / "docs" / "transfer.md").read_text()
    assert f"```python\n{run_snippet(Path('boxes.onnx'), outputs=('boxes', 'labels', 'scores'))}\n```" in page


def test_the_file_says_what_it_is(detector, segmenter):
    trained, _, report = detector
    values = session_of(report.path).get_modelmeta().custom_metadata_map
    assert json.loads(values["class_names"]) == list(trained.class_names)
    assert json.loads(values["category_ids"]) == list(trained.category_ids)
    assert json.loads(values["mean"]) == trained.network.transform.image_mean
    assert json.loads(values["resized_to"]) == {"short_side": 48, "long_side_at_most": 48}
    assert (values["task"], values["score_threshold"], values["objects_at_most"]) == ("mask_rcnn", "0.05", "100")
    assert list(json.loads(values["outputs"])) == ["boxes", "labels", "scores", "masks"]
    trained, _, report = segmenter
    session = session_of(report.path)
    values = session.get_modelmeta().custom_metadata_map
    assert json.loads(values["class_names"]) == list(trained.class_names)
    assert list(json.loads(values["outputs"])) == ["labels", "scores"]
    np.testing.assert_allclose(json.loads(values["std"]), trained.network.std.flatten())
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("image", [3, "height", "width"])]
    assert [value.shape for value in session.get_outputs()] == [["height", "width"]] * 2


def test_a_file_that_computes_something_else_is_not_written(segmenter, tmp_path, monkeypatch):
    trained, _, report = segmenter
    monkeypatch.setattr(exporting, "_onnx_model", lambda program, trained: onnx.load(report.path))
    for network in trained.network.heads:
        monkeypatch.setattr(network[0].weight, "data", -network[0].weight.data)
    with pytest.raises(UserError, match=r"computes something else than the trained one \(.* of pixels alike"):
        export_trained(trained, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_detections_are_alike_by_label_score_box_and_mask():
    boxes = np.array([[0, 0, 9, 9], [2, 3, 8, 7]], np.float32)
    probabilities = np.zeros((2, 1, 10, 10), np.float32)
    probabilities[0, 0, :5] = 0.5
    expected = {
        "boxes": boxes,
        "labels": np.array([1, 0]),
        "scores": np.array([0.9, 0.4]),
        "masks": probabilities,
    }
    same = expected | {"masks": probabilities[:, 0] >= 0.5}
    assert count_alike(same, expected, size=(10, 10)) == 2
    turned = {name: value[::-1] for name, value in same.items()}
    assert count_alike(turned, expected, size=(10, 10)) == 2
    changes = {"labels": np.array([2, 0]), "scores": np.array([0.8, 0.4]), "boxes": boxes + np.array([[0.1], [0]])}
    for name, value in (changes | {"masks": np.zeros_like(same["masks"])}).items():
        assert count_alike(same | {name: value}, expected, size=(10, 10)) == 1, name


def test_what_cannot_be_written_is_one_line_before_anything_is_read(tmp_path, monkeypatch):
    there = tmp_path / "there.onnx"
    there.write_text("x")
    with pytest.raises(UserError, match=r"there.onnx exists; name another file, or replace it with --overwrite"):
        check_export(there, overwrite=False)
    check_export(there, overwrite=True)
    with pytest.raises(UserError, match=r"--export=.*x.pt2: expected a name that ends in .onnx"):
        check_export(tmp_path / "x.pt2", overwrite=False)
    with pytest.raises(UserError, match="is not a folder that can be written to"):
        check_export(there / "x.onnx", overwrite=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime is not installed; pip install onnx onnxruntime onnxscript"):
        check_export(tmp_path / "x.onnx", overwrite=False)


def test_the_command_refuses_a_folder_that_is_no_run_in_one_line(tmp_path):
    command = [sys.executable, "-m", "tests.transfer.command", f"--workdir={tmp_path}", f"--export={tmp_path}/x.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "name the workdir of a run of flsl_jax.transfer" in done.stderr
