"""Plans of tiny studies, and folders of runs as if they had been trained and measured."""

import dataclasses
import json

from flsl_jax.config import to_dict
from flsl_jax.config.files import load_config
from flsl_jax.studies.grid import make_plan
from flsl_jax.studies.progress import mark_finished, subjects


def tiny_plan(workdir, *, study="tests/studies/tiny_study.py", seeds=(0,), **keys):
    config = load_config("tests/tiny.py")
    config.stop_at_step = 2
    config.update_from_flattened_dict(keys)
    return make_plan(study, config, seeds=seeds, workdir=workdir)


def write_run(cell, *, step=2, changes=None):
    """The folder of a finished run that has not been measured."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / "config.json").write_text(json.dumps(to_dict(cell.config) | (changes or {})))
    mark_finished(cell, step)


def write_scores(cell, **values):
    """A result of the bbox-aligned k-NN for each name in `values`: trained, untrained, pixels."""
    settings = dataclasses.asdict(cell.config.evaluation.bbox_knn)
    for subject in subjects(cell):
        if subject.name in values:
            subject.folder.mkdir(parents=True, exist_ok=True)
            result = {
                "task": "bbox_knn",
                "metrics": {"token": values[subject.name]},
                "settings": settings,
                "model": {"name": "x", "step": subject.step},
            }
            (subject.folder / "bbox_knn.json").write_text(json.dumps(result))
