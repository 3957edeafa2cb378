"""Compiles the training step for devices that are not there, and says what the compiler made of it.

    python -m benchmarks.ahead --config=configs/vits16.py --topology=v5e:2x4 --config.batch_size=64
    python -m benchmarks.ahead --config=configs/vits16.py --topology=v5e:2x4 --config.parallel.fsdp=8 --json=OUT.json
    python -m benchmarks.ahead --config=configs/vits16.py --topology=v5e:2x4 --config.batch_size=64 --lower_only
    python -m benchmarks.ahead --config=configs/vits16.py --gpu=h100.txtpb --gpu_shape=1x1x8 --config.batch_size=64

A TPU needs the extra `ahead` (`pip install -e .[ahead]`, libtpu alone). A GPU needs JAX's CUDA plugin without its libraries:
jax-cuda13-plugin and jax-cuda13-pjrt of JAX's version (`pip install --no-deps`), and nvidia-cuda-nvcc, nvidia-nvvm and
nvidia-cuda-runtime; `--gpu` names XLA's text description of the device, which its sources have under
xla/backends/gpu/target_config/specs.

Nothing is run, so this says nothing of speed. It says whether the program compiles, what it keeps in memory beside our own
estimate, in which precision it multiplies, what it sends between devices, and which arrays are large, padded or copied.
Lowering takes seconds, compiling S/16 for eight v5e two to six minutes on two cores. Loops count once in what the compiler
shows (collectives, largest arrays, copies), and as often as they run in the products.
"""

import collections
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies
from ml_collections import config_flags

from benchmarks import compiled, lowered
from flsl_jax import parallel
from flsl_jax.config import Config, parse_config
from flsl_jax.networks import for_backend
from flsl_jax.training import memory
from flsl_jax.training.setup import Training, build_training, memory_sizes

_CONFIG = config_flags.DEFINE_config_file("config", "configs/vits16.py", "Config whose step is compiled.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "TPUs, such as v5e:2x4, v5p:4x4x4, v6e:4x4 or v5e:1x1.")
_SLICES = flags.DEFINE_integer(
    "slices", 1, "So many of that topology, joined by the data-centre network.", lower_bound=1
)
_GPU = flags.DEFINE_string("gpu", "", "File with XLA's description of a GPU; compiles for it instead of TPUs.")
_GPU_SHAPE = flags.DEFINE_string("gpu_shape", "1x1x1", "Slices, hosts of a slice and GPUs of a host.")
_LOWER_ONLY = flags.DEFINE_bool("lower_only", False, "Stop before the compiler: products and sums alone.")
_TOP = flags.DEFINE_integer("top", 12, "Lines of each list.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "File for all of it.")
_HLO = flags.DEFINE_string("hlo", "", "File for the compiler's program.")


def main(arguments: Sequence[str]) -> None:
    """Lowers, compiles, prints and writes."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    # libtpu would else look for the cloud machine that it is on, and refuse a second program of this machine.
    os.environ.update({"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"})
    jax.config.update("jax_platforms", "cpu")
    devices = target_devices()
    config = for_backend(parse_config(_CONFIG.value.to_dict()), devices[0].platform)
    print(
        f"{len(devices)} × {devices[0].device_kind}, batch {config.batch_size}, fsdp {config.parallel.fsdp}, "
        f"{config.compute.dtype}, blocks {config.compute.scan_blocks}, remat {config.compute.remat}, "
        f"{config.compute.micro_batches} micro-batches, JAX {jax.__version__}",
        flush=True,
    )
    training = build_training(config, mesh=parallel.make_mesh(config.parallel, devices=devices), steps_per_epoch=100)
    start = time.perf_counter()
    program = lower(training, config, platform="cuda" if _GPU.value else "tpu")
    facts: dict[str, Any] = {"lower_seconds": time.perf_counter() - start}
    facts |= report_lowered(program, training.flops_per_image * config.batch_size)
    if not _LOWER_ONLY.value:
        start = time.perf_counter()
        executable = program.compile()
        facts["compile_seconds"] = time.perf_counter() - start
        facts |= report_compiled(executable, estimate(config, training, devices=len(devices)))
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(facts, indent=1))


def target_devices() -> list[Any]:
    """The devices that the flags describe."""
    if _GPU.value:
        text = Path(_GPU.value).read_text()
        target = topologies.get_topology_desc("", "cuda", target_config=text, topology=_GPU_SHAPE.value)
    else:
        options: dict[str, Any] = {"num_slices": _SLICES.value} if _SLICES.value > 1 else {}
        if _TOPOLOGY.value.endswith(":1x1"):
            # A host of a v5e or v6e has four chips or eight unless this says otherwise.
            options["chips_per_host_bounds"] = (1, 1, 1)
        target = topologies.get_topology_desc(platform="tpu", topology_name=_TOPOLOGY.value, **options)
    return list(target.devices)


def lower(training: Training, config: Config, *, platform: str) -> jax.stages.Lowered:
    """The step as StableHLO for a platform, with the shardings of its arguments."""
    batch, size = config.batch_size, config.views.size
    pixels = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8, sharding=training.batch_sharding)
    sample = jax.ShapeDtypeStruct((batch,), np.uint32, sharding=training.batch_sharding)
    traced = training.step.trace(training.abstract_state, pixels, sample)  # pyright: ignore[reportFunctionMemberAccess]
    return traced.lower(lowering_platforms=(platform,))


def estimate(config: Config, training: Training, *, devices: int) -> memory.MemoryEstimate:
    """What is printed before the first step of a run."""
    return memory.estimate_memory(config, **memory_sizes(training, devices=devices))


def report_lowered(program: jax.stages.Lowered, own_flops: float) -> dict[str, Any]:
    """Products by type, those that are float32 on both sides one by one, and sums in less than float32."""
    found = lowered.products(program)
    kinds = lowered.by_kind(found)
    total = sum(flops for _, flops in kinds.values())
    print(
        f"products of the whole batch: {total / 1e9:.1f} GFLOP; cost.py has {own_flops / 1e9:.1f}, {total / own_flops:.4f} ×"
    )
    for kind, (number, flops) in kinds.items():
        print(f"  {number:6d} × {kind:<36}{flops / 1e9:12.1f} GFLOP{100 * flops / total:7.2f} %")
    wide: collections.Counter[str] = collections.Counter()
    for product in found:
        if product.left == product.right == "f32":
            wide[f"{product.precision:<8} {_short(product.source)}"] += round(product.flops)
    print("products of float32 with float32, GFLOP:")
    _print_counter(wide, 1e9)
    narrow = collections.Counter()
    for one in lowered.sums(program):
        if one.dtype in ("bf16", "f16"):
            shapes = f"{list(one.before)} → {list(one.after)}"
            narrow[f"{one.dtype} {shapes:<28} {_short(one.source)}"] += one.times
    print("sums in half precision, how often:")
    _print_counter(narrow, 1)
    return {"products": kinds, "flops": total, "own_flops": own_flops, "float32_products": wide, "narrow_sums": narrow}


def report_compiled(executable: jax.stages.Compiled, own: memory.MemoryEstimate) -> dict[str, Any]:
    """Memory of one device, collectives, the largest arrays and the largest copies."""
    compiler: Any = executable.memory_analysis()
    sizes = {
        name: getattr(compiler, f"{name}_in_bytes", 0)
        for name in ("argument_size", "output_size", "alias_size", "temp_size", "generated_code_size", "peak_memory")
    }
    peak = sizes["peak_memory"]
    print("GiB of one device: " + ", ".join(f"{name} {size / 2**30:.3f}" for name, size in sizes.items()))
    print(
        f"  {memory.describe_memory(own, smaller=lambda limit: None)}; the compiler's peak over it: {peak / own.total:.3f}"
    )
    hlo = executable.as_text() or ""
    if _HLO.value:
        Path(_HLO.value).write_text(hlo)
    exchanged = compiled.collectives(hlo)
    print("collectives, number and MiB on one device:")
    for kind, (number, size) in compiled.by_kind(exchanged).items():
        print(f"  {number:6d} × {kind:<20}{size / 2**20:10.2f}")
    large = sorted(exchanged, key=lambda one: -one.bytes)
    for one in large[: _TOP.value]:
        print(f"    {one.bytes / 2**20:10.2f} {one.kind:<20} {', '.join(one.types)[:60]}  {_short(one.source)}")
    written = compiled.results(hlo)
    print("largest arrays, MiB padded and as they are, how many:")
    _print_results(written)
    copied = compiled.copies(written)
    print(f"copies of 1 MiB or more: {len(copied)}, {sum(x.padded for x in copied) / 2**20:.0f} MiB padded")
    _print_results(copied)
    return {
        "memory": sizes,
        "estimate": dataclasses.asdict(own) | {"total": own.total},
        "collectives": [dataclasses.asdict(one) for one in exchanged],
        "arrays": [dataclasses.asdict(one) for one in written if one.padded >= 2**20],
    }


def _print_results(results: Sequence[compiled.Result]) -> None:
    """Equal ones in one line, the largest first."""
    number = collections.Counter((x.padded, x.raw, x.operation, x.type, _short(x.source)) for x in results)
    for (padded, raw, operation, kind, source), times in sorted(number.items(), reverse=True)[: _TOP.value]:
        print(f"  {padded / 2**20:9.1f} {raw / 2**20:9.1f} {times:4d} × {operation:<16} {kind:<28} {source}")


def _print_counter(counter: collections.Counter, unit: float) -> None:
    for name, value in counter.most_common(_TOP.value):
        print(f"  {value / unit:10.2f}  {name}")


def _short(source: str) -> str:
    """The last names of where an operation is from."""
    return source[-90:]


if __name__ == "__main__":
    app.run(main)
