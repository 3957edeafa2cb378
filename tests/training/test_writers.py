"""metrics.jsonl and the terminal."""

import json

from flsl_jax.training.writers import JsonLines, open_writers
from flsl_jax.workdir import read_metrics


def write(path, steps, *, start):
    writer = JsonLines(path, start_step=start)
    for step in steps:
        writer.write(step, {"loss": step / 3})
    writer.close()


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    write(once, range(1, 8), start=0)
    write(twice, range(1, 6), start=0)
    write(twice, range(4, 8), start=3)
    assert twice.read_bytes() == once.read_bytes()


def test_a_run_from_the_start_drops_what_another_left(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3], start=0)
    write(path, [1], start=0)
    assert [line["step"] for line in read_metrics(path)] == [1]


def test_a_torn_last_line_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2], start=0)
    path.write_text(path.read_text() + '{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    write(path, [3], start=2)
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


def test_values_without_a_json_number_are_written_as_strings(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path, start_step=0)
    writer.write(1, {"loss": float("nan"), "inter": float("inf")})
    writer.close()
    assert json.loads(path.read_text(), parse_constant=lambda name: 1 / 0) == {"step": 1, "loss": "nan", "inter": "inf"}


def test_tensorboard_events_are_written_and_other_processes_write_nothing(tmp_path, capsys):
    for is_main, folder in ((True, tmp_path / "main"), (False, tmp_path / "other")):
        folder.mkdir()
        writers = open_writers(folder, total_steps=2, start_step=0, tensorboard=True, wandb="", is_main=is_main)
        writers.tick(1, {"loss": 1.0})
        writers.write(2, {"loss": 0.5})
        writers.close()
    assert list((tmp_path / "main" / "tensorboard").glob("events.*"))
    assert not list((tmp_path / "other").iterdir())
    assert capsys.readouterr().err == "step 2/2  loss 0.5\n"
