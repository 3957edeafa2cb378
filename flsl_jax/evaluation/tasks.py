"""The list of all evaluations, and how one is opened and run by its name."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flsl_jax.config import nearest_key
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder, watched
from flsl_jax.evaluation.protocols import (
    bbox_knn,
    clustering,
    correspondence,
    depth,
    discovery,
    image_knn,
    linear_probe,
    retrieval,
    separability,
    video,
)
from flsl_jax.evaluation.task import Task, TaskResult

# In the order of --help.
_ALL: tuple[Task[Any, Any], ...] = (
    bbox_knn.TASK,
    image_knn.TASK,
    video.TASK,
    discovery.TASK,
    separability.TASK,
    retrieval.TASK,
    clustering.TASK,
    linear_probe.TASK,
    correspondence.TASK,
    depth.TASK,
)
TASKS: Mapping[str, Task[Any, Any]] = {task.name: task for task in _ALL}


def check_names(names: Sequence[str]) -> None:
    """Refuses a name that is no task's.

    Raises:
        UserError: names the nearest task.
    """
    for name in names:
        if name not in TASKS:
            raise UserError(f"there is no task {name!r}; {nearest_key(name, TASKS)}")


def open_task(name: str, settings: Any, *, patch_size: int, image_size: int, decoding: Decoding = RGB) -> Any:
    """The data of a task, for `run_task`; see `OpenData`."""
    return TASKS[name].open(settings, patch_size=patch_size, image_size=image_size, decoding=decoding)


def run_task(
    name: str,
    settings: Any,
    *,
    encoder: Encoder,
    batch_size: int,
    data: Any = None,
    poll: Callable[[], None] | None = None,
) -> TaskResult:
    """Runs a task by its name.

    Args:
        name: one of `TASKS`.
        settings: of the task's own dataclass.
        encoder: whose features are judged.
        batch_size: images encoded at a time.
        data: from `open_task`; None: opened here.
        poll: called before each batch is encoded; an exception that it raises ends the task.

    Raises:
        UserError: bad input.
    """
    start = time.perf_counter()
    polled = encoder if poll is None else watched(encoder, lambda _: poll())
    scores = TASKS[name].evaluate(polled, settings, batch_size=batch_size, data=data)
    return TaskResult(scores=scores, seconds=time.perf_counter() - start)
