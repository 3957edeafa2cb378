"""Rows and cards of pictures: each is embedded, said in words, and explained."""

import base64
import re

import pytest
from PIL import Image

from flsl_jax.pictures.page import Picture, cards, row_of_pictures


@pytest.fixture(name="pictures")
def _pictures(tmp_path):
    pictures = []
    for number, suffix in enumerate(("jpg", "png")):
        path = tmp_path / f"{number}.{suffix}"
        Image.new("RGB", (4, 3), (200, 10 * number, 0)).save(path)
        pictures.append(Picture(path, alt=f"cat <{number}>", title=f"title & {number}"))
    return pictures


def test_a_row_embeds_its_pictures_in_order_with_words_and_a_legend(pictures):
    row = row_of_pictures(pictures, "1 < 2", legend=[("#0072B2", "a & b")])
    images = re.findall(r'<img src="data:(image/\w+);base64,([^"]+)" alt="([^"]*)">', row)
    assert [(kind, alt) for kind, _, alt in images] == [("image/jpeg", "cat &lt;0&gt;"), ("image/png", "cat &lt;1&gt;")]
    assert [base64.b64decode(data) for _, data, _ in images] == [item.path.read_bytes() for item in pictures]
    assert "<p>title &amp; 0</p>" in row
    assert '<span style="background:#0072B2"></span>a &amp; b' in row
    assert "1 &lt; 2</figcaption>" in row
    assert 'class="key"' not in row_of_pictures(pictures, "")


def test_cards_have_their_titles_below(pictures):
    text = cards(pictures)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == ["title &amp; 0", "title &amp; 1"]
    assert text.count("<img") == text.count("<figure>") == 2
