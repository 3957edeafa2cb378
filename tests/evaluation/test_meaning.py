"""No perfect score from nothing: data that any features would fit, by hand."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import (
    BboxKnnConfig,
    ClusteringConfig,
    DiscoveryConfig,
    ImageKnnConfig,
    LinearProbeConfig,
    MaskedSourceConfig,
    RetrievalConfig,
    SeparabilityConfig,
    SourceConfig,
)
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.meaning import (
    cluster_warnings,
    judged_pixels,
    knn_warnings,
    reachable,
    require_classes,
    require_known,
    require_labels,
)
from flsl_jax.evaluation.protocols.discovery import box_iou
from flsl_jax.evaluation.tasks import open_task, run_task
from tests.mask_encoders import PATCH, SIZE, NoiseEncoder, scenes

SEGMENTATION = ("retrieval", "clustering", "linear_probe")


def _masks(root: Path, *masks: np.ndarray, **keys) -> MaskedSourceConfig:
    """Images of noise with these masks."""
    for number, mask in enumerate(masks):
        image = np.random.default_rng(number).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        for folder, pixels in (("images", image), ("masks", mask.astype(np.uint8))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return MaskedSourceConfig(images=str(root / "images"), masks=str(root / "masks"), **keys)


def _halves(left: int, right: int, size: int = SIZE) -> np.ndarray:
    """A mask of two ids side by side."""
    return np.repeat(np.array([left, right]), size // 2)[None].repeat(size, axis=0)


def _settings(task: str, train: MaskedSourceConfig, val: MaskedSourceConfig):
    sizes = {"size": SIZE, "fit": "square"}
    return {
        "retrieval": RetrievalConfig(train=train, val=val, k=5, **sizes),
        "clustering": ClusteringConfig(data=val, seeds=1, **sizes),
        "linear_probe": LinearProbeConfig(train=train, val=val, epochs=2, **sizes),
        "separability": SeparabilityConfig(data=val, **sizes),
    }[task]


def _open(task: str, train: MaskedSourceConfig, val: MaskedSourceConfig):
    return open_task(task, _settings(task, train, val), patch_size=PATCH, image_size=SIZE)


def _run(task: str, train: MaskedSourceConfig, val: MaskedSourceConfig):
    return run_task(task, _settings(task, train, val), encoder=NoiseEncoder(), batch_size=4).scores


@pytest.mark.parametrize("task", [*SEGMENTATION, "separability"])
def test_masks_of_0_and_255_are_refused_with_the_flag_that_makes_them_two_classes(tmp_path, task):
    data = _masks(tmp_path, *[_halves(0, 255)] * 3)
    key = f"{task}.{'data' if task in ('clustering', 'separability') else 'train'}"
    with pytest.raises(UserError) as error:
        _open(task, data, data)
    message = str(error.value)
    assert "one class alone occurs (0; 50.0 % of the pixels are ignored), so that any features would score 1" in message
    assert f'its masks hold 0 and 255 alone: if 255 is a class there, ignore no id, --{key}.ignore="()"' in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("task", SEGMENTATION)
def test_the_flag_makes_two_classes_and_noise_is_far_from_perfect(tmp_path, task):
    data = _masks(tmp_path / "train", *[_halves(0, 255)] * 3, ignore=())
    scores = _run(task, data, _masks(tmp_path / "val", *[_halves(255, 0)] * 3, ignore=()))
    assert scores.judged == {"classes": 2, "ignored_share": 0}
    assert scores.metrics["miou"] < 0.7


@pytest.mark.parametrize("task", SEGMENTATION)
@pytest.mark.parametrize(
    ("ids", "ignore", "message"),
    [
        (
            (0, 0),
            (255,),
            r"one class alone occurs \(0; 0\.0 % of the pixels are ignored\).*; name masks of two classes",
        ),
        ((3, 7), (7,), r"one class alone occurs \(3; 50\.0 % of the pixels are ignored\).*or ignore other ids"),
        ((0, 255), (0,), r"one class alone occurs \(255; 50\.0 %.*masks hold 0 and 255 alone"),
        ((255, 255), (255,), "every pixel is ignored, so that nothing can be judged; its masks hold 255 alone"),
    ],
)
def test_fewer_than_two_classes_are_refused(tmp_path, task, ids, ignore, message):
    good = _masks(tmp_path / "good", _halves(3, 4), ignore=ignore)
    bad = _masks(tmp_path / "bad", _halves(*ids), _halves(*ids), ignore=ignore)
    with pytest.raises(UserError, match=message):
        _open(task, bad, bad)
    if task != "clustering":
        with pytest.raises(UserError, match=rf"--{task}\.val|ignored\)|every pixel"):
            _open(task, good, bad)


@pytest.mark.parametrize("task", SEGMENTATION)
def test_the_ignored_share_is_in_the_scores_and_much_of_it_is_a_warning(tmp_path, task):
    quarter = _halves(1, 2)
    quarter[: SIZE // 2, : SIZE // 2] = 255
    scores = _run(task, _masks(tmp_path / "a", *[_halves(1, 2)] * 2), _masks(tmp_path / "b", *[quarter] * 2))
    assert scores.judged == {"classes": 2, "ignored_share": 0.25}
    assert not [line for line in scores.warnings if "ignored" in line]
    most = np.where(np.arange(SIZE)[:, None] < SIZE // 2, 255, _halves(1, 2))
    scores = _run(task, _masks(tmp_path / "c", *[_halves(1, 2)] * 2), _masks(tmp_path / "d", *[most] * 2))
    assert scores.judged["ignored_share"] == 0.5
    assert any(line.startswith("50.0 % of the pixels of") for line in scores.warnings)


@pytest.mark.parametrize("task", ["retrieval", "linear_probe"])
def test_classes_that_never_occur_in_val_are_refused_and_some_that_train_lacks_are_told(tmp_path, task):
    train = _masks(tmp_path / "train", *[_halves(1, 2)] * 2)
    with pytest.raises(UserError, match=r"none of its classes occurs in .*train/masks, such as 3 here and 1 there"):
        _run(task, train, _masks(tmp_path / "other", *[_halves(3, 4)] * 2))
    scores = _run(task, train, _masks(tmp_path / "some", *[_halves(2, 4)] * 2))
    told = (
        "50.0 % of the judged pixels are of classes that train does not show (1, such as 4); none of them can be right"
    )
    assert told in scores.warnings


def test_what_the_crop_cuts_away_does_not_count(tmp_path):
    """Of 32 × 96 pixels the central square shows one of three classes."""
    wide = np.repeat(np.array([1, 2, 3]), 32)[None].repeat(32, axis=0)
    settings = ClusteringConfig(data=_masks(tmp_path, wide), size=32, fit="crop")
    with pytest.raises(UserError, match=r"one class alone occurs \(2"):
        open_task("clustering", settings, patch_size=PATCH, image_size=SIZE)
    open_task("clustering", dataclasses.replace(settings, fit="square"), patch_size=PATCH, image_size=SIZE)


def test_two_classes_are_looked_for_no_longer_than_needed(tmp_path):
    data = _masks(tmp_path, _halves(1, 1), _halves(2, 2), *[_halves(1, 2)] * 30)
    source, read = open_masked(data), []

    class Counting:
        name, digest = source.name, source.digest
        class_names, num_classes = source.class_names, source.num_classes

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            read.append(index)
            return source[index]

    require_classes(Counting(), None, key="data")
    assert {0, 1} <= set(read)
    assert len(read) < 25


def test_scenes_pass_and_a_memory_smaller_than_k_is_told():
    train, val = scenes(1, split="train"), scenes(2, split="val")
    settings = RetrievalConfig(train=train, val=val, k=65, size=SIZE)
    scores = run_task("retrieval", settings, encoder=NoiseEncoder(), batch_size=2).scores
    assert any("the memory has 64 patches, fewer than the k of 65" in line for line in scores.warnings)
    scores = run_task("retrieval", dataclasses.replace(settings, k=64), encoder=NoiseEncoder(), batch_size=2).scores
    assert not any("fewer than the k" in line for line in scores.warnings)


def test_counts_of_one_class_are_refused_whatever_was_read_before(tmp_path):
    source = open_masked(_masks(tmp_path, _halves(1, 2)))
    counts = np.zeros(source.num_classes, np.int64)
    counts[1] = 40
    with pytest.raises(UserError, match=r"one class alone occurs \(1; 60\.0 %"):
        judged_pixels(source, counts, pixels=100, key="data")
    with pytest.raises(UserError, match="none of its classes occurs in there"):
        require_known(source, None, np.arange(source.num_classes) == 9, train="there")


def test_so_many_clusters_that_they_repeat_the_tokens_are_told():
    assert cluster_warnings(27, tokens=270) == ()
    assert "28 clusters of 270 tokens" in cluster_warnings(28, tokens=270)[0]


def test_k_nn_by_hand():
    bank, good = np.arange(6), np.arange(6)
    assert knn_warnings(bank, good, size=6, k=6, key="knn") == ()
    (few,) = knn_warnings(bank, good, size=6, k=7, key="knn")
    assert few == "the bank has 6 rows, fewer than the k of 7: all of it votes on every question"
    (strange,) = knn_warnings(bank, np.array([0, 1, 7, -1]), size=6, k=6, key="knn")
    assert strange.startswith("2 of 4 images of val are of classes that train does not show")
    (one,) = knn_warnings(bank, np.array([3, 3]), size=6, k=6, key="knn")
    assert "val are all of one class" in one
    (five,) = knn_warnings(bank % 5, good % 5, size=6, k=6, key="knn")
    assert five.startswith("the bank has 5 classes: the five best are no test")
    with pytest.raises(UserError, match="knn: no image of val is of a class that the images of train show"):
        knn_warnings(bank, np.array([-1, 9]), size=6, k=6, key="knn")
    require_labels(iter([2, 2, 3]), name="n", key="k")
    with pytest.raises(UserError, match=r"n: the images of the bank are all of one class, .* in image_knn"):
        require_labels([2, 2], name="n", key="image_knn.train")


@pytest.fixture
def folders(tmp_path):
    for name, colour in (("a", 0), ("b", 200)):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (16, 16), (colour, number, 0)).save(tmp_path / name / f"{number}.png")
    return SourceConfig(root=str(tmp_path))


def test_an_image_bank_of_one_class_is_refused_and_a_small_one_told(folders):
    pixels = PixelEncoder(patch_size=8, image_size=16)
    one = ImageKnnConfig(train=dataclasses.replace(folders, limit=3), val=folders)
    with pytest.raises(UserError, match=r"bank are all of one class.*image_knn\.train, or raise its limit"):
        open_task("image_knn", one, patch_size=8, image_size=16)
    both = dataclasses.replace(one, train=folders, k=20)
    scores = run_task("image_knn", both, encoder=pixels, batch_size=4).scores
    assert scores.warnings[0].startswith("the bank has 6 rows, fewer than the k of 20")
    assert scores.warnings[1].startswith("the bank has 2 classes")


def test_a_bank_of_boxes_of_one_class_is_refused(folders, tmp_path):
    box = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>16</ymax></bndbox></object>"
    (tmp_path / "xml").mkdir()
    for number in range(2):
        objects = box.format("dog", 16) + box.format("cat", 4)  # both classes, but the larger box is of one
        (tmp_path / "xml" / f"{number}.xml").write_text(f"<annotation>{objects}</annotation>")
    root = dataclasses.replace(folders, root=str(tmp_path / "a"), boxes=str(tmp_path / "xml"))
    settings = BboxKnnConfig(train=root, val=root, modes=False)
    with pytest.raises(UserError, match="bank are all of one class"):
        run_task("bbox_knn", settings, encoder=PixelEncoder(patch_size=8, image_size=16), batch_size=4)
    for path in (tmp_path / "xml").iterdir():
        path.write_text(f"<annotation>{box.format('dog', 16)}</annotation>")
    with pytest.raises(UserError, match="bank are all of one class"):
        open_task("bbox_knn", settings, patch_size=8, image_size=16)


@pytest.mark.parametrize("task", ["bbox_knn", "discovery"])
def test_boxes_of_which_half_belong_to_no_image_are_told_in_the_result(folders, tmp_path, task):
    names = ["a/0.png", "b/0.png", "b/1.png", *(f"{number}x.png" for number in range(3))]
    images = [{"id": number, "file_name": name, "width": 16, "height": 16} for number, name in enumerate(names)]
    items = [{"id": n, "image_id": n, "category_id": n % 2, "bbox": [0, 0, 16, 16]} for n in range(6)]
    categories = [{"id": number, "name": str(number)} for number in range(2)]
    content = {"images": images, "annotations": items, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    data = dataclasses.replace(folders, boxes=str(tmp_path / "boxes.json"), limit=5)
    settings = {
        "bbox_knn": BboxKnnConfig(train=data, val=data, k=1, modes=False),
        "discovery": DiscoveryConfig(data=data),
    }
    scores = run_task(task, settings[task], encoder=PixelEncoder(patch_size=8, image_size=16), batch_size=4).scores
    assert any("boxes for 3 of 6 images; 3 of 6 names not in" in line for line in scores.warnings)


def test_boxes_in_reach_by_hand():
    """Patches of 16 px: a box of 4 × 4 shares 1/16 with a patch; one of 16 × 11 shares 11/16."""
    boxes = np.array([[2, 2, 6, 6], [16, 0, 32, 11], [0, 0, 32, 32], [24, 0, 40, 16]], np.float32)
    sizes = {"patch_size": 16, "width": 48, "height": 48}
    assert reachable(boxes, **sizes, iou=1 / 16).tolist() == [True] * 4
    assert reachable(boxes, **sizes, iou=0.5).tolist() == [False, True, True, True]
    assert reachable(boxes, **sizes, iou=0.69).tolist() == [False, False, True, False]


def test_boxes_in_reach_are_those_of_all_rectangles():
    rng = np.random.default_rng(0)
    width, height, patch = 45, 30, 8
    lines = [np.minimum(np.arange(0, side + patch, patch), side) for side in (width, height)]
    spans = [[pair for pair in itertools.combinations(line, 2) if pair[0] < pair[1]] for line in lines]
    all_boxes = np.array([[x0, y0, x1, y1] for x0, x1 in spans[0] for y0, y1 in spans[1]], np.float32)
    low, size = rng.uniform(0, 20, (60, 2)), rng.uniform(1, 25, (60, 2))
    boxes = np.concatenate([low, np.minimum(low + size, [width, height])], axis=1).astype(np.float32)
    best = box_iou(boxes, all_boxes).max(axis=1)
    for iou in (0.3, 0.5, 0.6, 0.7):
        expected = np.abs(best - iou) > 1e-6
        found = reachable(boxes, patch_size=patch, width=width, height=height, iou=iou)
        np.testing.assert_array_equal(found[expected], (best >= iou)[expected])
        assert 0 < found.sum() < 60
