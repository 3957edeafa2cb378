"""metrics.jsonl: what a killed run, a full disk or something else left in it."""

import json
import os

from flsl_jax.training.watching import json_lines
from flsl_jax.training.watching.json_lines import JsonLines
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


def test_lines_that_are_no_metrics_are_set_aside_and_said(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3], start=0)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    foreign = [
        b"\xff\xfe\x00",
        b'{"step": 2, "lo',
        b"[1, 2]",
        b"17",
        b"null",
        b'{"loss": 1}',
        b'{"step": "x"}',
        b"[" * 5000,
    ]
    path.write_bytes(first + b"\n".join(foreign) + b"\n" + second + third + b'{"step": 4')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    write(path, [4], start=3)
    assert path.read_bytes().startswith(first + second + third)
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes().splitlines() == [*foreign, b'{"step": 4']
    assert "had 9 lines that are no metrics; moved to metrics.jsonl.damaged" in caplog.text


def test_what_a_full_disk_does_not_take_is_written_later(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(json_lines, "_PAUSE", 0.0)
    once, path = tmp_path / "once.jsonl", tmp_path / "metrics.jsonl"
    write(once, range(1, 6), start=0)
    writer = JsonLines(path, start_step=0)
    writer.write(1, {"loss": 1 / 3})
    real = writer._file
    writer._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    for step in (2, 3):
        writer.write(step, {"loss": step / 3})
    writer._file.close()
    writer._file = real
    for step in (4, 5):
        writer.write(step, {"loss": step / 3})
    writer.close()
    assert path.read_bytes() == once.read_bytes()
    assert "No space left on device" in caplog.text


def test_a_line_that_the_disk_took_in_part_is_completed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path, start_step=0)
    write_all = os.write

    class Halves:
        def write(self, content):
            return write_all(real.fileno(), content[: max(1, len(content) // 2)])

        close = lambda self: real.close()  # noqa: E731

    real, writer._file = writer._file, Halves()
    writer.write(1, {"loss": 0.5})
    writer.write(2, {"loss": 0.25})
    writer.close()
    assert [line["loss"] for line in read_metrics(path)] == [0.5, 0.25]
