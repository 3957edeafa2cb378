"""How long training waits for a checkpoint, and how long it takes until the checkpoint is committed.

    python -m benchmarks.checkpoint --config=configs/vits16.py [--folder=DIR] [--rounds=5]

The state of the config's network is saved as the loop saves it, asynchronously: `save` returns when the state has been
copied off the devices, which is the time that training waits; the files are written meanwhile. The digests of all arrays are
part of it, and are measured alone too: by the wall clock, and as the share of the save's processor time. Medians with their
ranges are printed.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from flsl_jax import parallel
from flsl_jax.checkpoints import Checkpoints
from flsl_jax.checkpoints.digests import begin_sums
from flsl_jax.config import parse_config
from flsl_jax.training.setup import build_training

_CONFIG = config_flags.DEFINE_config_file("config", "configs/vits16.py", "Config whose state is saved.")
_FOLDER = flags.DEFINE_string("folder", None, "Where to write; the file system is part of what is measured.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Checkpoints to save.", lower_bound=1)


def main(arguments: Sequence[str]) -> None:
    """Saves, measures and prints."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    logging.set_verbosity(logging.ERROR)
    config = parse_config(_CONFIG.value.to_dict())
    training = build_training(config, mesh=parallel.make_mesh(config.parallel), steps_per_epoch=100)
    state = jax.block_until_ready(training.init())
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    blocked, committed, digested, shares = [], [], [], []
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        checkpoints = Checkpoints(Path(folder), keep=1)
        with contextlib.closing(checkpoints):
            for step in range(_ROUNDS.value + 1):  # the first one also starts orbax's threads and is left out
                start, used = time.perf_counter(), time.process_time()
                checkpoints.save(step, state, run={})
                returned = time.perf_counter()
                checkpoints.wait()
                blocked.append(returned - start)
                committed.append(time.perf_counter() - start)
                used = time.process_time() - used
                start, alone = time.perf_counter(), time.process_time()
                begin_sums(state)()
                digested.append(time.perf_counter() - start)
                shares.append((time.process_time() - alone) / used)
    print(f"{jax.devices()[0].device_kind} × {jax.device_count()}, state of {size / 2**30:.2f} GiB")
    print(f"  training waits   {_spread(blocked[1:])}")
    print(f"  committed after  {_spread(committed[1:])}")
    print(
        f"  digests alone    {_spread(digested[1:])}, {statistics.median(shares[1:]):.1%} of the save's processor time"
    )


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):7.3f} s  ({min(seconds):.3f} … {max(seconds):.3f})"


if __name__ == "__main__":
    app.run(main)
