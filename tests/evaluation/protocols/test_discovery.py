"""Object discovery against plain loops, by hand, and end to end on images of several sizes."""

import dataclasses
import io

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flsl_jax.config import DiscoveryConfig, SourceConfig
from flsl_jax.data.boxes import Boxes
from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.data.records import Record
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import NetworkEncoder, PixelEncoder
from flsl_jax.evaluation.protocols import discovery
from flsl_jax.evaluation.protocols.discovery import DiscoveryData, box_iou, evaluate, lost, open_data, region_box
from flsl_jax.models import Architecture, ViT, pad_to_patch


def _lost_reference(features, *, k_patches):
    """LOST by its description, one patch after another."""
    height, width, _ = features.shape
    patches = {(y, x): features[y, x] for y in range(height) for x in range(width)}
    degree = {p: sum(float(f @ patches[q]) > 0 for q in patches if q != p) for p, f in patches.items()}
    order = sorted(patches, key=lambda p: (degree[p], p))
    seed = order[0]
    similar = [p for p in order[:k_patches] if patches[seed] @ patches[p] > 0]
    inside = {p for p in patches if sum(patches[p] @ patches[q] for q in similar) > 0}
    region, waiting = set(), [seed]
    while waiting:
        y, x = waiting.pop()
        if (y, x) in inside and (y, x) not in region:
            region.add((y, x))
            waiting += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return seed, region


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 100]), st.sampled_from([2, 3, 8]))
def test_lost_is_that_of_plain_loops(seed, k_patches, channels):
    rng = np.random.default_rng(seed)
    features = (rng.standard_normal((5, 7, channels)) + 0.7 * rng.standard_normal(channels)).astype(np.float32)
    found = lost(features, k_patches=k_patches)
    place, region = _lost_reference(features.astype(np.float64), k_patches=k_patches)
    assert found.patch == place
    assert {tuple(map(int, patch)) for patch in np.argwhere(found.region)} == region


def test_lost_finds_the_small_thing_by_hand():
    features = np.zeros((6, 8, 2), np.float32)
    features[:] = [1, -0.2]
    features[2:4, 3:6] = [-0.2, 1]  # 6 patches, positive with each other only; the background's 42 likewise
    features[5, 7] = [-0.1, 1]  # alike, but not connected
    found = lost(features, k_patches=100)
    assert found.patch == (2, 3)
    expected = np.zeros((6, 8), bool)
    expected[2:4, 3:6] = True
    np.testing.assert_array_equal(found.region, expected)
    np.testing.assert_array_equal(region_box(found.region, patch_size=8, height=48, width=43), [24, 16, 43, 32])


def test_features_of_zeros_give_one_patch():
    found = lost(np.zeros((2, 3, 4), np.float32), k_patches=100)
    assert (found.patch, found.region.sum()) == ((0, 0), 1)


def test_overlaps_by_hand():
    boxes = np.array([[0, 0, 4, 4], [10, 10, 12, 12]], np.float32)
    others = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4]], np.float32)
    np.testing.assert_allclose(box_iou(boxes, others), [[1, 8 / 24, 0], [0, 0, 0]], atol=1e-6)
    assert box_iou(np.zeros((0, 4), np.float32), others).shape == (0, 3)


def test_tallies_by_hand():
    tally = discovery._Tally()
    truth = np.array([[0, 0, 4, 4], [10, 0, 14, 4]], np.float32)
    tally.add(np.array([[0, 0, 4, 4], [0, 0, 4, 3], [20, 20, 30, 30]], np.float32), truth, iou=0.5)
    tally.add(np.zeros((0, 4), np.float32), truth[:1], iou=0.5)
    assert tally.shares() == {"corloc": 1 / 2, "recall": 1 / 3, "precision": 2 / 3, "boxes": 3 / 2}


@dataclasses.dataclass(frozen=True)
class _Records:
    records: tuple[Record, ...]
    class_names: tuple[str, ...] = ("thing",)
    name: str = "given"
    digest: str = ""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def _dark_thing(height, width, box, *, encoded=False):
    """A black thing on white."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 0
    if encoded:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        image = file.getvalue()
    boxes = Boxes(xyxy=np.array([box], np.float32), labels=np.zeros(1, np.int64))
    return Record(image=image, name=f"{height}x{width}", boxes=boxes)


def test_plain_things_are_found_in_images_of_several_sizes(monkeypatch):
    """Of a thing on patches' borders its box is exact, whatever the image's size and padding; others are not found."""
    records = (
        _dark_thing(40, 56, (8, 16, 24, 32)),
        _dark_thing(37, 50, (16, 8, 32, 24), encoded=True),
        _dark_thing(40, 56, (40, 8, 56, 24)),
        Record(image=np.zeros((16, 16, 3), np.uint8), name="nothing"),
        dataclasses.replace(
            _dark_thing(40, 56, (8, 16, 24, 32)),
            boxes=Boxes(xyxy=np.array([[30, 0, 50, 8]], np.float32), labels=np.zeros(1, np.int64)),
        ),
    )
    monkeypatch.setattr(discovery, "open_source", lambda config: _Records(records))
    encoder = PixelEncoder(patch_size=8, image_size=64)
    data = open_data(DiscoveryConfig(), patch_size=8, image_size=64)
    assert data.groups == {(5, 7): [0, 1, 2, 4]}
    scores = evaluate(encoder, DiscoveryConfig(), batch_size=4)
    assert scores.metrics["corloc"] == 3 / 4
    assert scores.metrics["modes_corloc"] == 3 / 4
    assert scores.metrics["modes_recall"] == 3 / 4
    assert 2 <= scores.metrics["modes_regions"] <= 3
    assert next(iter(scores.metrics)) == "corloc"
    assert scores.rows[-1] == {"method": "whole image", "corloc": 0, "recall": 0, "precision": 0, "boxes": 1}
    assert evaluate(encoder, DiscoveryConfig(), batch_size=1, data=data) == scores


@pytest.mark.parametrize("kind", ["keys", "queries", "values"])
def test_lost_compares_what_the_last_block_does_of_the_image_padded_after_normalisation(kind):
    model = ViT(Architecture(patch_size=8, width=16, depth=2, num_heads=2, grid=(4, 4), num_prefix=1), rngs=nnx.Rngs(0))
    encoder = NetworkEncoder(model, name="tiny")
    image = np.random.default_rng(0).integers(0, 256, (20, 29, 3), dtype=np.uint8)
    boxes = Boxes(xyxy=np.array([[0, 0, 9, 9]], np.float32), labels=np.zeros(1, np.int64))
    data = DiscoveryData(source=_Records((Record(image=image, name="r", boxes=boxes),)), groups={(3, 4): [0]})
    (found,) = discovery._encoded(encoder, data, DiscoveryConfig(features=kind), batch_size=1)
    levels = jnp.float32((image / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD))[None]
    padded = pad_to_patch(levels, patch_size=8)
    inputs = model.attention_inputs(padded)
    expected = {"keys": inputs.key, "queries": inputs.query, "values": inputs.value}[kind][0, 1:].reshape(3, 4, 16)
    np.testing.assert_allclose(found.compared, expected, atol=1e-5)
    np.testing.assert_allclose(found.tokens, model(padded)[0], atol=1e-5)
    assert (found.height, found.width) == (20, 29)


def test_scenes_and_bad_input(monkeypatch):
    scenes = DiscoveryConfig(data=SourceConfig(name="scenes", count=6, scene_size=64, split="test"))
    scores = evaluate(PixelEncoder(patch_size=8, image_size=64), scenes, batch_size=4)
    assert all(0 <= value <= 1 for name, value in scores.metrics.items() if name != "modes_regions")
    nothing = Record(image=np.zeros((16, 16, 3), np.uint8), name="nothing")
    for record, message in (
        (nothing, "no image has a box"),
        (dataclasses.replace(_dark_thing(40, 56, (8, 8, 99, 24)), name="wide"), r"wide: a box reaches to \(99, 24\)"),
        (dataclasses.replace(_dark_thing(8, 8, (0, 0, 4, 4)), image=b"no image", name="odd"), "odd: not an image"),
    ):
        monkeypatch.setattr(discovery, "open_source", lambda config, record=record: _Records((record,)))
        with pytest.raises(UserError, match=message):
            open_data(scenes, patch_size=8, image_size=64)


def test_boxes_that_nothing_can_hit_are_refused_and_their_share_is_told(monkeypatch):
    """In patches of 8 px a box of 4 × 4 shares a quarter with the patch around it."""
    settings = DiscoveryConfig(data=SourceConfig(name="scenes", count=1, scene_size=16))
    encoder = PixelEncoder(patch_size=8, image_size=64)
    small, large = _dark_thing(40, 56, (8, 8, 12, 12)), _dark_thing(40, 56, (8, 8, 24, 24))
    monkeypatch.setattr(discovery, "open_source", lambda config: _Records((small,)))
    with pytest.raises(
        UserError, match=r"no box can be hit: patches of 8 px give none of the 1 boxes an overlap of 0\.5"
    ):
        open_data(settings, patch_size=8, image_size=64)
    assert open_data(dataclasses.replace(settings, iou=0.25), patch_size=8, image_size=64).in_reach == (1, 1)
    monkeypatch.setattr(discovery, "open_source", lambda config: _Records((small, large, large)))
    scores = evaluate(encoder, settings, batch_size=4)
    assert scores.judged == {"boxes_in_reach": pytest.approx(2 / 3), "images_in_reach": pytest.approx(2 / 3)}
    assert scores.warnings == []
    monkeypatch.setattr(discovery, "open_source", lambda config: _Records((small, large)))
    (warning,) = evaluate(encoder, settings, batch_size=4).warnings
    assert warning == "only 50.0 % of the images have a box that patches of 8 px can hit"
