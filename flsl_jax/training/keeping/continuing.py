"""A run that continues: what has changed since its checkpoint, and what of it is refused unless it was asked for."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flsl_jax import parallel
from flsl_jax._version import __version__
from flsl_jax.config import Config, parse_saved_config
from flsl_jax.config.changes import Change, check_names, differences, refusal, within
from flsl_jax.data.records import Source
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)

# How images are read, whichever they are.
_HOW_READ = ("data.channels", "data.window")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """How a run goes on, or that it begins.

    `config`: with what only a start decides taken from the run; `changes`: of it since the checkpoint; `begun`: updates done.
    """

    config: Config
    changes: tuple[Change, ...] = ()
    begun: int = 0


def describe_run(config: Config, *, step: int, source: Source, guide: Mapping[str, str] | None) -> dict[str, Any]:
    """What a checkpoint says of its run; plain JSON."""
    return {
        "config": dataclasses.asdict(config),
        "step": step,
        "guide": guide,
        "data": _identity(source),
        "version": __version__,
    }


def continue_with(
    config: Config, *, saved: Mapping[str, Any], source: Source, allowed: Sequence[str], workdir: Path
) -> Continuation:
    """Compares a config and its data with those of the checkpoint that it is to continue from, and logs what differs.

    Args:
        config: the present one.
        saved: the description of the run in the checkpoint, from `describe_run` of this or an earlier version.
        source: the present data set.
        allowed: keys of the config, or groups of them, that may differ although other numbers come of it; "data" also allows
            other images under the same keys.
        workdir: of the run, for messages.

    Raises:
        UserError: something else differs that changes the numbers; says what, and how to go on.
    """
    check_names(allowed, config)
    old = parse_saved_config(saved["config"])
    changes = differences(old, config)
    # What the checkpoint was trained on decides, not where that lies; earlier versions did not write it down.
    before, now = saved.get("data"), _identity(source)
    same_data = before == now
    images = Change(key="data", old=_images(before), new=_images(now)) if before and not same_data else None
    weighed = [
        change for change in changes if not (same_data and within(change.key, "data")) or change.key in _HOW_READ
    ]
    refused = [
        change
        for change in ([images] if images else []) + weighed
        if not change.is_free and not any(within(change.key, name) for name in allowed)
    ]
    if refused:
        raise UserError(refusal(refused, allowed=allowed, step=saved["step"], workdir=workdir))
    kept = dataclasses.replace(config, init_from=old.init_from, init_reading=old.init_reading)
    log.info("continuing from the checkpoint of step %d in %s", saved["step"], workdir)
    shown = [*changes, *([images] if images else []), *_version_change(saved)]
    if shown:
        log.info("changed since then: %s", "; ".join(map(str, shown)))
    if kept != config:
        log.warning("config.init_from is passed over: this run started from %s", old.init_from or "random weights")
    return Continuation(config=kept, changes=differences(old, kept), begun=saved["step"])


def check_same_data(source: Source, *, config: Config) -> None:
    """Makes sure that all processes read the same images. All of them must call it.

    Raises:
        UserError: one does not, on all of them; names it.
    """
    digests = parallel.of_every_process(source.digest)
    for process, digest in enumerate(digests):
        if digest != digests[0]:
            raise UserError(
                f"process {process} has other images than process 0 in config.data ({digest[:8]}, not {digests[0][:8]}; here "
                f"{_images(_identity(source))} in {config.data.root or config.data.name}); give every process the same files "
                "under the same names"
            )


def last_step(config: Config, *, total_steps: int, begun: int, workdir: Path) -> int:
    """The step after which a run ends.

    Args:
        config: of the run.
        total_steps: of the whole run.
        begun: updates done already.
        workdir: of the run, for messages.

    Raises:
        UserError: more updates are done than the config asks for.
    """
    end = min(total_steps, config.stop_at_step or total_steps)
    if begun > end:
        key = "stop_at_step" if end == config.stop_at_step else "epochs"
        raise UserError(
            f"the run in {workdir} is at step {begun}, but config.{key} = {getattr(config, key)} ends it at step {end}: "
            "nothing is left to do; raise that, or take another --workdir"
        )
    if begun == end:
        more = (
            "raise config.stop_at_step to go on"
            if end < total_steps
            else "a larger config.epochs with --allow_changes=epochs goes on"
        )
        log.info("no step is left: the run is at step %d, where it ends; %s", begun, more)
    return end


def _identity(source: Source) -> dict[str, Any]:
    return {"images": len(source), "digest": source.digest}


def _images(identity: Mapping[str, Any]) -> str:
    return f"{identity['images']:,} images ({identity['digest'][:8]})"


def _version_change(saved: Mapping[str, Any]) -> list[Change]:
    version = saved.get("version", __version__)
    return [] if version == __version__ else [Change(key="flsl_jax", old=version, new=__version__)]
