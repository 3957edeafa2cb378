"""Results as files and as tables."""

import json
import math
import re

import pytest

from flsl_jax.config import BboxKnnConfig, RetrievalConfig
from flsl_jax.errors import UserError
from flsl_jax.evaluation.results import check_writable, comparison, result, table, write_result
from flsl_jax.evaluation.task import Scores, TaskResult
from flsl_jax.evaluation.tasks import TASKS
from flsl_jax.workdir import read_results


def _result(**metrics):
    rows = ({"class": "ant", "token": 0.25}, {"class": "elephant", "token": math.nan})
    outcome = TaskResult(scores=Scores(metrics=metrics, rows=rows, images=30), seconds=2.0)
    return result("bbox_knn", BboxKnnConfig(k=3), outcome, model={"name": "runs/a, step 3", "step": 3}, batch_size=8)


def test_a_result_says_what_was_measured_and_how(tmp_path):
    written = json.loads(write_result(_result(any=0.5), tmp_path).read_text())
    assert written["metrics"] == {"any": 0.5}
    assert (written["settings"]["k"], written["settings"]["val"]["split"]) == (3, "val")
    assert (written["images_per_sec"], written["batch_size"], written["model"]["step"]) == (15.0, 8, 3)
    assert {"jax", "flsl_jax", "python"} <= written["versions"].keys()
    assert written["rows"][1] == {"class": "elephant", "token": None}
    assert read_results(tmp_path) == [written]


def test_what_was_judged_and_warnings_are_printed_and_kept(tmp_path):
    scores = Scores(
        metrics={"miou": 0.5}, images=3, judged={"classes": 2, "ignored_share": 0.25}, warnings=["few pixels"]
    )
    outcome = TaskResult(scores=scores, seconds=1.0)
    found = result("retrieval", RetrievalConfig(), outcome, model={"name": "a"}, batch_size=8)
    assert table(found).splitlines()[2:4] == ["judged: classes 2, ignored_share 0.2500", "WARNING: few pixels"]
    other = found | {"warnings": ["few pixels", "more"]}
    assert comparison([found, other], ["a", "b"]).splitlines()[3:] == [
        "judged: classes 2, ignored_share 0.2500",
        "WARNING: few pixels",
        "WARNING: more",
    ]
    written = json.loads(write_result(found, tmp_path).read_text())
    assert written["judged"] == {"classes": 2, "ignored_share": 0.25}
    assert written["warnings"] == ["few pixels"]


def test_a_failed_write_leaves_the_old_result_and_nothing_else(tmp_path):
    write_result(_result(any=0.5), tmp_path)
    with pytest.raises(TypeError):
        write_result(_result(any=0.75) | {"model": object()}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bbox_knn.json"]
    assert read_results(tmp_path)[0]["metrics"] == {"any": 0.5}


def test_results_of_other_models_are_read_with_them(tmp_path):
    for folder, value in ((tmp_path, 0.75), (tmp_path / "untrained", 0.5)):
        folder.mkdir(exist_ok=True)
        write_result(_result(any=value), folder)
    assert [found["metrics"]["any"] for found in read_results(tmp_path)] == [0.75, 0.5]


@pytest.mark.parametrize("text", ["{", "[]", '{"task": "video"}'])
def test_other_files_among_them_are_named(tmp_path, text):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match=r"mine\.json: not a result"):
        read_results(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output=.*file/below cannot be made"):
        check_writable(tmp_path / "file" / "below")


def test_the_table_lines_up():
    lines = table(_result(any=0.5, majority=0.25)).splitlines()
    assert lines[0] == "bbox_knn of runs/a, step 3"
    assert lines[1:3] == ["  any       0.5000", "  majority  0.2500"]
    assert lines[4:7] == ["  class      token", "  ant       0.2500", "  elephant     nan"]
    assert "0.724 (100" in lines[7]
    assert "15.0 images/s" in lines[-1]


def test_names_with_line_breaks_do_not_break_the_table():
    values = _result(any=0.5) | {"rows": [{"class": "two\nlines", "token": 0.5}], "warnings": ["of two\nlines"]}
    assert len(table(values).splitlines()) == len(
        table(values | {"rows": [{"class": "one", "token": 0.5}]}).splitlines()
    )
    assert r"two\nlines" in table(values)


def test_a_number_of_images_is_a_whole_number():
    assert table(_result(ari=0.5, images=10.0)).splitlines()[1:3] == ["  ari     0.5000", "  images      10"]
    both = comparison([_result(images=10.0), _result(ari=0.5)], ["first", "second"]).splitlines()
    assert both[2:4] == ["  images     10       -", "  ari         -  0.5000"]


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.reference])
def test_published_numbers_are_in_the_unit_of_the_table(name):
    assert "%" not in TASKS[name].reference
    assert re.search(r"\b0\.\d{3}\b", TASKS[name].reference)


def test_the_table_leaves_out_classes_that_do_not_occur_and_says_so():
    names = ("bird", "never", "only guessed", "cat")
    shares, ious = (0.75, 0.0, 0.0, 0.25), (0.5, 0.0, 0.0, 1.0)
    rows = [{"class": name, "iou": iou, "pixel_share": share} for name, share, iou in zip(names, shares, ious)]
    values = _result(any=0.5) | {"rows": rows}
    lines = table(values).splitlines()
    assert lines[3:6] == [
        "  class     iou  pixel_share",
        "  bird   0.5000       0.7500",
        "  cat    1.0000       0.2500",
    ]
    assert lines[6] == "  without 2 classes of which no pixel is in the masks; bbox_knn.json has them"
    many = [{"class": str(number), "pixel_share": float(number < 40)} for number in range(99)]
    lines = table(values | {"rows": many}).splitlines()
    assert lines[34:36] == [
        "  … 10 more in bbox_knn.json",
        "  without 59 classes of which no pixel is in the masks; bbox_knn.json has them",
    ]


def test_models_stand_side_by_side_and_what_one_of_them_lacks_is_a_dash():
    lines = comparison([_result(any=0.5, modes_any=0.25), _result(any=0.75)], ["first", "raw pixels"]).splitlines()
    assert lines[:4] == [
        "bbox_knn of 2 models, 30 images",
        "              first  raw pixels",
        "  any        0.5000      0.7500",
        "  modes_any  0.2500           -",
    ]
    assert "0.724 (100" in lines[4]
