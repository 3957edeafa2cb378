"""The bbox-aligned k-NN: which tokens, which classes, which shares; whole on scenes, folders and files of features."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flsl_jax.config import BboxKnnConfig, SourceConfig
from flsl_jax.data.boxes import Boxes
from flsl_jax.data.images.decode import RGB
from flsl_jax.data.records import Record
from flsl_jax.errors import UserError
from flsl_jax.evaluation.box_features import encode_boxes
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.protocols.bbox_knn import BboxKnnData, box_patches, boxed_images, evaluate, open_data
from flsl_jax.evaluation.reading import ImageStream

PIXELS = PixelEncoder(patch_size=4, image_size=16)


@dataclasses.dataclass(frozen=True)
class _Records:
    """A source of given records."""

    records: tuple[Record, ...]
    class_names: tuple[str, ...] = ("ant", "bee", "cat")
    name: str = "given"
    digest: str = ""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def _record(image: np.ndarray | bytes, *corners: tuple[float, ...], name: str = "r") -> Record:
    boxes = Boxes(xyxy=np.array(corners, np.float32).reshape(-1, 4), labels=np.arange(len(corners), dtype=np.int64))
    return Record(image=image, name=name, boxes=boxes)


def test_patches_of_boxes_by_hand() -> None:
    np.testing.assert_array_equal(box_patches(np.float32([0, 0, 24, 24]), patch_size=8, grid=3), range(9))
    # Points at x = 10, 14, 18 and y = 1, 3, 5 of 8 px patches: columns 1, 1, 2, row 0.
    np.testing.assert_array_equal(box_patches(np.float32([8, 0, 20, 6]), patch_size=8, grid=4), [1, 1, 2] * 3)
    np.testing.assert_array_equal(box_patches(np.float32([31, 31, 32, 32]), patch_size=8, grid=4), [15] * 9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 56, width=32), min_size=4, max_size=4))
def test_each_patch_is_the_one_whose_centre_is_nearest(numbers: list[float]) -> None:
    (x0, x1), (y0, y1) = sorted(numbers[:2]), sorted(numbers[2:])
    patches = box_patches(np.float32([x0, y0, x1, y1]), patch_size=8, grid=7)
    centers = (np.stack(np.meshgrid(np.arange(7), np.arange(7)), axis=-1).reshape(-1, 2) + 0.5) * 8
    points = [(x0 + (i + 0.5) / 3 * (x1 - x0), y0 + (j + 0.5) / 3 * (y1 - y0)) for j in range(3) for i in range(3)]
    for point, patch in zip(points, patches):
        distance = np.hypot(*(centers - point).T)
        assert distance[patch] <= distance.min() + 1e-5


def test_the_largest_box_is_chosen_after_the_crop() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 30:40] = 200
    # 80×40 to 16 px: 32×16, of which the columns 8 to 24 stay, the original's 20 to 60. Box 0 shrinks to 2 columns.
    items = list(
        boxed_images(
            _Records(
                (_record(image, (0, 0, 25, 40), (30, 10, 50, 30)), _record(image), _record(image, (0, 0, 20, 40)))
            ),
            size=16,
            patch_size=4,
        )
    )
    assert len(items) == 1
    pixels, patches, label = items[0]
    assert (pixels.shape, int(label)) == ((16, 16, 3), 1)
    # In the crop, box 1 is 4..12 both ways: points at 5.33, 8, 10.67.
    np.testing.assert_array_equal(patches, [5, 6, 6, 9, 10, 10, 9, 10, 10])
    assert pixels[:, 5:7].min() > 180
    assert pixels[:, 12:].max() < 20


def _png(size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (10, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def test_damaged_images_are_left_out_or_refused_as_wanted() -> None:
    good = _record(_png(), (0, 0, 16, 16))
    source = _Records((good, _record(b"no image", (0, 0, 9, 9), name="bad.png"), good))
    stream = boxed_images(source, size=16, patch_size=8)
    for _ in range(2):  # read, then kept
        (images, patches, labels) = next(iter(stream.batches(4)))
        np.testing.assert_array_equal(images, np.broadcast_to(np.uint8([10, 20, 30]), (2, 16, 16, 3)))
        assert (patches.shape, labels.shape) == ((2, 9), (2,))
    with pytest.raises(UserError, match=r"bad\.png"):
        list(boxed_images(source, size=16, patch_size=8, on_corrupt="fail"))


def test_sources_without_boxes_or_with_those_of_other_images_are_refused() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="given: no image has a box"):
        boxed_images(_Records((Record(image=image, name="r"),)), size=16, patch_size=8)
    with pytest.raises(UserError, match=r"photo: a box reaches to \(32, 32\) in an image of 16×16"):
        boxed_images(_Records((_record(image, (0, 0, 32, 32), name="photo"),)), size=16, patch_size=8)


class _Painted:
    """An encoder of images of 3×3 patches of one pixel, each of which says by its level which one-hot token it has."""

    name, patch_size, image_size, blank = "painted", 1, 3, (0.0, 0.0, 0.0)
    decoding = RGB

    def __init__(self, inv_temp: float | None = None) -> None:
        self.inv_temp = inv_temp

    def tokens(self, images: np.ndarray | jax.Array) -> jax.Array:
        return jax.nn.one_hot(jnp.asarray(images)[..., 0], 8)


def _stream(
    levels: list[list[int]], labels: list[int], class_names: tuple[str, ...] = ("ant", "bee", "cat")
) -> ImageStream:
    """Images of nine levels each, with a box over all of it of the label."""
    records = []
    for nine, label in zip(levels, labels, strict=True):
        pixels = np.broadcast_to(np.uint8(nine).reshape(3, 3, 1), (3, 3, 3)).copy()
        boxes = Boxes(xyxy=np.float32([[0, 0, 3, 3]]), labels=np.array([label], np.int64))
        records.append(Record(image=pixels, name="r", boxes=boxes))
    return boxed_images(_Records(tuple(records), class_names), size=3, patch_size=1)


TRAIN = ([[0] * 9, [1] * 9, [2] * 9], [0, 1, 2])
# All 9 right; 5 of 9 right; 1 of 9 right; none right.
VAL = ([[0] * 9, [1] * 5 + [0] * 4, [0, 1] * 4 + [2], [1, 2, 2] * 3], [0, 1, 2, 0])


def _scores(train: ImageStream, val: ImageStream, encoder: object = None, **keys: object) -> dict:
    data = BboxKnnData(train=train, val=val, stored=None)
    scores = evaluate(encoder or _Painted(), BboxKnnConfig(**{"k": 1, "k_scale": 1, **keys}), batch_size=3, data=data)
    return {**scores.metrics, "rows": scores.rows, "images": scores.images}


def test_shares_count_images_and_tokens() -> None:
    scores = _scores(_stream(*TRAIN), _stream(*VAL))
    assert scores["any"] == 3 / 4
    assert scores["majority"] == 2 / 4
    assert scores["token"] == pytest.approx(15 / 36)
    assert (scores["top5"], scores["token_top5"], scores["images"]) == (1, 1, 7)  # three classes have no more
    assert [(row["class"], row["images"], row["any"]) for row in scores["rows"]] == [
        ("ant", 2, 0.5),
        ("bee", 1, 1.0),
        ("cat", 1, 1.0),
    ]


def test_the_five_best_are_counted_beside_the_first() -> None:
    names = tuple("abcdefgh")
    train = _stream([[level] * 9 for level in range(8)], list(range(8)), names)
    # Nine tokens of seven levels: 0 three times, then 1 … 6 once each. Of the one-vote classes the lower come first.
    val = _stream([[0, 0, 0, 1, 2, 3, 4, 5, 6]] * 3, [0, 4, 5], names)
    scores = _scores(train, val)
    assert scores["top5"] == pytest.approx(2 / 3)  # 0 … 4 are the five best
    # One neighbour gives the token's class first; the other classes have no votes and come by their numbers.
    right = [
        [0 in best for best in _best_five()],
        [4 in best for best in _best_five()],
        [5 in best for best in _best_five()],
    ]
    assert scores["token_top5"] == pytest.approx(np.mean(right))


def _best_five() -> list[list[int]]:
    return [[level, *(number for number in range(8) if number != level)][:5] for level in (0, 0, 0, 1, 2, 3, 4, 5, 6)]


def test_classes_are_matched_by_name() -> None:
    train, levels = _stream(*TRAIN), TRAIN[0]
    assert _scores(train, _stream(levels, [2, 1, 0], ("cat", "bee", "ant")))["token"] == 1
    assert _scores(train, _stream(levels, [0, 1, 2], ("ant", "dog", "eel")))["any"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match=r"\(ant, bee, cat\).*\(x, y, z\) have no name in common"):
        _scores(train, _stream(levels, [0, 1, 2], ("x", "y", "z")))
    nameless = _scores(_stream(*TRAIN, ()), _stream(*TRAIN, ()))
    assert (nameless["token"], nameless["rows"]) == (1, [])


def test_modes_are_measured_beside_tokens() -> None:
    train, val = _stream(*TRAIN), _stream(*VAL)
    tokens = _scores(train, val)
    assert not any(name.startswith("modes") for name in tokens)
    # Strong attention: the mode of a one-hot token is that token.
    strong = _scores(train, val, inv_temp=100.0)
    assert [strong[f"modes_{name}"] for name in ("any", "majority", "token")] == [
        2 / 4 + 1 / 4,
        2 / 4,
        pytest.approx(15 / 36),
    ]
    # Hardly any attention: every mode is the mean of its image, nearest to the class of most of its tokens; the model's own τ.
    weak = _scores(train, val, _Painted(inv_temp=1e-6))
    assert weak["any"] == tokens["any"]
    assert weak["modes_any"] == weak["modes_majority"] == weak["modes_token"] == 2 / 4
    assert "modes_any" not in _scores(train, val, _Painted(inv_temp=1e-6), modes=False)


def _random_stream(count: int) -> ImageStream:
    rng = np.random.default_rng(0)
    records = [
        _record(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), (2 * (i % 4), 1, 12, 15)) for i in range(count)
    ]
    return boxed_images(_Records(tuple(records)), size=16, patch_size=4)


def test_features_are_normalised_tokens_and_modes_of_their_own_image() -> None:
    stream = _random_stream(5)
    (part,) = encode_boxes(PIXELS, stream, batch_size=2, inv_temp=0.4)
    for index, (image, patches, label) in enumerate(stream):
        tokens = np.array(PIXELS.tokens(image[None])).reshape(16, -1).astype(np.float64)
        chosen = tokens[patches]
        attention = np.exp(0.4 * chosen @ tokens.T)
        modes = attention / attention.sum(axis=1, keepdims=True) @ tokens
        for found, expected in ((part.tokens[index], chosen), (part.modes[index], modes)):
            expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(found, expected, atol=1e-6)
        assert part.labels[index] == label
    (alone,) = encode_boxes(PIXELS, stream, batch_size=5)
    assert alone.modes is None
    np.testing.assert_allclose(alone.tokens, part.tokens, atol=1e-6)
    halves = list(encode_boxes(PIXELS, stream, batch_size=2, dtype="bfloat16", part_images=3))
    assert [(len(half.labels), half.tokens.dtype) for half in halves] == [(4, jnp.bfloat16), (1, jnp.bfloat16)]


def _scene_settings(**keys: object) -> BboxKnnConfig:
    train, val = (
        SourceConfig(name="scenes", count=count, scene_size=32, split=split)
        for split, count in (("train", 40), ("val", 20))
    )
    return BboxKnnConfig(**{"train": train, "val": val, "size": 32, "inv_temp": 0.4, **keys})


def test_scenes_are_measured_from_end_to_end() -> None:
    metrics = evaluate(PIXELS, _scene_settings(), batch_size=16).metrics
    assert next(iter(metrics)) == "any"
    assert 0 <= metrics["majority"] <= metrics["any"] <= 1
    assert metrics["token"] <= metrics["token_top5"] <= 1
    settings = _scene_settings(k=1, k_scale=1)
    itself = evaluate(PIXELS, dataclasses.replace(settings, val=settings.train), batch_size=16).metrics
    assert itself["any"] == itself["token"] == itself["modes_token"] == 1


def test_features_are_kept_read_back_and_not_mistaken(tmp_path: Path) -> None:
    stored = tmp_path / "features"
    plain = evaluate(PIXELS, _scene_settings(), batch_size=16)
    kept = evaluate(PIXELS, _scene_settings(features=str(stored)), batch_size=16)
    assert json.loads((stored / "manifest.json").read_text())["parts"] == {"train": 1, "val": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    # Features of versions before there were kinds of scenes are read as those of hues.
    assert "scene_kind" not in json.loads((stored / "manifest.json").read_text())["protocol"]["train"]
    opened = open_data(_scene_settings(features=str(stored)), patch_size=4, image_size=16)
    assert opened.train is None  # nothing is read but the features
    again = evaluate(PIXELS, _scene_settings(features=str(stored), bank_dtype="float32"), batch_size=16, data=opened)
    assert plain.metrics == kept.metrics == again.metrics
    other_k = evaluate(PIXELS, _scene_settings(features=str(stored), k=1), batch_size=16)
    assert other_k.metrics != again.metrics
    other_kind = dataclasses.replace(_scene_settings().train, scene_kind="textures")
    with pytest.raises(UserError, match=r"made with train .* instead of .*textures"):
        evaluate(PIXELS, _scene_settings(features=str(stored), train=other_kind), batch_size=16)
    with pytest.raises(UserError, match=r"made with inv_temp 0\.4 instead of 0\.5"):
        evaluate(PIXELS, _scene_settings(features=str(stored), inv_temp=0.5), batch_size=16)

    class Darker(PixelEncoder):
        def tokens(self, images: np.ndarray | jax.Array) -> jax.Array:
            return super().tokens(images) * 0.9

    with pytest.raises(UserError, match="of another model"):
        evaluate(Darker(patch_size=4, image_size=16), _scene_settings(features=str(stored)), batch_size=16)
    (stored / "val-00000-tokens.npy").unlink()
    with pytest.raises(UserError, match="val-00000-tokens"):
        evaluate(PIXELS, _scene_settings(features=str(stored)), batch_size=16)
    with pytest.raises(UserError, match="holds no features"):
        open_data(_scene_settings(features=str(tmp_path)), patch_size=4, image_size=16)


def test_features_in_bfloat16_come_back_as_they_were(tmp_path: Path) -> None:
    settings = _scene_settings(features=str(tmp_path / "half"), bank_dtype="bfloat16")
    first = evaluate(PIXELS, settings, batch_size=16)
    assert evaluate(PIXELS, settings, batch_size=16).metrics == first.metrics
    whole = evaluate(PIXELS, _scene_settings(), batch_size=16)
    assert first.metrics["token"] == pytest.approx(whole.metrics["token"], abs=0.03)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    class Failing(PixelEncoder):
        calls = 0

        def tokens(self, images: np.ndarray | jax.Array) -> jax.Array:
            self.calls += 1
            if self.calls > 4:
                raise KeyboardInterrupt
            return super().tokens(images)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Failing(patch_size=4, image_size=16), _scene_settings(features=str(tmp_path / "f")), batch_size=16)
    assert list(tmp_path.iterdir()) == []


def _ilsvrc(folder: Path) -> SourceConfig:
    """Two synsets of two images each, laid out as CLS-LOC is: one is left of the image, the other right, bright on dark."""
    for wnid, left in (("n01440764", 0), ("n02102040", 40)):
        for number in range(2):
            name = f"{wnid}_{number}"
            pixels = np.full((50, 80, 3), 20, np.uint8)
            pixels[:, left : left + 40] = 200 if left else 120
            for kind in ("Data", "Annotations"):
                (folder / kind / wnid).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "Data" / wnid / f"{name}.JPEG")
            (folder / "Annotations" / wnid / f"{name}.xml").write_text(
                f"<annotation><folder>{wnid}</folder><filename>{name}</filename><size><width>80</width><height>50</height>"
                f"<depth>3</depth></size><object><name>{wnid}</name><bndbox><xmin>{left + 1}</xmin><ymin>1</ymin>"
                f"<xmax>{left + 40}</xmax><ymax>50</ymax></bndbox></object></annotation>"
            )
    return SourceConfig(root=str(folder / "Data"), boxes=str(folder / "Annotations"))


def test_an_ilsvrc_folder_is_measured(tmp_path: Path) -> None:
    source = _ilsvrc(tmp_path)
    scores = evaluate(PIXELS, BboxKnnConfig(train=source, val=source, k=1, k_scale=1), batch_size=4)
    assert [row["class"] for row in scores.rows] == ["n01440764", "n02102040"]
    assert scores.metrics["token"] == 1


def test_a_size_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"bbox_knn\.size is 30; expected a multiple of the model's patch of 4 px"):
        open_data(_scene_settings(size=30), patch_size=4, image_size=16)
