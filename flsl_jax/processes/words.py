"""The sentences that the processes of a run have in common, and the limits in them."""

from collections.abc import Sequence

from flsl_jax.errors import STOPPED_EARLY
from flsl_jax.processes.place import Place

# Ticks of TICK seconds between two signs of life, and without one until a process counts as lost. JAX's own limit is longer.
TICK, BEAT, LOST_AFTER = 1.0, 5, 100


def named(numbers: Sequence[int]) -> str:
    """ "process 3", or "processes 1, 4 and 7"."""
    words = [str(number) for number in numbers]
    if len(words) == 1:
        return f"process {words[0]}"
    return f"processes {', '.join(words[:-1])} and {words[-1]}"


def advice(place: Place) -> str:
    """What to check where processes do not find each other."""
    return (
        f"check that all {place.count} were started, that each reaches {place.coordinator} (a firewall?), and "
        "config.parallel.coordinator, num_processes and process_id"
    )


def lost(name: str, *, silent: bool = False) -> str:
    """That a process is gone, and what becomes of this one."""
    how = (
        f"has given no sign of life for {LOST_AFTER} s"
        if silent
        else "is gone (killed, out of memory, or its machine is)"
    )
    return (
        f"{name} {how}; this one ends too, with exit code {STOPPED_EARLY}: the same command goes on from its checkpoint"
    )
