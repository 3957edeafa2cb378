"""The examples of docs/data.md are read as the page says."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import MaskedSourceConfig
from flsl_jax.data.boxes import read_boxes
from flsl_jax.data.images.listing import NAMED_FORMATS, RARE_FORMATS
from flsl_jax.data.truth.mask_classes import read_class_names
from flsl_jax.data.truth.masks import open_masked

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text()


def block(language, containing):
    """The one block of code of this language that has these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    (found,) = [text for text in blocks if containing in text]
    return found


@pytest.mark.parametrize(("language", "containing", "name"), [("json", "bbox", "dog"), ("xml", "bndbox", "dog")])
def test_boxes_of_both_examples_are_the_same(language, containing, name, tmp_path):
    path = tmp_path / f"dog.{language}"
    path.write_text(block(language, containing))
    read = read_boxes(path)
    (boxes,) = read.boxes.values()
    assert read.class_names == (name,)
    np.testing.assert_allclose(
        boxes.xyxy, [[120, 80.5 if language == "json" else 80, 320, 240.5 if language == "json" else 240]]
    )


def test_the_panoptic_example_gives_the_labels_of_its_categories(tmp_path):
    (tmp_path / "panoptic.json").write_text(block("json", "segments_info"))
    numbers = np.array([[1201, 77], [0, 1201]])
    colours = np.stack([numbers % 256, numbers // 256, numbers // 65536], axis=-1).astype(np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(colours).save(tmp_path / "images" / "000000000007.jpg")
    Image.fromarray(colours).save(tmp_path / "masks" / "000000000007.png")
    source = open_masked(
        MaskedSourceConfig(
            name="panoptic",
            images=str(tmp_path / "images"),
            masks=str(tmp_path / "masks"),
            annotations=str(tmp_path / "panoptic.json"),
        )
    )
    assert source.class_names == ("dog", "sand")
    np.testing.assert_array_equal(source[0].mask, [[0, 1], [-1, 0]])


def test_the_example_of_a_class_file_is_one(tmp_path):
    example = re.search(r"a mapping \(`(\{.+?\})`\)", PAGE).group(1)
    (tmp_path / "classes.json").write_text(example)
    assert read_class_names(tmp_path / "classes.json") == {1: "person", 2: "car"}


def test_the_page_lists_the_suffixes_of_images():
    listed = re.search(r"Every file that ends in (.+?),\s+in any case", PAGE, flags=re.DOTALL).group(1)
    assert tuple(re.findall(r"`(\.\w+)`", listed)) == tuple(NAMED_FORMATS)
    assert all(f"`{suffix}`" in PAGE for suffix in RARE_FORMATS)
