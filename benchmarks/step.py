"""Images/s of the training step, compared with a PyTorch step that does the same work, and the time of the step's parts.

    python -m benchmarks.step --config=configs/vits16.py --batch=8 [--torch=eager,compile] [--parts] [--compile]
    python -m benchmarks.step --batch=64 --steps=10 --variants=xla:unroll,cudnn:unroll,cudnn:scan --torch=tuned  # a GPU
    python -m benchmarks.step --beside=dino_vits16,dino_vits16:0 --torch=  # the price of the method

Every side has a process of its own, so that none shares an allocator and threads with another. The sides take turns for
`--blocks` rounds; the medians are reported with their ranges and their ratio to our first variant. Inputs are random.
PyTorch is left out if it is not installed. With `--beside`, the steps of other configs take part, and the ratios of time, FLOPs
and memory are printed. The limit is the device's peak over the step's FLOPs; if the peak is not known
(every CPU), what a large matrix product reaches in the same run takes its place. A side that fails is reported and left out.
"""

import dataclasses
import importlib.util
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from benchmarks import our_step
from benchmarks.sides import Opening, Side
from flsl_jax.config import Config, parse_config
from flsl_jax.config.files import load_config

_CONFIG = config_flags.DEFINE_config_file("config", "configs/vits16.py", "Config whose step is measured.")
_BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 1, "Steps of a timed block.", lower_bound=1)
_BLOCKS = flags.DEFINE_integer("blocks", 5, "Timed blocks of every side.", lower_bound=1)
_VARIANTS = flags.DEFINE_list(
    "variants", [], 'Our steps, each "ATTENTION:BLOCKS", such as cudnn:unroll; empty: as the config says.'
)
_BESIDE = flags.DEFINE_list(
    "beside",
    [],
    "Configs by name or path, such as dino_vits16, whose steps are measured too, with the same batch and compute.",
)
_TORCH = flags.DEFINE_list(
    "torch",
    ["eager"],
    'PyTorch steps: "eager", "compile", or "tuned", which is compiled and reads finished views.',
)
_TOGETHER = flags.DEFINE_bool("together", False, "Compile all sides at once: sooner, but autotuning is disturbed.")
_READY_SECONDS = flags.DEFINE_integer("ready_seconds", 0, "Sides that take longer to start are left out; 0: none.")
_PARTS = flags.DEFINE_bool("parts", False, "Measure the parts of our first step too.")
_COMPILE = flags.DEFINE_bool(
    "compile", False, "Measure how long compiling our first step takes, without and with its cache."
)
_PROFILE = flags.DEFINE_string("profile", "", "Folder for a trace of three steps; what the device ran is printed.")
_JSON = flags.DEFINE_string("json", "", "File for the results.")

# Lines of the profile that are printed; all of them go into --json.
_PROFILE_LINES = 40


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and writes."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    # Every process takes the GPU memory that it needs, instead of three quarters of all at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    config = measured_config(_CONFIG.value)
    size = config.views.size
    images = np.random.default_rng(0).integers(0, 256, (_BATCH.value, size, size, 3), dtype=np.uint8)
    sides = open_sides(config, images)
    ours = [side for side in sides if isinstance(side.facts, our_step.Facts)]
    if not ours:
        raise SystemExit("none of our steps could be measured")
    facts = ours[0].facts
    limit = facts.peak_flops / facts.flops_per_image
    print(f"{facts.devices}, batch {_BATCH.value}, {size} px", flush=True)
    print(
        f"limit {limit:.4g} images/s: {facts.flops_per_image / 1e9:.4g} GFLOP an image at {facts.peak_flops / 1e12:.4g} TFLOP/s"
    )
    rates = take_turns(sides)
    results: dict[str, Any] = {"batch": _BATCH.value, "size": size, "limit": limit, "facts": vars(facts), "sides": {}}
    first = statistics.median(rates[ours[0].name])
    for side in sides:
        results["sides"][side.name] = report(side, rates[side.name], first=first)
    if _BESIDE.value:
        results["beside"] = compare(ours, results["sides"])
    if _PARTS.value:
        results["parts"] = print_table("ms an image", ours[0].call("parts"))
    if _COMPILE.value:
        results["compile"] = print_table("s to compile", ours[0].call("compile_again"))
    if _PROFILE.value:
        results["profile"] = ours[0].call("profile", Path(_PROFILE.value))
        print(f"what the device ran, ms a step: {sum(row[1] for row in results['profile']):.3f} in all")
        for name, milliseconds, calls in results["profile"][:_PROFILE_LINES]:
            print(f"  {milliseconds:9.3f}  {calls:5d} × {name[:100]}")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(results, indent=1))
    for side in sides:
        side.close()


def measured_config(settings: ConfigDict) -> Config:
    """The config with the batch of this benchmark, and without drop path, which PyTorch's side lacks."""
    values = settings.to_dict()
    values["batch_size"] = _BATCH.value
    values["model"]["drop_path"] = 0.0
    return parse_config(values)


def open_sides(config: Config, images: np.ndarray) -> list[Side]:
    """Our variants, then PyTorch's, compiled and run once; those that fail are named and left out."""
    wanted: list[tuple[Any, ...]] = []
    beside = {f" {name}": measured_config(load_config(name)) for name in _BESIDE.value}
    for name, base in ({"": config} | beside).items():
        for variant in _VARIANTS.value or [""]:
            attention, _, blocks = variant.partition(":")
            compute = config.compute
            if variant:
                compute = dataclasses.replace(compute, attention=attention, scan_blocks=blocks or "auto")
            own = dataclasses.replace(base, compute=compute)
            wanted.append((f"flsl_jax{name} {variant}".strip(), our_step.OurStep, own, images))
    if _TORCH.value and importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed; only our step is measured")
    elif _TORCH.value:
        from benchmarks.torch_step import HeldStep

        wanted += [(f"PyTorch {kind}", HeldStep, config, images, kind) for kind in _TORCH.value]
    deadline = time.monotonic() + _READY_SECONDS.value if _READY_SECONDS.value else None
    openings = (Opening(*values) for values in wanted)
    sides = []
    for opening in list(openings) if _TOGETHER.value else openings:
        try:
            sides.append(opening.ready(deadline=deadline))
        except RuntimeError as error:  # the other sides are still worth their figures
            print(error, flush=True)
    return sides


def take_turns(sides: Sequence[Side]) -> dict[str, list[float]]:
    """Images/s of every block, A B A B …"""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(_BLOCKS.value):
        for side in sides:
            start = time.perf_counter()
            side.call("run", _STEPS.value)
            rates[side.name].append(_STEPS.value * _BATCH.value / (time.perf_counter() - start))
    return rates


def report(side: Side, rates: Sequence[float], *, first: float) -> dict[str, Any]:
    """One side's line, and its figures."""
    median, peak, facts = statistics.median(rates), side.call("peak_gib"), side.facts
    share = ""
    if isinstance(facts, our_step.Facts):
        share = f"{100 * median * facts.flops_per_image / facts.peak_flops:5.1f} % of its limit  "
    print(
        f"{side.name:<24}{median:9.4g} images/s ({min(rates):.4g} … {max(rates):.4g})  {share}"
        f"the first is {first / median:.2f}×  peak {peak:.2f} GiB  {facts}",
        flush=True,
    )
    facts = vars(facts) if isinstance(facts, our_step.Facts) else facts
    return {"images_per_sec": list(rates), "median": median, "peak_gib": peak, "facts": facts}


def compare(sides: Sequence[Side], figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What our first step costs, over what each of our others costs: time, FLOPs, memory by the compiler and at the peak."""
    first, *others = (figures[side.name] for side in sides)
    ratios = {}
    for side, other in zip(sides[1:], others):
        ratios[side.name] = {
            "time": other["median"] / first["median"],
            "FLOPs": first["facts"]["flops_per_image"] / other["facts"]["flops_per_image"],
            "memory": first["facts"]["compiled_gib"] / other["facts"]["compiled_gib"],
            "peak memory": first["peak_gib"] / other["peak_gib"],
        }
        # A CPU does not count its peak.
        words = ", ".join(f"{name} {value:.3f} ×" for name, value in ratios[side.name].items() if math.isfinite(value))
        print(f"{sides[0].name} over {side.name}: {words}", flush=True)
    return ratios


def print_table(title: str, values: dict[str, float]) -> dict[str, float]:
    """Prints and returns named numbers."""
    for name, value in values.items():
        print(f"  {name:<26}{value:9.3f} {title}")
    return values


if __name__ == "__main__":
    app.run(main)
