"""All checks in order: the machine, then the config, its images, the workdir and its checkpoints."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flsl_jax.config import Config, parse
from flsl_jax.config.checks import check
from flsl_jax.doctor import machine
from flsl_jax.doctor.finding import Examination

if typing.TYPE_CHECKING:
    from flsl_jax.data.records import Source
    from flsl_jax.doctor.speed import Speed
    from flsl_jax.training.setup import Training

_INSTALL = "install the package again (`make install` in a checkout)"


def checked_config(values: Mapping[str, Any]) -> Config:
    """A checked configuration, as `parse_config` gives it; but the folder of the compile cache is not tried out, because that
    writes into it.

    Raises:
        UserError: as `parse_config`.
    """
    config = parse(Config, values, path="config")
    check(dataclasses.replace(config, compute=dataclasses.replace(config.compute, compile_cache="")))
    return config


def examine(exam: Examination, *, read_config: Callable[[], Config] | None, workdir: Path | None) -> None:
    """Runs every check that can be run with what is named.

    JAX and what needs it are imported on the way, so that a package that is missing is a finding.

    Args:
        exam: is told what is found.
        read_config: gives the checked configuration; None: only the machine and the folder are examined.
        workdir: a run's folder, which need not exist; None: none.
    """
    of_config = Examination()  # read first, because the machine's checks ask for it, and told later
    advice = "docs/config.md says what each key takes"
    config = None if read_config is None else of_config.obtain("config/values", read_config, advice=advice)
    machine.examine(exam, config)
    speed = exam.obtain("machine/speed", lambda: _speed(exam), advice=_INSTALL)
    exam.keep(of_config.findings)
    training = source = None
    if config is not None:
        of_machine = (config, workdir, speed)
        training, source = exam.obtain("config/network", lambda: _config(exam, *of_machine), advice=_INSTALL) or (
            None,
            None,
        )
    if workdir is not None:
        exam.check(
            "workdir/folder",
            lambda: _workdir(exam, workdir, config=config, training=training, source=source),
            advice=_INSTALL,
        )


def _speed(exam: Examination) -> Speed:
    from flsl_jax.doctor.speed import judge, measure

    speed = measure()
    exam.check("machine/speed", lambda: judge(speed), advice=_INSTALL)
    return speed


def _config(
    exam: Examination, config: Config, workdir: Path | None, speed: Speed | None
) -> tuple[Training | None, Source | None]:
    """Checks a config and its images."""
    from flsl_jax.checkpoints.folder import list_steps
    from flsl_jax.doctor import config as of_config
    from flsl_jax.doctor import data

    begins = workdir is None or not list_steps(workdir / "checkpoints")
    training = of_config.examine(exam, config, begins=begins)
    wanted = speed.total / training.flops_per_image if speed is not None and training is not None else None
    return training, data.examine(exam, config, images_per_second=wanted)


def _workdir(
    exam: Examination, workdir: Path, *, config: Config | None, training: Training | None, source: Source | None
) -> tuple[()]:
    """Checks a run's folder and its checkpoints; returns no more findings."""
    from flsl_jax.doctor import checkpoint

    checkpoint.examine_folder(exam, workdir, config=config, training=training)
    checkpoint.examine(exam, workdir, config=config, training=training, source=source)
    return ()
