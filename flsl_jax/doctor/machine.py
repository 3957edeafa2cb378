"""The machine without any config: packages, devices and their speed, memory, shared memory, open files."""

import dataclasses
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flsl_jax.config import Config
from flsl_jax.doctor.finding import Examination, Finding

_PACKAGE = "flsl_jax"
_AGAIN = "in a checkout, `make install` makes .venv with the tested versions of all packages"
# Workers of most configs, where no config is named.
_WORKERS = 8
_LITTLE_MEMORY = 2 * 2**30
# Files that a training opens besides those of its workers, and those of a worker: pipes, stacks, shared memory.
_OPEN_FILES, _OPEN_FILES_OF_WORKER = 512, 8
# The share of a GPU's memory in use before we use any from which somebody else seems to use it.
_IN_USE = 0.1
_SMI = ("nvidia-smi", "--query-gpu=index,name,driver_version,memory.used,memory.total", "--format=csv,noheader,nounits")


def examine(exam: Examination, config: Config | None) -> None:
    """Checks all but the devices' speed; a config says how many processes read images, and how large these are."""
    workers = _WORKERS if config is None else config.compute.workers
    image_bytes = 0 if config is None else config.data.channels * config.views.size**2
    exam.check("machine/python", _python, advice=_AGAIN)
    exam.check("machine/packages", _packages, advice=_AGAIN)
    exam.check("machine/devices", _devices, advice="see docs/launch.md, or set JAX_PLATFORMS=cpu to do without them")
    exam.check("machine/memory", _memory, advice="look at the memory by another program")
    exam.check(
        "machine/shared memory", lambda: _shared_memory(workers, image_bytes), advice="look whether /dev/shm is there"
    )
    exam.check("machine/open files", lambda: _open_files(workers), advice="look at `ulimit -n`")


def cores() -> int:
    """Processors that this process may use: those of the machine, of its affinity, or of its container if that is less."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota, *period = _words("/sys/fs/cgroup/cpu.max")
    return max(1, min(count, round(int(quota) / int(period[0])))) if quota.isdigit() and period else count


def free_memory() -> tuple[int, int]:
    """Bytes of the host's memory that are free, and all; of the container where that has less.

    Raises:
        OSError: the system does not say.
    """
    free, total = _system_memory()
    (limit, *_), (used, *_) = _words("/sys/fs/cgroup/memory.max"), _words("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit() and int(limit) < total:
        return min(free, max(0, int(limit) - int(used))), int(limit)
    return free, total


def _system_memory() -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    info = Path("/proc/meminfo")
    if not info.exists():  # a Mac does not say it in a file, and what its system keeps can be had back
        return total, total
    values = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return 1024 * int(values["MemAvailable"].split()[0]), total


def _words(path: str) -> Sequence[str]:
    try:
        return Path(path).read_text().split() or [""]
    except OSError:
        return [""]


def _python() -> Finding:
    wanted = (importlib.metadata.metadata(_PACKAGE).get_all("Requires-Python") or [""])[0]
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if wanted and not _within(platform.python_version(), wanted):
        return Finding(
            name="machine/python",
            colour="red",
            found=f"{found}; {_PACKAGE} needs {wanted}",
            advice="take a newer Python",
        )
    return Finding(name="machine/python", colour="green", found=f"{found} (tested: {wanted})")


def _packages() -> Iterator[Finding]:
    """The packages that this one needs against the ranges that it was tested with; of extras those that are installed."""
    from packaging.requirements import Requirement

    good, missing, other = 0, [], []
    try:
        lines = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            name="machine/packages",
            colour="yellow",
            found=f"{_PACKAGE} is not installed, so that its ranges are not known",
            advice=_AGAIN,
        )
        return
    for requirement in map(Requirement, lines):
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not needed and not _of_an_extra(requirement):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing += [str(requirement.name)] if needed else []
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good += 1
        else:
            other.append(f"{requirement.name} {version} (tested: {requirement.specifier})")
    yield Finding(name="machine/packages", colour="green", found=f"{good} installed in the tested ranges")
    if missing:
        found = f"not installed: {', '.join(missing)}"
        yield Finding(name="machine/packages", colour="red", found=found, advice=_AGAIN)
    if other:
        found = f"never tested in these versions: {', '.join(dict.fromkeys(other))}"
        yield Finding(name="machine/packages", colour="yellow", found=found, advice=_AGAIN)


def _of_an_extra(requirement: object) -> bool:
    """Whether an extra asks for it, on this machine."""
    marker = getattr(requirement, "marker", None)
    extras = importlib.metadata.metadata(_PACKAGE).get_all("Provides-Extra") or []
    return marker is not None and any(marker.evaluate({"extra": extra}) for extra in extras)


def _within(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


@dataclasses.dataclass(frozen=True)
class _Gpu:
    name: str
    driver: str
    used_mib: int
    total_mib: int


def _gpus() -> list[_Gpu]:
    """The NVIDIA GPUs that the driver shows to this process, whether JAX uses them or not; none without a driver."""
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 4]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else {part.strip() for part in visible.split(",")}
    if chosen is not None and not all(part.isdigit() for part in chosen if part):  # names of devices, or of their parts
        chosen = None
    return [
        _Gpu(name=name, driver=driver, used_mib=int(used), total_mib=int(total))
        for index, name, driver, used, total in rows
        if (chosen is None or index in chosen) and used.isdigit() and total.isdigit()
    ]


def _devices() -> Iterator[Finding]:
    name, gpus = "machine/devices", _gpus()  # first, while we use no memory of them

    import jax

    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        words = str(error).splitlines()[0]
        yield Finding(
            name=name,
            colour="red",
            found=f"JAX finds no device ({words})",
            advice="set JAX_PLATFORMS=cpu to do without accelerators, or see docs/launch.md",
        )
        return
    kind = devices[0].device_kind
    what = f"{len(devices)} × {kind}" + (f" with {cores()} cores" if kind == "cpu" else "")
    driver = f", driver {gpus[0].driver}" if gpus else ""
    found = f"{what}{driver}, JAX {jax.__version__}"
    if devices[0].platform == "cpu" and gpus:
        yield Finding(
            name=name, colour="yellow", found=f"{found}, but this machine has {gpus[0].name}", advice=_use_gpu()
        )
        return
    if devices[0].platform == "cpu" and any(Path("/dev").glob("accel[0-9]*")):
        yield Finding(
            name=name,
            colour="yellow",
            found=f"{found}, but this machine seems to have a TPU",
            advice="pip install -c requirements.txt -e '.[tpu]'",
        )
        return
    yield Finding(name=name, colour="green", found=found)
    busy = [gpu for gpu in gpus if gpu.used_mib > _IN_USE * gpu.total_mib]
    if busy:
        yield Finding(
            name=name,
            colour="yellow",
            found=f"{len(busy)} of {len(gpus)} GPUs in use: {busy[0].used_mib:,} of {busy[0].total_mib:,} MiB taken",
            advice="nvidia-smi names the programs; end them, or choose other GPUs by CUDA_VISIBLE_DEVICES",
        )


def _use_gpu() -> str:
    if os.environ.get("JAX_PLATFORMS"):
        return f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} keeps JAX off it; unset that"
    return "pip install -c requirements.txt -e '.[cuda]', or '.[cuda12]' where the driver is older than 580 (docs/launch.md)"


def _memory() -> Finding:
    free, total = free_memory()
    found = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB of the host's memory are free"
    if free < _LITTLE_MEMORY:
        return Finding(name="machine/memory", colour="yellow", found=found, advice="end other programs")
    return Finding(name="machine/memory", colour="green", found=found)


def _shared_memory(workers: int, image_bytes: int) -> Finding:
    from flsl_jax.data.loading.pipeline import CHUNK_BYTES
    from flsl_jax.data.loading.sharing import free_memory as free_shared
    from flsl_jax.data.loading.sharing import slots_that_fit

    name, free = "machine/shared memory", free_shared()
    if not workers:
        return Finding(name=name, colour="green", found="not needed: the training process reads the images itself")
    if free == sys.maxsize:
        return Finding(name=name, colour="green", found="this system sets no limit of its own")
    found = f"{free / 2**20:,.0f} MiB are free for {workers} workers"
    if slots_that_fit(free, workers=workers, slot_bytes=max(CHUNK_BYTES, image_bytes)):
        return Finding(name=name, colour="green", found=found)
    return Finding(
        name=name,
        colour="yellow",
        found=f"{found}, too few: images go through pipes, which is slower",
        advice="give the container more (docker run --shm-size=8g), or lower --config.compute.workers",
    )


def _open_files(workers: int) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OPEN_FILES + _OPEN_FILES_OF_WORKER * workers
    if soft == resource.RLIM_INFINITY or soft >= needed:
        limit = "any number" if soft == resource.RLIM_INFINITY else f"{soft:,}"
        return Finding(name="machine/open files", colour="green", found=f"{limit} may be open at once")
    may = "" if hard == resource.RLIM_INFINITY or hard >= needed else f" (the system allows {hard:,}; ask who runs it)"
    return Finding(
        name="machine/open files",
        colour="yellow",
        found=f"only {soft:,} may be open at once; a training with {workers} workers may need {needed:,}",
        advice=f"ulimit -n {needed}, in the shell before the command{may}",
    )
