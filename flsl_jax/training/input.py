"""Batches on the devices before the step asks for them."""

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from flsl_jax.data.pipeline import HostBatch
from flsl_jax.parallel import to_devices


@dataclasses.dataclass(frozen=True)
class DeviceBatch:
    """A batch on the devices: `images` uint8 [B, S, S, 3], `sample` uint32 [B]; `host` is what this process read."""

    images: jax.Array
    sample: jax.Array
    host: HostBatch
    wait_seconds: float


def device_batches(
    batches: Iterator[HostBatch], *, sharding: NamedSharding, prefetch: int
) -> Generator[DeviceBatch, None, None]:
    """Copies batches to the devices in a thread, `prefetch` ahead; `wait_seconds` is how long the caller waited."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=prefetch)
    stopped = threading.Event()

    def put(item: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def copy() -> None:
        try:
            for batch in batches:
                if stopped.is_set():
                    return
                put((to_devices(batch.images, sharding), to_devices(np.asarray(batch.sample), sharding), batch))
            put(None)
        except BaseException as error:  # passed on to the training thread, which raises it
            put(error)

    thread = threading.Thread(target=copy, name="device-batches", daemon=True)
    thread.start()
    try:
        while True:
            start = time.perf_counter()
            item = ready.get()
            wait = time.perf_counter() - start
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            images, sample, host = item
            yield DeviceBatch(images=images, sample=sample, host=host, wait_seconds=wait)
    finally:
        stopped.set()
        thread.join(timeout=30)
