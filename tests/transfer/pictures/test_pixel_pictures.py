"""The pictures of a segmenter's report, of scenes whose prediction is the truth with a part of it changed."""

import re

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from flsl_jax.config import MaskedSourceConfig
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.transfer.pictures.pixel_pictures import PixelPictures, confused_pairs, confused_table

NAMES = ("background", "a", "b")


@pytest.fixture(scope="module")
def source():
    return open_masked(MaskedSourceConfig(name="scenes", count=6, scene_size=40, split="val"))


def pictures(source, folder, *, wrong=()):
    """What is drawn of predictions that are all background in the images `wrong`."""
    records = [source[index] for index in range(len(source))]
    answers = {record.image.tobytes(): record.mask for record in records}
    for index in wrong:
        answers[records[index].image.tobytes()] = np.zeros_like(records[index].mask)
    scores = [
        {
            "index": index,
            "name": record.name,
            "miou": 0.1 if index in wrong else 1.0,
            "aacc": 0.5 if index in wrong else 1.0,
        }
        for index, record in enumerate(records)
    ]
    return PixelPictures(source, lambda image: answers[image.tobytes()], scores=scores, folder=folder)


def test_examples_are_spread_over_the_images_and_name_their_classes(source, tmp_path):
    text = pictures(source, tmp_path).examples(most=3)
    names = [source[index].name for index in (0, 2, 5)]
    assert re.findall(r'alt="([^",]+), image"', text) == names
    assert text.count("<img") == 9
    assert f"{names[0]}: mIoU 100.0%, 100.0% of the pixels are right." in text
    (legend, *_) = re.findall(r"<figcaption><p>(.*?)</p>", text)
    present = {source.class_names[label] for label in np.unique(source[0].mask)} - {"background"}
    assert set(re.findall(r"</span>([^<]+)</span>", legend)) == present


def test_the_worst_come_first_and_say_what_was_taken_for_what(source, tmp_path):
    text = pictures(source, tmp_path, wrong=(4,)).worst(most=2)
    record = source[4]
    assert re.findall(r'alt="([^",]+), image"', text)[0] == record.name
    assert text.count("<img") == 8
    labels, counts = np.unique(record.mask[record.mask > 0], return_counts=True)
    share = counts.max() / record.mask.size
    said = f"{share:.0%} are “{source.class_names[labels[counts.argmax()]]}” taken for “background”"
    assert said in text.replace("&quot;", '"')
    assert "50% of the pixels, marked as wrong" in text


def test_pairs_of_confused_classes_are_ordered_by_their_pixels():
    confusion = np.array([[50, 0, 10], [20, 5, 0], [0, 0, 15]])
    assert confused_pairs(confusion, most=5) == [(1, 0, 0.2), (0, 2, 0.1)]
    assert confused_pairs(confusion, most=1) == [(1, 0, 0.2)]
    table = confused_table(confusion, NAMES, most=5)
    assert "<th>a</th><td>background</td><td>20.0%</td><td>80.0%</td>" in table
    assert confused_table(np.eye(3, dtype=int), NAMES, most=5) == ""
