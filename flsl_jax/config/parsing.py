"""Typed dataclasses from nested mappings, with errors that name the key and the nearest valid one."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from flsl_jax.config.roots import join_roots
from flsl_jax.errors import UserError

# On a text field that may name several things: a list or tuple of texts is taken too, and joined with commas.
SEVERAL = types.MappingProxyType({"several": True})

_T = TypeVar("_T")


def parse(kind: type[_T], values: Any, *, path: str) -> _T:
    """A dataclass, with dataclasses inside, from a nested mapping; a key that is left out takes its default.

    A dataclass inside that has a `constant`, as `ScheduleConfig` does, can be given as one number.

    Args:
        kind: the dataclass.
        values: the mapping.
        path: what the user calls it, such as "config"; errors name keys with it.

    Raises:
        UserError: an unknown key, with the nearest valid one, a value of another type, or a missing key without a default.
    """
    if not isinstance(values, Mapping) and not hasattr(values, "items"):
        raise UserError(f"{path} is {values!r}; expected a group of keys: {', '.join(_fields(kind))}")
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
    several = {field.name for field in fields if field.metadata.get("several")}
    parsed = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"unknown key {path}.{name}; {nearest_key(name, hints)}")
        if (
            name in several
            and isinstance(value, list | tuple)
            and all(isinstance(item, str | int | float) for item in value)
        ):
            value = join_roots(map(str, value))
        parsed[name] = _convert(hints[name], value, path=f"{path}.{name}")
    missing = [name for name in _fields_without_default(kind) if name not in parsed]
    require(not missing, f"{path} lacks {', '.join(missing)}; start from the config vits16, which has every key")
    return kind(**parsed)


def without_unknown(kind: type, values: Mapping[str, Any], *, path: str) -> tuple[dict[str, Any], list[str]]:
    """A nested mapping without the keys that the dataclass, or one inside it, lacks; and the names of those, as in `parse`."""
    hints, known, unknown = typing.get_type_hints(kind), {}, []
    for name, value in values.items():
        if name not in hints:
            unknown.append(f"{path}.{name}")
        elif dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            known[name], inner = without_unknown(hints[name], value, path=f"{path}.{name}")
            unknown += inner
        else:
            known[name] = value
    return known, unknown


def changed(values: Mapping[str, Any], changes: Mapping[str, Any], *, path: str, whose: str) -> dict[str, Any]:
    """A nested mapping with other values for some keys; unknown keys are found later, by `parse`.

    Args:
        values: the mapping, which stays as it is.
        changes: new values by their dotted names, such as `{"optimizer.lr": 1e-4}`.
        path: what the user calls the mapping, such as "config".
        whose: what the changes stand in, for error messages.

    Raises:
        UserError: a name goes through a key that holds a value.
    """
    result = _copied(values)
    for name, value in changes.items():
        *groups, key = name.split(".")
        group = result
        for part in groups:
            group = group.setdefault(part, {})
            require(
                isinstance(group, dict), f"{whose} name {name!r}, but {path}.{part} is a value, not a group of keys"
            )
        group[key] = value
    return result


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def nearest_key(name: str, candidates: Iterable[str]) -> str:
    """` (did you mean "x"?)`, or the list of valid keys if none is near."""
    candidates = sorted(candidates)
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else f"valid keys: {', '.join(candidates)}"


def require(condition: bool, message: str) -> None:
    """Raises a `UserError` with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _fields_without_default(kind: type) -> list[str]:
    missing = dataclasses.MISSING
    return [field.name for field in dataclasses.fields(kind) if field.default is field.default_factory is missing]


def _convert(hint: Any, value: Any, *, path: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        constant = getattr(hint, "constant", None)
        if constant is not None and isinstance(value, int | float) and not isinstance(value, bool):
            return constant(_convert(float, value, path=path))
        return parse(hint, value, path=path)
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            near = nearest_key(str(value), typing.get_args(hint)).replace("valid keys", "valid values")
            raise UserError(f"{path} is {value!r}; {near}")
        return value
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint), value, path=path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise UserError(f"{path} has more than 300 digits; expected a number that float32 holds") from error
    if type(value) is not hint:
        name = hint.__name__ if isinstance(hint, type) and not isinstance(hint, types.UnionType) else str(hint)
        raise UserError(f"{path} is {value!r} ({type(value).__name__}); expected {name}")
    return value


def _convert_tuple(kinds: tuple[Any, ...], value: Any, *, path: str) -> tuple[Any, ...]:
    """`kinds`: of the elements, as in `tuple[float, float]`, or one and `...` for any number of them."""
    if not isinstance(value, list | tuple):
        example = '("bbox_knn", "video")' if kinds[0] is str else "(0.8, 1.0)"
        raise UserError(f"{path} is {value!r}; expected several values, such as {example}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    require(len(value) == len(kinds), f"{path} is {value!r}; expected {len(kinds)} numbers, such as (0.8, 1.0)")
    return tuple(_convert(kind, item, path=path) for kind, item in zip(kinds, value, strict=True))
