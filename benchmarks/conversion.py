"""Time and memory of `flsl_jax.convert`: `python -m benchmarks.conversion --config=configs/vitb16.py --formats=timm,mmseg`.

Writes a checkpoint of random weights, optimizer state included, and converts it, to each format in a process of its own.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from flsl_jax.checkpoints import Checkpoints
from flsl_jax.config import parse_config, to_dict
from flsl_jax.training.optimizer import make_optimizer
from flsl_jax.training.state import create_state

_CONFIG = config_flags.DEFINE_config_file("config", "configs/vitb16.py", "The network.")
_FORMATS = flags.DEFINE_list("formats", ["timm", "mmseg", "transformers"], "Formats, one conversion each.")


def write_checkpoint(workdir: Path) -> None:
    """The state before the first step, as a run saves it."""
    config = parse_config(_CONFIG.value.to_dict())
    state = create_state(config, optimizer=make_optimizer(b1=0.9, b2=0.999, freeze_last_layer_steps=0))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1)
    checkpoints.save(1, state, run={"config": to_dict(config), "step": 1})
    checkpoints.close()


def main(_: list[str]) -> None:
    """Prints seconds and peak memory of each conversion; the memory is the largest so far."""
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        write_checkpoint(workdir)
        for name in _FORMATS.value:
            output = Path(folder) / (name if name in ("timm", "transformers", "transformers-vitdet") else f"{name}.pth")
            command = [sys.executable, "-m", "flsl_jax.convert", f"--input={workdir}", f"--format={name}"]
            start = time.perf_counter()
            done = subprocess.run([*command, f"--output={output}"], capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            parity = next((line for line in done.stdout.splitlines() if "parity" in line), "")
            print(f"{name}: {seconds:.1f} s, {peak:.2f} GiB at most; {parity}", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    app.run(main)
