"""A run that has fallen silent says what it does."""

import time

import pytest

from flsl_jax.training.watching.watchdog import Watchdog


def reports(folder):
    return sorted(path.name for path in folder.glob("silent_*"))


def wait_for(condition, *, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_silence_is_reported_once_with_the_stacks_and_the_samples(tmp_path, caplog):
    with Watchdog(tmp_path, minutes=0.2 / 60) as watchdog:
        watchdog.beat(7, [56, 57])
        wait_for(lambda: "has what every thread does" in caplog.text)
        time.sleep(0.5)
    assert reports(tmp_path) == ["silent_step7_process0.txt"]
    text = (tmp_path / "silent_step7_process0.txt").read_text()
    assert "Samples of that step: 56 57\n" in text
    assert "in test_a_silence_is_reported_once" in text  # the stack of this thread
    assert caplog.text.count("no step ended") == 1


def test_steps_and_pauses_are_no_silence_and_what_follows_a_pause_is(tmp_path):
    with Watchdog(tmp_path, minutes=1 / 60) as watchdog:
        time.sleep(0.3)  # before the first step: compiling
        for step in range(1, 13):
            watchdog.beat(step, [step])
            time.sleep(0.1)
        with watchdog.paused():
            time.sleep(1.4)
        assert reports(tmp_path) == []
        wait_for(lambda: reports(tmp_path) == ["silent_step12_process0.txt"])


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_it_ends_at_once_with_its_context(tmp_path, minutes):
    start = time.monotonic()
    with Watchdog(tmp_path, minutes=minutes) as watchdog:
        watchdog.beat(1, [0])
    assert time.monotonic() - start < 5
    assert reports(tmp_path) == []


def test_a_report_that_cannot_be_written_costs_a_line(tmp_path, caplog):
    with Watchdog(tmp_path / "gone", minutes=0.1 / 60) as watchdog:
        watchdog.beat(2, [0])
        wait_for(lambda: "no step ended" in caplog.text)
    assert "No such file or directory" in caplog.text
