"""A few faults of every sort fall upon a run of real processes, and it ends as if nothing had happened."""

from benchmarks.chaos import main


def test_a_short_schedule_of_faults(capfd):
    code = main(["--faults=6", "--seed=1"])
    output = capfd.readouterr().out
    assert code == 0, output
    assert "the run that stays: 3 faults" in output
    assert "every line of metrics and every array is that of the undisturbed run" in output
    assert "the run that moves: 3 faults" in output
    assert "every step once; losses differ by" in output
