"""One run of a study: trained, or continued, then measured; what is done already is left as it is."""

import logging
from typing import Any

from flsl_jax.config.parsing import require
from flsl_jax.evaluation import results
from flsl_jax.evaluation.encoder import as_trained
from flsl_jax.evaluation.open_model import open_model
from flsl_jax.evaluation.tasks import open_task, run_task
from flsl_jax.loop import summary, train
from flsl_jax.studies.grid import Cell
from flsl_jax.studies.progress import check_folder, finished_step, mark_finished, measured, subjects, unmark
from flsl_jax.training.keeping.interrupt import Interrupt

log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The run was asked to stop while it was measured."""


def run_cell(cell: Cell) -> bool:
    """Trains and measures a run; returns whether both are done. SIGTERM and Ctrl-C end it early, saved.

    Raises:
        UserError: the folder holds another run, or what `flsl_jax.loop.train` and the evaluations raise.
    """
    check_folder(cell)
    if finished_step(cell) is None:
        unmark(cell)
        outcome = train(cell.config, workdir=cell.folder)
        stop = cell.config.stop_at_step
        require(
            not 0 < stop < outcome.step,
            f"{cell.folder} was trained to step {outcome.step}, past config.stop_at_step={stop}; name another --workdir, or "
            "a later step",
        )
        print(summary(cell.config, workdir=cell.folder, outcome=outcome), flush=True)
        if not outcome.finished:
            return False
        mark_finished(cell, outcome.step)
    with Interrupt() as interrupt:
        try:
            _measure(cell, interrupt)
        except _Stopped:
            log.warning("stopped measuring %s by %s; the same command goes on", cell.name, interrupt.reason)
            return False
    return True


def _measure(cell: Cell, interrupt: Interrupt) -> None:
    """Runs the tasks that are missing of the trained network and the baselines, each task's data opened once."""

    def poll() -> None:
        if interrupt.reason is not None:
            raise _Stopped

    data: dict[str, Any] = {}
    for subject in subjects(cell):
        there = measured(cell, subject)
        missing = [task for task in cell.tasks if task not in there]
        if not missing:
            continue
        model = open_model(subject.source)
        results.check_writable(subject.folder)
        for task in missing:
            settings, batch_size = getattr(cell.config.evaluation, task), cell.config.evaluation.batch_size
            if task not in data:
                data[task] = open_task(task, settings, **as_trained(model.encoder))
            poll()
            scores = run_task(task, settings, encoder=model.encoder, batch_size=batch_size, data=data[task], poll=poll)
            values = results.result(task, settings, scores, model=model.description(), batch_size=batch_size)
            results.write_result(values, subject.folder)
            print(f"{results.table(values)}\n", flush=True)
