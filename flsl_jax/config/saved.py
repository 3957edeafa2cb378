"""The `config.json` of a run: the config that it began with, and under `changes` what was changed at which step."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flsl_jax.config.changes import Change
from flsl_jax.config.parsing import changed, parse, require, without_unknown
from flsl_jax.config.run import Config, to_dict
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"

# The key beside those of the config: a list of {"step": updates done, "optimizer.lr": its new value, …}.
_CHANGES = "changes"


def parse_saved_config(values: Mapping[str, Any]) -> Config:
    """The configuration of a run that another version may have written, to read its networks with.

    Keys that this version does not know are passed over with a warning, except those of `model` and `head`, which say what
    the network computes. Keys that are newer than the run take their defaults: what runs did before the key existed. Ranges are
    not checked again: the run has been trained with them.

    Args:
        values: nested mapping, from a checkpoint.

    Raises:
        UserError: an unknown key of `model` or `head`, or a wrong type; the message names the key.
    """
    known, unknown = without_unknown(Config, values, path="config")
    vital = [name for name in unknown if name.startswith(("config.model", "config.head"))]
    require(
        not vital,
        f"the run was written by another version of flsl_jax: this one does not know {', '.join(vital)}; read it with the "
        "version that wrote it",
    )
    if unknown:
        log.warning("passed over what another version of flsl_jax wrote into the run's config: %s", ", ".join(unknown))
    return parse(Config, known, path="config")


def read_saved_config(path: Path, *, at_start: bool = False) -> Config:
    """The config in a run's `config.json`: as it was changed last or, with `at_start`, as the run began.

    Raises:
        UserError: there is no such file, or it is not a config.
    """
    return parse_saved_config(read_saved_values(path, at_start=at_start))


def read_saved_values(path: Path, *, at_start: bool = False) -> dict[str, Any]:
    """The keys and values in the `config.json` of a run of any kind: as they were changed last, or as the run began.

    Raises:
        UserError: there is no such file, or it is not a config.
    """
    values = _read(path)
    changes = values.pop(_CHANGES, [])
    for change in [] if at_start else changes:
        new = {key: value for key, value in change.items() if key != "step"}
        values = changed(values, new, path="config", whose=f"the {_CHANGES} in {path}")
    return values


def write_first_config(config: Config, path: Path) -> None:
    """Writes the `config.json` of a run that begins; the folder is created if it does not exist.

    Raises:
        UserError: the folder cannot be written.
    """
    _write(to_dict(config), path)


def append_changes(changes: Sequence[Change], path: Path, *, step: int) -> None:
    """Adds what was changed after `step` updates to a run's `config.json`; what is in it stays.

    Raises:
        UserError: the file is not a config, or the folder cannot be written.
    """
    values = _read(path)
    entry = {"step": step} | {change.key: change.new for change in changes}
    _write(values | {_CHANGES: [*values.get(_CHANGES, []), entry]}, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise UserError(f"{path} {reason}; name the workdir of a run") from error
    changes = values.get(_CHANGES, []) if isinstance(values, dict) else None
    if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
        raise UserError(f"{path} is not the config.json of a run; name the one in a run's workdir")
    return values


def _write(values: dict[str, Any], path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror}); name a --workdir that can") from error
