"""Scenes of both kinds: repeatable, exact in boxes and masks; what tells their classes and what does not."""

import dataclasses
import hashlib
import pickle

import numpy as np
import pytest

from flsl_jax.data.records import Record, Source
from flsl_jax.data.sources.scene_kinds import EVEN_TEXTURES, KINDS, REACH, SHAPES
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.errors import UserError

CLASS_NAMES = KINDS["hues"].class_names
BOTH_KINDS = pytest.mark.parametrize("kind", list(KINDS))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    source = Scenes(count=300, size=48)
    return [source[index] for index in range(300)]


@BOTH_KINDS
def test_a_scene_is_the_same_in_any_order_and_process(kind: str) -> None:
    source = Scenes(count=20, size=32, kind=kind)
    copy = pickle.loads(pickle.dumps(source))
    assert isinstance(source, Source)
    for index in (7, 0, 19, 7):
        ours, theirs = source[index], copy[index]
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.boxes.xyxy, theirs.boxes.xyxy)
        assert (ours.label, ours.name) == (theirs.label, theirs.name)
    longer = Scenes(count=10**9, size=32, kind=kind)
    np.testing.assert_array_equal(longer[3].image, source[3].image)
    assert longer[10**9 - 1].image.shape == (32, 32, 3)


def test_scenes_of_hues_are_those_of_the_first_version_to_the_bit() -> None:
    """Recorded numbers are of these scenes; this digest is never changed."""
    digest = hashlib.sha256()
    for size, split, seed in ((33, "train", 0), (64, "val", 3), (128, "test", 0)):
        source = Scenes(count=50, size=size, split=split, seed=seed)
        for index in range(0, 50, 7):
            record, masks, film = source[index], source.masks(index), source.sequence(index, frames=3)
            boxes = record.boxes.xyxy, record.boxes.labels
            for array in (record.image, *boxes, masks.instances, masks.classes, film.images, film.instances):
                digest.update(array.tobytes())
            digest.update(f"{record.name} {record.label}".encode())
    assert digest.hexdigest() == "3f6c9a577edcdfc4d0139e711f4dcbac4326978bc72c9e7bb9b6455d03e41467"


def test_kinds_splits_seeds_and_indices_have_scenes_of_their_own() -> None:
    splits = [(split, kind) for split in ("train", "val", "test") for kind in KINDS]
    images = [Scenes(count=8, size=16, split=split, kind=kind)[i].image for split, kind in splits for i in range(8)]
    images += [Scenes(count=8, size=16, seed=1, kind=kind)[i].image for kind in KINDS for i in range(8)]
    assert len({image.tobytes() for image in images}) == len(images)


@BOTH_KINDS
@pytest.mark.parametrize("size", [16, 33, 96])
def test_boxes_are_tight_around_the_masks(size: int, kind: str) -> None:
    source = Scenes(count=15, size=size, split="val", kind=kind)
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


@BOTH_KINDS
def test_a_scene_has_the_same_layout_at_every_size(kind: str) -> None:
    small, large = Scenes(count=10, size=64, kind=kind), Scenes(count=10, size=256, kind=kind)
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


def test_no_shape_is_cut_off_by_the_window_that_it_is_drawn_in() -> None:
    x, y = np.meshgrid(*[np.linspace(-3, 3, 301)] * 2)
    assert all((shape(x, y) <= (np.hypot(x, y) <= REACH)).all() for shape in SHAPES.values())


@BOTH_KINDS
def test_classes_are_equally_frequent(kind: str) -> None:
    source = Scenes(count=300, size=48, kind=kind)
    labels = np.concatenate([source[index].boxes.labels for index in range(300)])
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


@pytest.mark.parametrize("name", list(EVEN_TEXTURES))
def test_textures_that_should_be_even_have_mean_0_and_variance_1(name: str) -> None:
    u, v = np.meshgrid(*[(np.arange(1200) + 0.5) / 200] * 2)
    values = EVEN_TEXTURES[name](u + 0.3, v + 0.7)
    diagonal = name in ("slanted", "tilted", "zigzag")  # these have no whole number of periods in the 6 × 6 square
    assert values.mean() == pytest.approx(0, abs=0.05 if diagonal else 0.01)
    assert values.var() == pytest.approx(1, abs=0.05 if diagonal else 0.01)
    assert np.abs(values).max() < 1.42


@pytest.fixture(scope="module")
def textured() -> "Textured":
    source = Scenes(count=400, size=96, kind="textures")
    found = Textured([], [], [], [])
    for index in range(400):
        record, instances = source[index], source.masks(index).instances
        for number, (box, label) in enumerate(zip(record.boxes.xyxy, record.boxes.labels), start=1):
            inside = instances == number
            pixels = record.image[inside].astype(float)
            found.labels.append(int(label))
            found.colors.append(np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)]))
            found.structures.append(_structure(record.image, inside))
            found.sides.append(box[2:] - box[:2])
    return found


@dataclasses.dataclass
class Textured:
    """Of each object: label, mean and deviation of its colours, structure of its texture, width and height of its box."""

    labels: list[int]
    colors: list[np.ndarray]
    structures: list[np.ndarray]
    sides: list[np.ndarray]


def _structure(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Energies of differences in several directions, as shares, so that contrast and colour drop out."""
    grey = image.astype(float).mean(axis=-1)
    inside = inside & (np.indices(grey.shape).min(axis=0) > 3) & (np.indices(grey.shape).max(axis=0) < 91)
    steps = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 3), (3, 0), (3, 3), (3, -3))
    energies = [np.square(np.roll(grey, step, axis=(0, 1)) - grey)[inside].mean() for step in steps]
    return np.array(energies) / np.sum(energies)


def test_the_colour_of_an_object_says_nothing_of_its_class_where_textures_do(textured: Textured) -> None:
    labels, colors = np.array(textured.labels), np.array(textured.colors)
    # Analysis of variance: without a difference of classes the ratio is about 1, with a deviation of (2 / 7) ** 0.5 = 0.53.
    assert _variance_ratios(colors[:, :3], labels).max() < 3
    structures = np.array(textured.structures)
    assert _variance_ratios(structures, labels).min() > 20
    chance = 1 / len(KINDS["textures"].class_names)
    noise = np.sqrt(chance * (1 - chance) / len(labels))
    assert _nearest_neighbour_accuracy(colors[:, :3], labels.tolist()) < chance + 4 * noise
    assert _nearest_neighbour_accuracy(colors, labels.tolist()) < chance + 4 * noise
    assert _nearest_neighbour_accuracy(structures, labels.tolist()) > 0.8


def _variance_ratios(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each feature: the variance between classes by that within them, each by its degrees of freedom (F)."""
    classes = [features[labels == label] for label in np.unique(labels)]
    between = sum(len(own) * np.square(own.mean(axis=0) - features.mean(axis=0)) for own in classes)
    within = sum(np.square(own - own.mean(axis=0)).sum(axis=0) for own in classes)
    return (between / (len(classes) - 1)) / (within / (len(features) - len(classes)))


def test_objects_where_textures_tell_classes_are_six_patches_of_8_pixels_wide_or_more(textured: Textured) -> None:
    sides = np.array(textured.sides)
    assert sides.min() >= 6 * 8
    assert sides.max() < 96


@BOTH_KINDS
def test_a_film_starts_with_its_scene_and_moves_smoothly(kind: str) -> None:
    source = Scenes(count=12, size=64, kind=kind)
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
        ({"count": 1, "size": 64, "kind": "shapes"}, 'scene_kind is "shapes"; the kinds of scenes are hues, textures'),
    ],
)
def test_wrong_settings_are_named(arguments: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Scenes(**arguments)


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"record {index} of 5"):
        Scenes(count=5, size=16)[index]
