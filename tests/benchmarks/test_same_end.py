"""Two runs are compared: what is lost, repeated or different is found."""

import json
import shutil

import jax
import numpy as np
import pytest

from benchmarks.same_end import compare
from flsl_jax.checkpoints import Checkpoints, read_checkpoint
from flsl_jax.loop import train
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("same_end") / "run"
    train(tiny_config(stop_at_step=4), workdir=workdir)
    return workdir


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_copy_is_the_same(finished, copied):
    end = compare(copied, finished)
    assert end.is_same
    assert end.is_close
    assert "every array" in str(end)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:1] + lines[2:], "1 steps are lost ([2] …), 0 are there twice"),
        (lambda lines: lines[:2] + lines[1:], "0 steps are lost ([] …), 1 are there twice"),
        (lambda lines: [*lines[:3], lines[3] | {"loss": lines[3]["loss"] * 1.5}], "losses differ by 5.0e-01"),
    ],
    ids=["lost", "twice", "another loss"],
)
def test_lines_that_differ(finished, copied, change, said):
    path = copied / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))
    end = compare(copied, finished)
    assert not end.is_same
    assert not end.is_close
    assert said in str(end)


@pytest.mark.parametrize(("part", "is_close"), [("keys", True), ("queries", False)])
def test_only_biases_of_keys_may_differ_where_processes_changed(finished, copied, part, is_close):
    step, state, run = read_checkpoint(copied / "checkpoints")
    bias = np.array(state["student"]["backbone"]["blocks"]["attn"]["qkv"]["bias"])
    width = bias.shape[-1] // 3
    bias[..., slice(width, 2 * width) if part == "keys" else slice(width)] += 1e-3
    state["student"]["backbone"]["blocks"]["attn"]["qkv"]["bias"] = bias
    shutil.rmtree(copied / "checkpoints")
    checkpoints = Checkpoints(copied / "checkpoints", keep=1)
    checkpoints.save(step, jax.tree.map(np.asarray, state), run=run)
    checkpoints.close()
    end = compare(copied, finished)
    assert not end.is_same
    assert end.is_close == is_close
