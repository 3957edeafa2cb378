"""Two real processes: one is missing, unlike the other, or lost; the other says so in one line, and its exit code too."""

import re
import signal
import time

from tests.processes.commands import ended, errors, free_port, start_one, start_two, wait_for_lines


def test_a_process_that_waits_in_vain_names_itself_and_who_is_missing(tmp_path):
    alone = [start_one(tmp_path / str(number), number, port=free_port(), timeout=1) for number in range(2)]
    outputs = ended(alone)
    assert [process.returncode for process in alone] == [2, 2]
    assert "process 0 of 2 waited 1 s at 127.0.0.1:" in outputs[0]
    assert ", and process 1 did not come; check that all 2 were started" in outputs[0]
    assert "error: process 1 of 2 (on " in outputs[1]
    assert "waited 1 s for process 0 at 127.0.0.1:" in outputs[1]
    assert "(Connection refused); check that all 2 were started" in outputs[1]
    assert [len(output.splitlines()) for output in outputs] == [1, 1]
    assert not any(tmp_path.iterdir())


def test_another_config_on_one_process_is_refused_by_both(tmp_path):
    processes = start_two(tmp_path, own=([], ["--config.seed=4", "--config.optimizer.lr=0.1"]))
    outputs = ended(processes)
    assert [process.returncode for process in processes] == [2, 2]
    for output in outputs:
        assert output.startswith("error: process 1 of 2 (")
        assert output.endswith(
            ") has config.seed = 4, process 0 has 0; start all processes of a run with the same config\n"
        )


def test_when_one_is_killed_the_other_ends_and_the_same_command_goes_on(tmp_path):
    for killed, lines in ((1, 3), (0, 8)):
        processes = start_two(tmp_path, "--config.epochs=100")
        wait_for_lines(tmp_path, lines, processes)
        processes[killed].kill()
        start = time.monotonic()
        output = ended(processes)[1 - killed]
        assert time.monotonic() - start < 20
        assert processes[1 - killed].returncode == 75, output
        (line,) = errors(output)
        assert line.startswith(f"error: process {killed} of 2 (")
        assert line.endswith("exit code 75: the same command goes on from its checkpoint")
        assert ("continuing from the checkpoint of step" in output) == (killed == 0)


def test_a_signal_to_one_stops_both_after_the_same_step(tmp_path):
    processes = start_two(tmp_path, "--config.epochs=100")
    wait_for_lines(tmp_path, 3, processes)
    processes[1].send_signal(signal.SIGUSR1)
    outputs = ended(processes)
    assert [process.returncode for process in processes] == [75, 75]
    (first, why), (second, own) = (re.findall(r"stopped at step (\d+) by (.*); saved", output)[0] for output in outputs)
    assert first == second
    assert (why, own) == ("another process's request", "SIGUSR1")
    assert (tmp_path / "checkpoints" / first).is_dir()
