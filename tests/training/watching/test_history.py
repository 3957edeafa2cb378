"""A run read back from its workdir."""

import json

import jax
import pytest
from flax import nnx

from flsl_jax.networks import build_network
from flsl_jax.training.watching.history import read_run
from tests.tiny import tiny_config

HEALTHY = {
    "mean_entropy": 3.0, "teacher_entropy": 1.0, "used_centroids": 24, "feature_std": 0.9, "effective_rank": 9.0,
    "attention_share": 0.5, "mode_similarity": 0.4, "position_share": 0.1, "agreement": 0.5,
}  # fmt: skip


@pytest.fixture
def workdir(tmp_path):
    lines = [{"step": 0, "knn_any": 0.5}]  # an evaluation: no reading of the monitor
    lines += [{"step": step, "images_per_sec": 4.0} | HEALTHY for step in (2, 4)]
    lines += [{"step": step, "images_per_sec": 2.0} | HEALTHY | {"mean_entropy": 0.3} for step in (6, 8, 10, 12)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_alarms_are_those_that_training_raised(workdir):
    run = read_run(tiny_config(), workdir=workdir, step=12, results=None)
    assert [(alarm.name, alarm.step) for alarm in run.alarms] == [("one_centroid", 10)]  # the third reading in a row
    assert len(run.metrics) == 7
    assert run.training_seconds == pytest.approx(4 * 8 / 4.0 + 8 * 8 / 2.0)


def test_an_earlier_checkpoint_has_an_earlier_history(workdir):
    run = read_run(tiny_config(), workdir=workdir, step=8, results=workdir / "results")
    assert [line["step"] for line in run.metrics] == [0, 2, 4, 6, 8]
    assert not run.alarms
    assert not run.results


def test_what_is_not_trained_has_no_curves(workdir):
    run = read_run(tiny_config(), workdir=workdir, step=0, results=None)
    assert not run.metrics
    assert not run.alarms
    assert run.training_seconds is None
    assert run.silence.startswith("No alarm was possible yet")


def test_parameters_are_counted_by_part(workdir):
    config = tiny_config()
    run = read_run(config, workdir=workdir, step=2, results=None)
    network = build_network(config, rngs=nnx.Rngs(0))
    total = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert sum(run.parameters.values()) == total
    assert set(run.parameters) == {"backbone", "head"}
