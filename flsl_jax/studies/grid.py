"""A study as a grid: variants of a base config, each with every seed."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from flsl_jax.config import Config, EvaluationConfig, check_sources, nearest_key, parse, parse_config
from flsl_jax.config.files import load_study_file
from flsl_jax.config.parsing import changed, require
from flsl_jax.errors import UserError

TASKS = tuple(field.name for field in dataclasses.fields(EvaluationConfig) if dataclasses.is_dataclass(field.default))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a study: the base config with other values for some keys.

    `name`: of its row and folder; letters, digits, ".", "_" and "-". `changes`: new values by the dotted names of their keys,
    such as "head.centroids". `paper`: what the paper reports for it, by the metric of ours that it is held beside and in the
    unit of that (a share, where the paper has percent). `setting`: what the paper calls it, if that is not its name.
    `group`: variants of the same group are joined by a line in the plots.
    """

    name: str
    changes: dict = dataclasses.field(default_factory=dict)
    paper: dict = dataclasses.field(default_factory=dict)
    setting: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What a study file returns.

    `title`, `question`: of the page. `reference`: where the paper's numbers are from. `metrics`: TASK/METRIC, the one that
    matters most first. `baselines`: what is measured beside the variants: the untrained network, raw pixels. `picture`: which
    picture the page shows of all variants.
    """

    title: str
    question: str
    variants: tuple[Variant, ...]
    metrics: tuple[str, ...]
    reference: str = ""
    baselines: tuple[Literal["untrained", "pixels"], ...] = ("untrained", "pixels")
    picture: Literal["ass_last", "ratio"] = "ass_last"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study: a variant with a seed, in a folder of its own. `baselines` are measured with it."""

    index: int
    variant: Variant
    seed: int
    config: Config
    folder: Path
    tasks: tuple[str, ...]
    baselines: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A study over a base config and seeds.

    `name`: of the study. `cells`: all runs, seed by seed, so that a whole table is there after the first seed. `tasks`: what
    is measured of each at its end.
    """

    name: str
    study: Study
    base: Config
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    workdir: Path
    cells: tuple[Cell, ...]

    def shown_changes(self, variant: Variant) -> str:
        """What a variant changes of the base, as key=value; "nothing" if it is the base itself."""
        changes = {key: value for key, value in variant.changes.items() if _value(self.base, key) != value}
        return " ".join(f"{key}={value}" for key, value in changes.items()) or "nothing"


def make_plan(
    name: str, base: ConfigDict, *, seeds: Sequence[int] = (), tasks: Sequence[str] = (), workdir: Path
) -> Plan:
    """The grid of a study, every config of it checked.

    Args:
        name: of a study that comes with the package, or the path of a study file.
        base: the config that the study varies.
        seeds: of the runs; none: the base's own.
        tasks: what is measured; none: the base's `evaluation.tasks` and the task of the study's first metric.
        workdir: the folder of the runs' folders.

    Raises:
        UserError: one line that names the study or the variant and what is wrong.
    """
    study = parse(Study, load_study_file(name, ConfigDict(base.to_dict()).lock()), path=f"study {name}")
    _check_study(name, study)
    values = base.to_dict()
    own = parse_config(values)
    require(not own.parallel.distributed, "config.parallel.distributed is True; a study runs each run in one process")
    seeds = tuple(seeds) or (own.seed,)
    require(len(set(seeds)) == len(seeds), f"--seeds={','.join(map(str, seeds))} has a seed twice; name each once")
    tasks = tuple(tasks) or tuple(dict.fromkeys([*own.evaluation.tasks, _task(study.metrics[0])]))
    for task in tasks:
        require(task in TASKS, f"--tasks has {task!r}; {nearest_key(task, TASKS).replace('keys', 'tasks')}")
    cells = []
    for seed in seeds:
        for variant in study.variants:
            config = _config(name, variant, values, seed=seed)
            baselines = study.baselines if variant is study.variants[0] else ()
            folder = workdir / f"{variant.name}-seed{seed}"
            cells.append(
                Cell(
                    index=len(cells), variant=variant, seed=seed, config=config, folder=folder, tasks=tasks,
                    baselines=baselines,
                )
            )  # fmt: skip
    return Plan(
        name=Path(name).stem, study=study, base=own, seeds=seeds, tasks=tasks, workdir=workdir, cells=tuple(cells)
    )


def check_data(plan: Plan) -> None:
    """Refuses data of which nobody has said where it is, before the first run.

    Raises:
        UserError: names the key that is missing.
    """
    check_sources(plan.base, path="config")
    for task in plan.tasks:
        check_sources(getattr(plan.base.evaluation, task), path=f"config.evaluation.{task}")


def choose(plan: Plan, indices: Sequence[int]) -> list[Cell]:
    """The cells of these numbers, all of them if there are none.

    Raises:
        UserError: a number is not one of the grid's.
    """
    for index in indices:
        require(
            0 <= index < len(plan.cells),
            f"--only={index}: the study has {len(plan.cells)} runs, numbered from 0 to {len(plan.cells) - 1}; --list shows "
            "them",
        )
    return [plan.cells[index] for index in indices] or list(plan.cells)


def _value(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(getattr, key.split("."), config)


def _task(metric: str) -> str:
    return metric.partition("/")[0]


def _check_study(name: str, study: Study) -> None:
    require(bool(study.variants), f"study {name} has no variants; expected at least one")
    require(bool(study.metrics), f"study {name} has no metrics; expected TASK/METRIC, such as bbox_knn/any")
    named = [*study.metrics, *(metric for variant in study.variants for metric in variant.paper)]
    for metric in named:
        require(
            _task(metric) in TASKS and "/" in metric,
            f"study {name} names the metric {metric!r}; expected TASK/METRIC with a task of {', '.join(TASKS)}",
        )
    for variant in study.variants:
        numbers = all(isinstance(value, int | float) for value in variant.paper.values())
        require(numbers, f"study {name}, variant {variant.name}: paper is {variant.paper}; expected numbers by metric")
    names = [variant.name for variant in study.variants]
    for variant in names:
        require(
            bool(_NAME.fullmatch(variant)),
            f"study {name} names a variant {variant!r}; expected letters, digits, '.', '_' and '-', for a folder's name",
        )
        require(
            names.count(variant) == 1, f"study {name} has two variants {variant!r} over this base; expected other names"
        )


def _config(name: str, variant: Variant, values: Mapping[str, Any], *, seed: int) -> Config:
    changes = {**variant.changes, "seed": seed}
    try:
        return parse_config(changed(values, changes, path="config", whose="its changes"))
    except UserError as error:
        raise UserError(f"study {name}, variant {variant.name}: {error}") from error
