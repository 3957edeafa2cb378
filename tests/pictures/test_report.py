"""The page: whole, self-contained, and what it says."""

import base64
import html
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.pictures.gallery import Subject, draw
from flsl_jax.pictures.kinds import PictureSettings
from flsl_jax.pictures.layout import NARROW, WIDE
from flsl_jax.pictures.report import write_report
from flsl_jax.pictures.runs import Run
from flsl_jax.training.watching.alarms import Alarm
from tests.pictures.regions import RegionEncoder, red_left_blue_right
from tests.tiny import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
VOID = {"meta", "img", "br", "link", "source", "wbr"}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps what a page loads."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "srcset") or (name == "href" and tag != "a")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def result(name, value, *, source="", **settings):
    return {
        "task": "bbox_knn",
        "judges": "who <is> it?",
        "reference": "paper: 76.7 %",
        "model": {"name": name, "source": source or name},
        "metrics": {"any": value, "token": None},
        "rows": [{"class": "star", "any": 0.25}],
        "settings": settings,
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = Run(
        config=tiny_config(),
        step=1200,
        parameters={"backbone": 1000, "head": 234},
        metrics=[{"step": step, "loss": 1 / step, "images_per_sec": 4.0} for step in (600, 1200)],
        alarms=[Alarm(name="one_centroid", step=600, value=0.1, message="collapse to <few> centroids")],
        results=[
            result("raw pixels", 0.25, k=20, source="pixels:runs/a"),
            result("runs/a", 0.625, k=20),
            result("runs/b", 0.5, k=20),
            result("runs/b", 0.125, k=5),
        ],
    )
    subjects = [
        Subject(name="a & b", encoder=RegionEncoder(), run=run),
        Subject(name="weights.safetensors", encoder=RegionEncoder()),
    ]
    images = [red_left_blue_right()]
    drawings = draw(["pca"], subjects, images, settings=PictureSettings(), output=folder, compare=True)
    write_report(folder / "report.html", subjects, drawings)
    assert {path.name for path in folder.iterdir()} == {"pca.png", "report.html"}
    return folder, (folder / "report.html").read_text()


def test_nothing_is_loaded_from_elsewhere(page):
    _, text = page
    sources = Page(text).sources
    assert len(sources) == 4
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in text
    assert not re.search(r"url\(|@import", text)


def test_a_phone_gets_its_own_layout_of_each_picture(page):
    _, text = page
    narrow = re.findall(
        r'<figure class="(?:wide )?fits".*?media="\(max-width: 42rem\)" srcset="data:([^;]+);base64,([^"]+)"', text
    )
    assert [kind for kind, _ in narrow] == ["image/svg+xml", "image/png"]
    with Image.open(io.BytesIO(base64.b64decode(narrow[1][1]))) as picture:
        assert picture.width < NARROW.dpi * (0.5 + NARROW.columns * (NARROW.cell + 0.1))


def test_pictures_are_the_files(page):
    folder, text = page
    assert base64.b64encode((folder / "pca.png").read_bytes()).decode() in text


def test_it_says_what_was_trained_and_measured(page):
    _, text = page
    for words in ("a &amp; b", "1,234 (backbone 1,000, head 234)", "1,200, each of 8 images", "40 min of steps",
                  "one_centroid: collapse to &lt;few&gt; centroids", "who &lt;is&gt; it?", "paper: 76.7 %",
                  "nothing is known about its training"):  # fmt: skip
        assert words in text, words


def test_a_folder_is_no_scenes_and_a_start_is_no_training(tmp_path):
    config = tiny_config(data={"name": "folder", "root": "/my/photos"}, init_from="runs/other")
    run = Run(
        config=config, step=2, parameters={}, metrics=[{"step": 2, "loss": 1.0}], silence="No alarm was possible yet."
    )
    start = Run(config=config, step=0, parameters={})
    subjects = [
        Subject(name="mine", encoder=RegionEncoder(), run=run),
        Subject(name="start", encoder=RegionEncoder(), run=start),
        Subject(name="raw pixels", encoder=PixelEncoder(patch_size=8, image_size=32)),
    ]
    write_report(tmp_path / "report.html", subjects, [])
    text = re.sub("<details>.*?</details>", "", (tmp_path / "report.html").read_text(), flags=re.S)
    assert "<th>data</th><td>folder /my/photos</td>" in text
    assert "32 of 40 px" not in text
    assert "<p>No alarm was possible yet.</p>" in text
    assert "raised no alarm" not in text
    assert "<th>started from</th><td>the backbone of runs/other</td>" in text
    assert "A network before its first update: the backbone of runs/other." in text
    assert text.count("<th>optimiser</th>") == 1
    assert "a baseline without training" in text
    assert "nothing is known" not in text


def test_equal_protocols_share_a_table(page):
    _, text = page
    tables = re.findall(r"<thead><tr><th></th>(.*?)</tr></thead>\n<tbody>\n<tr><th>any</th>(.*?)</tr>", text)
    cells = [[re.findall(r">([^<]+)<", part) for part in table] for table in tables]
    assert cells == [[["a", "b", "raw pixels"], ["0.625", "0.5", "0.25"]], [["b"], ["0.125"]]]


def test_it_is_made_for_phones_and_paper(page):
    _, text = page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", [Subject(name="a", encoder=RegionEncoder())], [])


def test_a_run_of_dino_is_not_called_flsl(tmp_path):
    config = tiny_config(objective={"method": "dino", "targets": "centering"}, views={"recipe": "multicrop"})
    run = Run(config=config, step=2, parameters={}, metrics=[{"step": 2, "loss": 1.0}])
    write_report(tmp_path / "report.html", [Subject(name="twin", encoder=RegionEncoder(), run=run)], [])
    text = re.sub("<details>.*?</details>", "", (tmp_path / "report.html").read_text(), flags=re.S)
    assert re.search(r"<td>DINO's; \d+ centroids; targets: centering</td>", html.unescape(text))
    assert not re.search("FLSL|υ|γ", text)


def test_two_sheets_of_two_models_stand_side_by_side(page):
    """On a screen of any width: the page has 66 rem for them, and a gap of 1.4 rem between them."""
    _, text = page
    share = float(re.search(r"min\(100%, calc\(var\(--width\) \* (\.\d+)\)\)", text)[1])
    width = round(WIDE.dpi * (0.36 + 3 * WIDE.cell + 1.15))
    assert 690 <= width <= 695  # as such sheets are
    assert 2 * share * width + 1.4 * 16 <= 66 * 16
