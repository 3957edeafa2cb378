"""Batches as a config wants them, on the devices before the step asks for them."""

import contextlib
import dataclasses
import faulthandler
import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from flsl_jax.config import Config
from flsl_jax.data.images.levels import decoding_of
from flsl_jax.data.loading.pipeline import Batches, HostBatch, Loader
from flsl_jax.data.records import Source
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import DataError
from flsl_jax.parallel import to_devices

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
# What stands in the queue behind the last batch.
_END = object()


@dataclasses.dataclass(frozen=True)
class DeviceBatch:
    """A batch on the devices: `images` uint8 [B, S, S, 3], `sample` uint32 [B]; `host` is what this process read."""

    images: jax.Array
    sample: jax.Array
    host: HostBatch
    wait_seconds: float


def open_loader(config: Config, *, source: Source | None = None) -> Loader:
    """The loader of this process's share of every batch; `source`: what `config.data` names, if it is open already."""
    return Loader(
        open_source(config.data) if source is None else source,
        batch_size=config.batch_size,
        crop_size=config.views.size,
        seed=config.seed,
        area=config.views.base_area,
        aspect=config.views.aspect,
        flip=config.views.flip,
        decoding=decoding_of(config.data),
        workers=config.compute.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_corrupt=config.data.on_corrupt,
        max_corrupt_share=config.data.max_corrupt_share,
        patience=config.compute.loader_timeout_seconds,
    )


def device_batches(
    batches: Iterator[HostBatch],
    *,
    sharding: NamedSharding,
    prefetch: int,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[DeviceBatch, None, None]:
    """Copies batches to the devices in a thread, `prefetch` ahead; `wait_seconds` is how long the caller waited.

    While there is no batch, `stop` is asked twice a second, and ends the iterator.

    Raises:
        DataError: no batch came for longer than `batches.patience` seconds, if that is not 0.
    """
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
            put(_END)
        except BaseException as error:  # passed on to the training thread, which raises it
            put(error)

    thread = threading.Thread(target=copy, name="device-batches", daemon=True)
    thread.start()
    try:
        while True:
            start = time.perf_counter()
            item = None
            while item is None:
                try:
                    item = ready.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    if stop():
                        return
                    _check_silence(batches, time.perf_counter() - start)
            wait = time.perf_counter() - start
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            images, sample, host = item
            yield DeviceBatch(images=images, sample=sample, host=host, wait_seconds=wait)
    finally:
        stopped.set()
        if isinstance(batches, Batches):
            batches.cancel()
        thread.join(timeout=10)


def _check_silence(batches: Iterator[HostBatch], seconds: float) -> None:
    """Ends a run whose own process hangs while it reads an image; workers are watched by their `Crew`."""
    if not isinstance(batches, Batches) or not 0 < batches.patience < seconds:
        return
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        log.error("stacks of all threads:\n%s", file.read().decode(errors="replace"))
    raise DataError(
        f"no batch for {batches.patience:g} s, at {batches.place()}; remove that image if it alone does this, else look at the "
        "disk, or raise config.compute.loader_timeout_seconds"
    )
