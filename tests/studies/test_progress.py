"""What counts as done: the same run, at its end, measured with the same settings."""

import dataclasses

import pytest

from flsl_jax.errors import UserError
from flsl_jax.studies.progress import check_folder, finished_step, state
from tests.studies.plans import tiny_plan, write_run, write_scores


def test_a_run_goes_from_not_started_to_done(tmp_path):
    first, second, _ = tiny_plan(tmp_path).cells
    assert state(first) == "not started"
    first.folder.mkdir()
    assert state(first) == "not started"
    (first.folder / "config.json").write_text("{}")
    assert state(first) == "begun"
    write_run(first)
    assert (state(first), finished_step(first)) == ("trained", 2)
    write_scores(first, trained=0.5)
    assert state(first) == "trained"  # the baselines are measured with the first variant
    write_scores(first, trained=0.5, untrained=0.25, pixels=0.125)
    assert state(first) == "done"
    write_run(second)
    write_scores(second, trained=0.5)
    assert state(second) == "done"


def test_a_later_end_other_settings_or_another_step_are_not_done(tmp_path):
    cell = tiny_plan(tmp_path).cells[1]
    write_run(cell)
    write_scores(cell, trained=0.5)
    (longer,) = [other for other in tiny_plan(tmp_path, stop_at_step=3).cells if other.name == cell.name]
    assert (state(longer), finished_step(longer)) == ("begun", None)
    check_folder(longer)
    (other,) = [one for one in tiny_plan(tmp_path, **{"evaluation.bbox_knn.k": 3}).cells if one.name == cell.name]
    assert state(other) == "trained"
    write_run(cell, step=1)
    assert state(cell) == "trained"


def test_a_folder_with_another_run_is_refused_by_its_first_key(tmp_path):
    cell = tiny_plan(tmp_path).cells[0]
    check_folder(cell)
    write_run(cell, changes={"model": dataclasses.asdict(cell.config.model) | {"depth": 3}})
    with pytest.raises(
        UserError, match=r"K8-seed0 holds a run with config.model.depth = 3, but the study wants 2; name"
    ):
        check_folder(cell)
    write_run(cell, changes={"compute": dataclasses.asdict(cell.config.compute) | {"prefetch": 7}})
    check_folder(cell)
