"""Whether two runs came to the same end: every line of metrics, and every array of the newest checkpoint."""

import dataclasses
from pathlib import Path

import numpy as np

from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.checkpoints.digests import names_of
from flsl_jax.workdir import read_metrics

# Of a machine's speed, so never the same.
_TIMING = ("images_per_sec", "data_wait_share", "mfu")
# Of losses, between rounding (1e-6 after some hundred steps) and another sample (1e-2); and of parameters.
_SAME_SAMPLES, _CLOSE = 1e-4, 1e-6


@dataclasses.dataclass(frozen=True)
class End:
    """How the end of a run differs from another one's.

    Attributes:
        lines: what is wrong with the lines of metrics as such (steps lost or repeated); "": nothing.
        metrics: whether all values of all lines are equal.
        loss: the largest relative difference of a loss.
        state: whether every array of the newest checkpoint is equal to the bit.
        parameters: the largest difference of a parameter of student and teacher, without the biases of keys: the softmax
            takes no notice of those, their gradient is rounding alone, and AdamW makes full steps of it.
    """

    lines: str
    metrics: bool
    loss: float
    state: bool
    parameters: float

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not self.lines and self.metrics and self.state

    @property
    def is_close(self) -> bool:
        """Whether every loss is of the same samples, and parameters are equal but for rounding: within 1e-6."""
        return not self.lines and self.loss <= _SAME_SAMPLES and self.parameters <= _CLOSE

    def __str__(self) -> str:
        if self.is_same:
            return "every line of metrics and every array is that of the undisturbed run"
        differences = f"losses differ by {self.loss:.1e} at most, parameters by {self.parameters:.1e}"
        return f"{self.lines or 'every step once'}; {differences}"


def compare(workdir: Path, reference: Path) -> End:
    """Compares two runs in their workdirs."""
    ours, theirs = (read_metrics(path / "metrics.jsonl") for path in (workdir, reference))
    steps, expected = ([line["step"] for line in lines] for lines in (ours, theirs))
    lines = ""
    if steps != expected:
        lost, more = sorted(set(expected) - set(steps)), len(steps) - len(set(steps))
        lines = f"{len(lost)} steps are lost ({lost[:5]} …), {more} are there twice"
    by_step = {line["step"]: line for line in ours}
    pairs = [(by_step[line["step"]], line) for line in theirs if line["step"] in by_step]
    (step, state), (last, other) = (read_checkpoint(path / "checkpoints")[:2] for path in (workdir, reference))
    arrays = [
        (name, np.asarray(a), np.asarray(b)) for (name, a), b in zip(names_of(state).items(), names_of(other).values())
    ]
    return End(
        lines=lines,
        metrics=all(_values(a) == _values(b) for a, b in pairs),
        loss=max((abs(a["loss"] - b["loss"]) / abs(b["loss"]) for a, b in pairs), default=0.0),
        state=step == last and all(np.array_equal(a, b) for _, a, b in arrays),
        parameters=max(_distance(name, a, b) for name, a, b in arrays if name.startswith(("student.", "teacher."))),
    )


def _values(line: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in _TIMING}


def _distance(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    if name.endswith(".qkv.bias"):  # queries, keys, values along the last axis
        ours, theirs = (np.delete(np.split(array, 3, axis=-1), 1, axis=0) for array in (ours, theirs))
    return float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0))
