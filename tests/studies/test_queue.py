"""Processes in slots: what each sees, what fails alone, and how they stop."""

import itertools
import signal
import sys
import time
from types import SimpleNamespace

from flsl_jax.studies.queue import last_line, run_queue
from tests.studies.plans import tiny_plan


def run(cells, code, *, slots=(None,), stop=None):
    ended = []
    codes = run_queue(
        cells,
        slots=slots,
        command=lambda cell: [sys.executable, "-c", code.format(index=cell.index)],
        stop=stop or SimpleNamespace(reason=None),
        on_start=lambda cell: None,
        on_end=lambda cell, code: ended.append(cell.name),
    )
    assert sorted(ended) == sorted(codes)
    return codes


def test_one_that_fails_does_not_stop_the_others_and_leaves_its_reason(tmp_path):
    cells = tiny_plan(tmp_path).cells
    codes = run(cells, "import sys; {index} == 1 and sys.exit('what was wrong')")
    assert codes == {"K8-seed0": 0, "K24-seed0": 1, "too-large-seed0": 0}
    assert last_line(cells[1].folder) == "what was wrong"
    assert last_line(cells[0].folder) == ""


def test_each_gpu_has_one_process_at_a_time_which_sees_no_other(tmp_path):
    cells = tiny_plan(tmp_path, seeds=(0, 1)).cells
    code = "import os, time; a = time.time(); time.sleep(.2); print(os.environ['CUDA_VISIBLE_DEVICES'], a, time.time())"
    assert set(run(cells, code, slots=("3", "5")).values()) == {0}
    spans = sorted((gpu, float(start), float(end)) for gpu, start, end in (last_line(c.folder).split() for c in cells))
    assert {gpu for gpu, *_ in spans} == {"3", "5"}
    for (gpu, _, end), (next_gpu, start, _) in itertools.pairwise(spans):
        assert gpu != next_gpu or end <= start


def test_when_asked_to_stop_those_that_run_are_told_and_no_more_start(tmp_path):
    cells = tiny_plan(tmp_path).cells
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('ready', flush=True); "
        "time.sleep(60)"
    )

    class StopOnceReady:
        @property
        def reason(self):
            log = cells[0].folder / "log.txt"
            return "SIGTERM" if log.exists() and log.read_text() else None

    begin = time.monotonic()
    assert run(cells, code, stop=StopOnceReady()) == {"K8-seed0": 75}
    assert time.monotonic() - begin < 30
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
