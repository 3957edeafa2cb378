"""Images/s of the host's part of the input, compared with a Pillow pipeline that makes all four views on the host.

    python -m benchmarks.loader [--data=DIR] [--workers=2] [--size=224]

Decode, crop and the Pillow pipeline run in turns in one process and are measured in CPU time, so that other programs on
the machine matter less; the median of the rounds is reported, with the range. The whole loader and the same batches
read in one process are measured in turns, by the clock, which needs a quiet machine with a free core for each worker,
and by the CPU time of all processes together (Linux only). All of this is measured
on the files and on shards that are prepared from them.
"""

import contextlib
import dataclasses
import functools
import io
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from configs import vits16
from flsl_jax.config import parse_config
from flsl_jax.data.images.decode import base_crop, decode_image
from flsl_jax.data.loading.pipeline import Batches, Loader
from flsl_jax.data.records import Source
from flsl_jax.data.sources.opening import FolderSource
from flsl_jax.data.sources.packing import pack
from flsl_jax.data.sources.shards import ShardSource

_DATA = flags.DEFINE_string("data", "", "Folder of images; empty: 64 generated ones of 500 × 375 pixels.")
_WORKERS = flags.DEFINE_integer("workers", os.cpu_count() or 1, "Worker processes of the whole loader.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 224, "Height and width of the crops in pixels.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Repetitions of every measurement.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 64, "Images a repetition.", lower_bound=1)

_VIEWS = parse_config(vits16.get_config().to_dict()).views
_AREA, _ASPECT = _VIEWS.base_area, _VIEWS.aspect
_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


@dataclasses.dataclass(frozen=True)
class Rate:
    """Images a second: the median of the rounds, and the lowest and highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:8.0f} images/s  ({self.low:.0f} … {self.high:.0f})"


def generated_photo(index: int, *, width: int = 500, height: int = 375) -> bytes:
    """A JPEG with the size and the frequencies of a photograph: noise whose spectrum falls as 1/f, quality 90."""
    rng = np.random.default_rng(index)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(height)))
    frequency[0, 0] = 1.0
    spectrum = np.fft.fft2(rng.normal(size=(3, height, width))) / frequency
    waves = np.fft.ifft2(spectrum).real
    waves = (waves - waves.mean((1, 2), keepdims=True)) / waves.std((1, 2), keepdims=True)
    pixels = np.clip(waves.transpose(1, 2, 0) * 50 + 120, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def pil_box(
    width: int, height: int, *, rng: np.random.Generator, area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A RandomResizedCrop box (left, top, right, bottom)."""
    for _ in range(10):
        pixels, ratio = width * height * rng.uniform(*area), np.exp(rng.uniform(*np.log(_ASPECT)))
        w, h = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        if w <= width and h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def pil_jitter(image: Image.Image, *, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue in random order."""
    for operation in rng.permutation(4):
        if operation == 0:
            image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.4))
        elif operation == 1:
            image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.6, 1.4))
        elif operation == 2:
            image = ImageEnhance.Color(image).enhance(rng.uniform(0.8, 1.2))
        else:
            hue, saturation, value = image.convert("HSV").split()
            shift = round(rng.uniform(-0.1, 0.1) * 255)
            hue = Image.fromarray(np.asarray(hue) + np.uint8(shift % 256))
            image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return image


def pil_augmentation(image: Image.Image, *, rng: np.random.Generator) -> np.ndarray:
    """The paper recipe's pixel augmentation (docs/method.md, Views), normalised float32."""
    if rng.random() < 0.8:
        image = pil_jitter(image, rng=rng)
    if rng.random() < 0.2:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    if rng.random() < 0.2:
        image = ImageOps.solarize(image, 128)
    return (np.asarray(image, np.float32) - _MEAN) / _STD


def pil_views(data: bytes, *, rng: np.random.Generator, size: int) -> list[np.ndarray]:
    """Two teacher and two student views of one image, as a PyTorch data loader makes them."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    base = image.crop(pil_box(*image.size, rng=rng, area=_AREA)).resize((size, size), Image.Resampling.BICUBIC)
    views = [pil_augmentation(base, rng=rng) for _ in range(2)]
    for _ in range(2):
        crop = base.crop(pil_box(size, size, rng=rng, area=(0.5, 1.0)))
        views.append(pil_augmentation(crop.resize((size, size), Image.Resampling.BICUBIC), rng=rng))
    return views


def cpu_rates(stages: dict[str, Callable[[bytes], object]], images: Sequence[bytes], *, rounds: int) -> dict[str, Rate]:
    """Images per second of CPU time of each stage, measured in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for stage in stages.values():
        stage(images[0])
    for _ in range(rounds):
        for name, stage in stages.items():
            start = time.process_time()
            for data in images:
                stage(data)
            seconds[name].append(time.process_time() - start)
    return {name: _rate([len(images) / value for value in values]) for name, values in seconds.items()}


def _rate(values: list[float]) -> Rate:
    return Rate(median=statistics.median(values), low=min(values), high=max(values))


@dataclasses.dataclass(frozen=True)
class LoaderRates:
    """Images a second of one process and of the whole loader, each alone: by the clock and per second of CPU time."""

    single: Rate
    whole: Rate
    single_cpu: Rate
    whole_cpu: Rate


def loader_rates(source: Source, *, size: int, workers: int, rounds: int, images: int) -> LoaderRates:
    """Measures the whole loader and the same work in one process, in turns and never at the same time."""
    batch_size = min(64, len(source))
    steps = max(1, images // batch_size)
    loader = functools.partial(
        Loader, source, batch_size=batch_size, crop_size=size, area=_AREA, aspect=_ASPECT, seed=0
    )
    single, whole = [], []
    for _ in range(rounds):
        with contextlib.closing(loader().batches()) as alone:
            next(alone)
            single.append(_measured(alone, steps=steps, batch_size=batch_size))
        with contextlib.closing(loader(workers=workers).batches()) as together:
            for _ in range(4 * workers):  # all workers have started and their buffers are full
                next(together)
            whole.append(_measured(together, steps=8 * steps * workers, batch_size=batch_size))
    return LoaderRates(
        single=_rate([clock for clock, _ in single]),
        whole=_rate([clock for clock, _ in whole]),
        single_cpu=_rate([cpu for _, cpu in single]),
        whole_cpu=_rate([cpu for _, cpu in whole]),
    )


def _measured(batches: Batches, *, steps: int, batch_size: int) -> tuple[float, float]:
    """Images a second by the clock, and a second of CPU time of this process and its workers."""
    start, start_cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(steps):
        next(batches)
    images = steps * batch_size
    return images / (time.perf_counter() - start), images / (_cpu_seconds() - start_cpu)


def _cpu_seconds() -> float:
    """CPU time of this process and its running workers."""
    ticks = 0
    for process in multiprocessing.active_children():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def print_stages(title: str, images: Sequence[bytes], *, size: int, rounds: int) -> None:
    """Images/s of one core for each stage, and the ratio that counts."""
    rng = np.random.default_rng(0)

    def ours(data: bytes) -> object:
        pixels = decode_image(data, name="photo", min_side=round(2.6 * size))
        return base_crop(pixels, rng=rng, size=size, area=_AREA, aspect=_ASPECT, flip=False)

    stages: dict[str, Callable[[bytes], object]] = {
        "decode (Pillow)": lambda data: Image.open(io.BytesIO(data)).convert("RGB"),
        "decode": lambda data: decode_image(data, name="photo"),
        "decode + base crop": ours,
        "Pillow, four views": lambda data: pil_views(data, rng=rng, size=size),
    }
    print(title)
    rates = cpu_rates(stages, images, rounds=rounds)
    for name, rate in rates.items():
        print(f"  {name:28s}{rate} per core")
    ratio = rates["decode + base crop"].median / rates["Pillow, four views"].median
    print(f"  decode + base crop is {ratio:.1f} × the four views in Pillow")


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]}")
    size, rounds, workers = _SIZE.value, _ROUNDS.value, _WORKERS.value
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(_DATA.value or temporary, "" if _DATA.value else "photos")
        if not _DATA.value:
            folder.mkdir()
            for i in range(64):
                (folder / f"{i}.jpg").write_bytes(generated_photo(i))
        packed = Path(temporary, "packed")
        short_side = round(size * 8 / 7)
        pack(FolderSource(folder), packed, short_side=short_side)
        print(f"{size} px crops, load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        sources: dict[str, Source] = {
            f"files of {folder if _DATA.value else 'generated photos of 500 × 375'}": FolderSource(folder),
            f"the same, prepared with --short_side={short_side}": ShardSource(packed),
        }
        for title, source in sources.items():
            images = [bytes(source[i % len(source)].image) for i in range(_IMAGES.value)]
            print_stages(title, images, size=size, rounds=rounds)
            rates = loader_rates(source, size=size, workers=workers, rounds=min(rounds, 3), images=_IMAGES.value)
            print(f"  {'one process, by the clock':28s}{rates.single}")
            print(f"  {f'{workers} workers, by the clock':28s}{rates.whole}")
            share = rates.whole.median / (workers * rates.single.median)
            share_cpu = rates.whole_cpu.median / rates.single_cpu.median
            print(f"  {'one process, CPU time':28s}{rates.single_cpu}")
            print(f"  {f'{workers} workers, CPU time':28s}{rates.whole_cpu}")
            print(f"  kept of {workers} × one process: {share:.0%} by the clock, {share_cpu:.0%} in CPU time")


if __name__ == "__main__":
    app.run(main)
