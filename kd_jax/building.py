"""Dataclasses of a config's values: no key is unknown, none unused, every value of its type."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from kd_jax.errors import UsageError, choices

Values = Mapping[str, Any]


def one_of(value: str, known: Iterable[str], where: str) -> str:
    """Returns `value` if it is known; else raises `UsageError` with the nearest choices first."""
    if value in known:
        return value
    raise UsageError(f"{where} = {value!r} is unknown: choose one of {choices(value, known)}.")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; a tuple's items are checked too."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_is(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(item, arguments[0]) for item in value)
    if origin is not None or not isinstance(kind, type):
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def build(cls: type, values: Values, where: str) -> Any:
    """Makes a dataclass of a config's values.

    Args:
        cls: the dataclass; its annotations say what each key must be.
        values: the config's keys; a list stands for a tuple.
        where: the config key that the values stand under, to name in errors.

    Raises:
        UsageError: if a key is unknown or missing, or a value is not of its type or range.
    """
    kinds = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for key, value in values.items():
        if key not in fields:
            raise UsageError(
                f"{where}.{key} is not used by {cls.__name__}: its keys are {choices(key, fields)}."
            )
        if not _is(value, kinds[key]):
            kind = fields[key].type
            name = kind.__name__ if isinstance(kind, type) else kind
            raise UsageError(f"{where}.{key} = {value!r} must be {name}.")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"{where}.{name} is missing: give it a value.")
    try:
        return cls(**values)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{where}: {error}.") from error


def choose(table: Mapping[str, type], values: Values, where: str, **parts: Any) -> Any:
    """Makes the class that `values["name"]` names in a table, of the other values.

    Args:
        table: classes by name.
        values: the config's keys, `name` among them.
        where: the config key that the values stand under.
        **parts: fields that have been made already.
    """
    values = dict(values)
    if "name" not in values:
        raise UsageError(f"{where}.name is missing: choose one of {', '.join(sorted(table))}.")
    cls = table[one_of(values.pop("name"), table, f"{where}.name")]
    return build(cls, values | parts, where)
