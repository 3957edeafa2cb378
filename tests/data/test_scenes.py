"""Scenes: repeatable, exact in boxes and masks, and told apart by structure instead of colour."""

import pickle

import numpy as np
import pytest

from flsl_jax.data import scenes
from flsl_jax.data.records import Record, Source
from flsl_jax.data.scenes import CLASS_NAMES, Scenes
from flsl_jax.errors import UserError


@pytest.fixture(scope="module")
def records() -> list[Record]:
    source = Scenes(count=300, size=48)
    return [source[index] for index in range(300)]


def test_a_scene_is_the_same_in_any_order_and_process() -> None:
    source = Scenes(count=20, size=32)
    copy = pickle.loads(pickle.dumps(source))
    assert isinstance(source, Source)
    for index in (7, 0, 19, 7):
        ours, theirs = source[index], copy[index]
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.boxes.xyxy, theirs.boxes.xyxy)
        assert (ours.label, ours.name) == (theirs.label, theirs.name)
    longer = Scenes(count=10**9, size=32)
    np.testing.assert_array_equal(longer[3].image, source[3].image)
    assert longer[10**9 - 1].image.shape == (32, 32, 3)


def test_splits_seeds_and_indices_have_scenes_of_their_own() -> None:
    images = [Scenes(count=8, size=16, split=split)[i].image for split in ("train", "val", "test") for i in range(8)]
    images += [Scenes(count=8, size=16, seed=1)[i].image for i in range(8)]
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("size", [16, 33, 96])
def test_boxes_are_tight_around_the_masks(size: int) -> None:
    source = Scenes(count=15, size=size, split="val")
    for index in range(15):
        record, masks = source[index], source.masks(index)
        assert record.image.shape == (size, size, 3)
        assert masks.instances.max() == len(record.boxes.labels)
        for number, (box, label) in enumerate(zip(record.boxes.xyxy, record.boxes.labels), start=1):
            rows, columns = np.nonzero(masks.instances == number)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert set(masks.classes[rows, columns]) == {label + 1}
        np.testing.assert_array_equal(masks.classes == 0, masks.instances == 0)
        areas = (record.boxes.xyxy[:, 2:] - record.boxes.xyxy[:, :2]).prod(axis=1)
        assert record.label == record.boxes.labels[areas.argmax()]


def test_a_scene_has_the_same_layout_at_every_size() -> None:
    small, large = Scenes(count=10, size=64), Scenes(count=10, size=256)
    for index in range(10):
        np.testing.assert_array_equal(small[index].boxes.labels, large[index].boxes.labels)
        np.testing.assert_allclose(4 * small[index].boxes.xyxy, large[index].boxes.xyxy, atol=8)


def test_objects_are_seen_where_the_mask_says() -> None:
    source = Scenes(count=30, size=64)
    for index in range(30):
        image, instances = source[index].image.astype(float), source.masks(index).instances
        for number in range(1, instances.max() + 1):
            inside = image[instances == number]
            # Along the dark-light line of its two colours an object varies; across, there is only grain (at most 6).
            _, deviations, _ = np.linalg.svd(inside - inside.mean(axis=0), full_matrices=False)
            assert deviations[1] / np.sqrt(len(inside)) < 9
    assert all((mask(*np.meshgrid(*[np.linspace(-3, 3, 301)] * 2)) <= _within_reach()).all() for mask in _shapes())


def _shapes() -> list:
    return list(scenes._SHAPES.values())


def _within_reach() -> np.ndarray:
    x, y = np.meshgrid(*[np.linspace(-3, 3, 301)] * 2)
    return np.hypot(x, y) <= scenes._REACH


def test_classes_are_equally_frequent(records: list[Record]) -> None:
    labels = np.concatenate([record.boxes.labels for record in records])
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    expected = len(labels) / len(CLASS_NAMES)
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected)


def test_the_hue_of_an_object_tells_its_class_and_its_brightness_does_not(records: list[Record]) -> None:
    colors, labels = [], []
    source = Scenes(count=300, size=48)
    for index, record in enumerate(records):
        instances = source.masks(index).instances
        for number, label in enumerate(record.boxes.labels, start=1):
            colors.append(record.image[instances == number].mean(axis=0))
            labels.append(label)
    brightness = np.mean(colors, axis=1, keepdims=True)
    chance = 1 / len(CLASS_NAMES)
    assert _nearest_neighbour_accuracy(colors - brightness, labels) > 0.9
    above_chance = _nearest_neighbour_accuracy(brightness, labels) - chance
    assert above_chance < 4 * np.sqrt(chance * (1 - chance) / len(labels))


def _nearest_neighbour_accuracy(features: np.ndarray, labels: list[int]) -> float:
    distance = np.square(features[:, None] - features[None]).sum(axis=-1)
    np.fill_diagonal(distance, np.inf)
    labels = np.array(labels)
    return (labels[distance.argmin(axis=1)] == labels).mean()


def test_a_film_starts_with_its_scene_and_moves_smoothly() -> None:
    source = Scenes(count=12, size=64)
    for index in range(12):
        film = source.sequence(index, frames=6)
        np.testing.assert_array_equal(film.images[0], source[index].image)
        np.testing.assert_array_equal(film.instances[0], source.masks(index).instances)
        # Each object moves by at most 2 % of the side in each direction, 0.06 rad and 1.5 % of growth a frame.
        changed = (film.instances[1:] != film.instances[:-1]).mean(axis=(1, 2))
        assert (changed > 0).all()
        assert (changed < 0.15).all()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"count": 0, "size": 64}, "data.count is 0"),
        ({"count": 1, "size": 8}, "data.scene_size is 8"),
        ({"count": 1, "size": 64, "split": "dev"}, 'split is "dev"'),
    ],
)
def test_wrong_settings_are_named(arguments: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Scenes(**arguments)


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"record {index} of 5"):
        Scenes(count=5, size=16)[index]
