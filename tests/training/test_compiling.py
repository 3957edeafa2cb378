"""What a run says while it compiles its step."""

import json
import logging

import pytest

from flsl_jax.loop import train
from flsl_jax.training.compiling import COMPILATION_FILE, announced
from tests.tiny import tiny_config


def test_a_run_says_that_it_compiles_and_what_that_took_the_last_time(tmp_path, caplog):
    caplog.set_level(logging.INFO, "flsl_jax")
    train(tiny_config(stop_at_step=1), workdir=tmp_path)
    assert "compiling the step; this can take minutes" in caplog.messages
    assert json.loads((tmp_path / COMPILATION_FILE).read_text())["seconds"] > 0
    (tmp_path / COMPILATION_FILE).write_text('{"seconds": 47.9}')
    caplog.clear()
    train(tiny_config(stop_at_step=3), workdir=tmp_path)
    assert [line for line in caplog.messages if "compiling" in line] == ["compiling the step; it took 48 s last time"]
    assert json.loads((tmp_path / COMPILATION_FILE).read_text())["seconds"] != 47.9


@pytest.mark.parametrize("written", ["", "[]", '{"seconds": null}', '{"minutes": 1}'])
def test_a_file_that_says_nothing_is_passed_over(tmp_path, caplog, written):
    caplog.set_level(logging.INFO, "flsl_jax")
    (tmp_path / COMPILATION_FILE).write_text(written)
    with announced(tmp_path):
        assert caplog.messages == ["compiling the step; this can take minutes"]


def test_a_step_that_fails_leaves_what_is_on_record(tmp_path):
    (tmp_path / COMPILATION_FILE).write_text('{"seconds": 47.9}')
    with pytest.raises(RuntimeError), announced(tmp_path):
        raise RuntimeError
    assert (tmp_path / COMPILATION_FILE).read_text() == '{"seconds": 47.9}'
