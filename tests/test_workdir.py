"""A run's results are its own wherever its workdir is moved, and those of others keep their names."""

import json
from pathlib import Path

import pytest

from flsl_jax.workdir import read_results


def _written(workdir: Path, below: str, **model: object) -> None:
    folder = workdir / "results" / below
    folder.mkdir(parents=True)
    (folder / "video.json").write_text(json.dumps({"task": "video", "metrics": {}, "model": model}))


@pytest.mark.parametrize(
    ("below", "name", "source"),
    [
        ("", "{}, step 8", "{}"),
        ("step_4", "{}, step 4", "{}/checkpoints/4"),
        ("untrained", "{}, untrained", "untrained:{}"),
        ("pixels", "raw pixels", "pixels:{}"),
    ],
)
@pytest.mark.parametrize("old", ["runs/old", "/some/where:else/old"])
def test_a_result_in_its_own_workdir_names_it_as_it_is_called_now(tmp_path, below, name, source, old):
    workdir = tmp_path / "new"
    _written(workdir, below, name=name.format(old), source=source.format(old), step=8, in_workdir=True)
    (found,) = read_results(workdir / "results")
    assert found["model"]["name"] == name.format(workdir)
    assert found["model"]["source"] == source.format(workdir)
    assert read_results(workdir / "results" / below) == [found]


@pytest.mark.parametrize("known", [{}, {"in_workdir": False}])
def test_another_models_result_among_them_keeps_its_name(tmp_path, known):
    model = {"name": "runs/other, step 8", "source": "runs/other", "step": 8} | known
    _written(tmp_path / "new", "", **model)
    assert read_results(tmp_path / "new" / "results")[0]["model"] == model


def test_a_result_that_was_copied_elsewhere_keeps_its_name(tmp_path):
    model = {"name": "runs/old, step 8", "source": "runs/old", "in_workdir": True}
    _written(tmp_path, "", **model)
    (tmp_path / "results").rename(tmp_path / "kept")
    assert read_results(tmp_path / "kept")[0]["model"] == model
