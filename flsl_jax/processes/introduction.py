"""What a process says of itself to the first one, and what of it must be the same everywhere."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib.version

from flsl_jax._version import __version__
from flsl_jax.config import Config
from flsl_jax.config.changes import leaves, within

# Keys and groups of keys that may differ: of this process or its machine alone. Data is compared by its content.
_LOCAL = (
    "parallel.coordinator",
    "parallel.process_id",
    "parallel.timeout_seconds",
    "compute.workers",
    "compute.prefetch",
    "compute.loader_timeout_seconds",
    "compute.compile_cache",
    "data.root",
    "data.boxes",
    "logging",
)


def introduction(config: Config) -> dict[str, Any]:
    """Versions and config of this process; plain JSON."""
    versions = {"flsl_jax": __version__, "code": _code(), "jax": jax.__version__, "jaxlib": jaxlib.version.__version__}
    return json.loads(json.dumps({"versions": versions, "config": dataclasses.asdict(config)}))


def first_difference(first: Mapping[str, Any], other: Mapping[str, Any], *, name: str) -> str | None:
    """What a process has that differs from process 0's, as a sentence; None: nothing that matters.

    Args:
        first: of process 0.
        other: of the other process.
        name: of the other process, such as "process 1 (node4)".
    """
    mine, theirs = first["versions"], other.get("versions", {})
    for key in mine:
        if theirs.get(key) != mine[key]:
            what = "another code of flsl_jax" if key == "code" else key
            return (
                f"{name} has {what} ({theirs.get(key)}) than process 0 ({mine[key]})"
                if key == "code"
                else f"{name} has {what} {theirs.get(key)}, process 0 has {mine[key]}"
            ) + "; install the same everywhere"
    ours, others = (dict(leaves(what.get("config", {}))) for what in (first, other))
    for key in dict.fromkeys([*ours, *others]):
        if ours.get(key) != others.get(key) and not any(within(key, local) for local in _LOCAL):
            return (
                f"{name} has config.{key} = {others.get(key)!r}, process 0 has {ours.get(key)!r}; start all processes of a "
                "run with the same config"
            )
    return None


@functools.cache
def _code() -> str:
    """A digest of the package's source, the first half of a SHA-256: an edited copy has the version of the other one."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]
