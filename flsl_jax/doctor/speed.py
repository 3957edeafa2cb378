"""How fast the devices multiply matrices, and whether they do so without mistakes."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.doctor.finding import Finding
from flsl_jax.training.cost import peak_flops

_SECONDS = 2.0
# Rows of the matrices, and products in one call.
_SIZE, _SIZE_ON_CPU, _CHAIN = 8192, 1024, 8
# From this share of the peak on, a device does what it can; large products reach about 0.7.
_GOOD_SHARE = 0.4
_NAME = "machine/speed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """FLOP/s of each device in turn, of the dtype in which a training multiplies; `wrong`: devices that made mistakes."""

    kind: str
    dtype: str
    flops: Sequence[float]
    wrong: Sequence[int]

    @property
    def total(self) -> float:
        """FLOP/s of all devices together."""
        return sum(self.flops)


def measure(*, seconds: float = _SECONDS) -> Speed:
    """Multiplies for so many seconds in all, on each device of this process; of several CPU devices on the first, as they share
    their cores."""
    devices = jax.local_devices()
    on_cpu = devices[0].platform == "cpu"
    dtype = jnp.float32 if on_cpu else jnp.bfloat16
    measured = devices[:1] if on_cpu else devices
    share = seconds / len(measured)
    return Speed(
        kind=devices[0].device_kind,
        dtype=jnp.dtype(dtype).name,
        flops=[
            _flops(device, size=_SIZE_ON_CPU if on_cpu else _SIZE, dtype=dtype, seconds=share) for device in measured
        ],
        wrong=[device.id for device in measured if not _is_exact(device, dtype=dtype)],
    )


def judge(speed: Speed) -> Finding:
    """The speed beside the known peak of such a device."""
    if speed.wrong:
        return Finding(
            name=_NAME,
            colour="red",
            found=f"device {', '.join(map(str, speed.wrong))} multiplies whole numbers wrongly",
            advice="do not train on it: restart the machine, and have the device replaced if that does not help",
        )
    slowest, peak = min(speed.flops), peak_flops(speed.kind)
    each = " each" if len(speed.flops) > 1 else ""
    found = f"{_rate(slowest)}{each} in {speed.dtype} matrix products"
    if peak is None:
        return Finding(name=_NAME, colour="green", found=f"{found} (no peak is known of {speed.kind})")
    found += f", {slowest / peak:.0%} of the peak of {_rate(peak)}"
    if slowest >= _GOOD_SHARE * peak:
        return Finding(name=_NAME, colour="green", found=found)
    which = f"; device {int(np.argmin(speed.flops))} is the slowest" if len(speed.flops) > 1 else ""
    return Finding(
        name=_NAME,
        colour="yellow",
        found=f"{found}{which}",
        advice="nvidia-smi shows whether another program uses it, and its clock, power limit and temperature",
    )


def _flops(device: Any, *, size: int, dtype: Any, seconds: float) -> float:
    keys = jax.random.split(jax.random.key(0))
    x, weight = (jax.device_put(jax.random.normal(key, (size, size)), device) for key in keys)
    # Products keep the size of the numbers, so that neither zeros nor overflows make it easy.
    x, weight = x.astype(dtype), (weight / size**0.5).astype(dtype)
    chain = jax.jit(lambda x, weight: jax.lax.fori_loop(0, _CHAIN, lambda _, x: (x @ weight).astype(dtype), x))
    jax.block_until_ready(chain(x, weight))
    calls, start = 0, time.perf_counter()
    while not calls or time.perf_counter() - start < seconds:
        jax.block_until_ready(chain(x, weight))
        calls += 1
    return calls * _CHAIN * 2 * size**3 / (time.perf_counter() - start)


def _is_exact(device: Any, *, dtype: Any) -> bool:
    """Whether a product of small whole numbers, which every device computes without rounding, is right."""
    left, right = np.arange(512 * 512).reshape(512, 512) % 7, np.arange(512 * 512).reshape(512, 512) % 5
    arrays = (jax.device_put(jnp.asarray(array, dtype), device) for array in (left, right))
    product = jnp.matmul(*arrays, preferred_element_type=jnp.float32)
    return bool(np.array_equal(np.asarray(product), left @ right))


def _rate(flops: float) -> str:
    return f"{flops / 1e12:,.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:,.0f} GFLOP/s"
