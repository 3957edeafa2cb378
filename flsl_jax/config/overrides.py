"""How `--config.key=value` is read where a key holds more than one value: a tuple, or a schedule.

`ml_collections` reads tuples as Python writes them, with quotes that a shell takes away, and schedules only key by key.
"""

import ast
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import register_flag_parser_for_type, tuple_parser


class Schedule(ConfigDict):
    """The keys of a `ScheduleConfig`, for which one number can stand."""


def register_parsers() -> None:
    """Makes config flags take `video,bbox_knn` for a tuple and a number for a `Schedule`."""
    register_flag_parser_for_type(tuple, TupleParser())
    register_flag_parser_for_type(Schedule, _ScheduleParser())


def mark_schedules(config: ConfigDict) -> ConfigDict:
    """The same configuration, in which every schedule is a `Schedule`."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            is_schedule = "start" in value and "end" in value
            config[key] = Schedule(value) if is_schedule else mark_schedules(value)  # pyright: ignore[reportArgumentType]
    return config


class TupleParser(tuple_parser.TupleParser):
    """Values with commas between them, in brackets or not; words need no quotes, but may have them."""

    def parse(self, argument: Any) -> tuple[Any, ...]:
        """The values, in Python's types; the key's own type is checked later, by `parse_config`."""
        if not isinstance(argument, str):
            return super().parse(argument)
        try:
            value = ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            parts = argument.strip().removeprefix("(").removeprefix("[").removesuffix(")").removesuffix("]").split(",")
            return tuple(_literal(part.strip()) for part in parts if part.strip())
        return tuple(value) if isinstance(value, list | tuple) else (value,)


class _ScheduleParser(flags.ArgumentParser):
    """A number, which the schedule keeps from beginning to end, or a dictionary of its keys."""

    def parse(self, argument: str | Schedule) -> Schedule:
        if isinstance(argument, Schedule):
            return argument
        value = _literal(argument)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return Schedule({"start": float(value), "end": float(value), "kind": "cosine", "epochs": 0.0})
        if isinstance(value, dict):
            return Schedule(value)
        raise ValueError("expected a number that stays the same, or set the schedule's .start and .end")

    def flag_type(self) -> str:
        return "schedule"


def _literal(text: str) -> Any:
    """A number or a quoted word as Python reads it; other text as it is."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
