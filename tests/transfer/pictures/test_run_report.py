"""The page of a finished run: the numbers of its result, the paper's, its pictures; and no run fails for it."""

import html
import json
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.transfer.judging.measuring import average_precision
from flsl_jax.transfer.judging.metrics import WORDS
from flsl_jax.transfer.pictures import run_report
from flsl_jax.transfer.training import open_data
from tests.pictures.test_report import Page
from tests.transfer.test_fine_tuning import run, tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAPER = {"metrics": ("box_ap", "mask_ap"), "flsl": (44.9, 40.8), "dino": (40.8, 0.0)}


@pytest.fixture(scope="module", params=["mask_rcnn", "semantic_fpn"])
def finished(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param)
    paper = {} if request.param == "semantic_fpn" else {"paper": "Table 1, <S>", "paper_numbers": PAPER}
    config = tiny(request.param, measure_every=2, **paper)
    return config, workdir, run(config, workdir)


def page_of(workdir):
    text = (workdir / "report.html").read_text()
    assert all(source.startswith("data:image/") for source in Page(text).sources)
    return html.unescape(text.replace("<wbr>", ""))


def test_the_page_has_the_numbers_of_the_result_and_of_the_paper(finished):
    config, workdir, _ = finished
    text, result = page_of(workdir), json.loads((workdir / "result.json").read_text())
    for name, value in result["metrics"].items():
        assert f'<tr><th>{WORDS[name]}</th><td class="number">{value:.1%}</td>' in text
    if not config.is_segmentation:
        numbers = "".join(f'<td class="number">{value}</td>' for value in ("44.9%", "40.8%"))
        assert f'<th>box AP</th><td class="number">{result["metrics"]["box_ap"]:.1%}</td>{numbers}' in text
        assert "as the paper has them, Table 1, <S>" in text


def test_it_says_what_was_trained_and_has_curves_and_pictures(finished):
    _, workdir, _ = finished
    text = page_of(workdir)
    facts = (
        "ViT, 2 blocks, width 32, patches of 8 px; random; maps after blocks 0, 0, 1, 1",
        "4, each of 2 images, seed 0",
    )
    for words in (*facts, "scenes (train), 6 images", '"batch_size": 2', "losses, learning rate, metrics"):
        assert words in text, words
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == ["Results", "What was trained", "Training", "Examples", "Mistakes"]
    assert len(re.findall(r'<figure class="row"><div class="cells"><div><p>image</p>', text)) >= 6
    assert not re.search(r"<img(?![^>]*alt=\"[^\"]+\")", text)


def test_the_same_command_again_writes_the_page_without_measuring(finished, monkeypatch):
    config, workdir, outcome = finished
    before = (workdir / "report.html").read_text()
    (workdir / "report.html").unlink()
    for name in ("detect", "classify"):
        monkeypatch.setattr(f"flsl_jax.transfer.training.{name}", lambda *args, **kwargs: pytest.fail("measured again"))
    assert run(config, workdir) == outcome
    again = (workdir / "report.html").read_text()
    without_date = [re.sub(r"as of [^<]*|data:image/svg[^\"]*", "", text) for text in (before, again)]
    assert without_date[0] == without_date[1]


def test_pictures_that_cannot_be_drawn_cost_a_warning_and_a_page_that_cannot_be_written_too(
    finished, monkeypatch, caplog
):
    config, workdir, outcome = finished

    def broken(*args, **kwargs):
        raise RuntimeError("no pictures today")

    with monkeypatch.context() as patch:
        patch.setattr(run_report, "ObjectPictures", broken)
        patch.setattr(run_report, "PixelPictures", broken)
        assert run(config, workdir) == outcome
    assert "the report has no pictures: RuntimeError: no pictures today" in caplog.text
    assert "<h2>Examples</h2>" not in page_of(workdir)
    monkeypatch.setattr(run_report, "read_metrics", broken)
    assert run(config, workdir) == outcome
    assert "report.html was not written: RuntimeError" in caplog.text
    monkeypatch.undo()
    assert run(config, workdir) == outcome
    assert "<h2>Examples</h2>" in page_of(workdir)


def test_the_last_detections_are_kept_with_the_ap_that_was_measured(finished):
    config, workdir, outcome = finished
    if config.is_segmentation:
        pixels = json.loads((workdir / "pixels.json").read_text())
        assert [image["index"] for image in pixels["images"]] == list(range(6))
        assert sum(map(sum, pixels["confusion"])) == 6 * 32 * 32
    else:
        detections = json.loads((workdir / "detections.json").read_text())
        assert average_precision(open_data(config).val, detections) == outcome.metrics
