"""Specifications from plain values: every key is known, every value has its type.

A specification is a frozen dataclass. Its annotations are the only description of its options:
`build` makes it, and `to_config` writes it out. `keys.override` sets one value from the command
line, and `keys.describe` lists all keys. A field of the type `Annotated[X, registry]` is a choice:
a dictionary whose `name` is one of the registry's names, and whose other keys are fields of the
chosen class.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from kd_jax.core import user_code
from kd_jax.core.errors import UsageError, choices
from kd_jax.core.registry import Registry

Values = Mapping[str, Any]

_SHOWN = 200
"""Maximum number of characters of a value in an error."""
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127
"""The largest number of float32, in which JAX computes."""
_INT_BITS = 31
"""JAX computes with integers of 32 bits, one of which is the sign."""
_SEED_BITS = 64
"""Seeds have more bits than other integers; each class checks its own."""


# ------------------------------------------------------------------------------------ kinds


def registry_of(kind: Any) -> Registry | None:
    """Returns the registry of a choice; None for other annotations."""
    if typing.get_origin(kind) is typing.Annotated:
        return next((x for x in kind.__metadata__ if isinstance(x, Registry)), None)
    return None


def members(kind: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation itself."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return typing.get_args(kind)
    return (kind,)


def structured_of(kind: Any) -> Any | None:
    """Returns the member of an annotation that is made of keys: a dataclass or a choice."""
    for option in members(kind):
        if registry_of(option) is not None:
            return option
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def item_of(kind: Any) -> Any | None:
    """Returns the annotation of the values of `dict[str, X]`; None for other annotations."""
    arguments = typing.get_args(kind)
    return arguments[1] if typing.get_origin(kind) is dict and len(arguments) == 2 else None


def fields_of(cls: type) -> dict[str, tuple[Any, dataclasses.Field]]:
    """Returns annotation and field of every option of a specification."""
    kinds = typing.get_type_hints(cls, include_extras=True)
    return {f.name: (kinds[f.name], f) for f in dataclasses.fields(cls) if f.init}


def is_of(value: Any, kind: Any) -> bool:
    """Returns whether a value is of an annotated type; items of a tuple are checked too."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(is_of(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(is_of(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping)
    if kind is Any or origin is not None or not isinstance(kind, type):
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _name(kind: Any) -> str:
    """Returns the words for a type in an error."""
    if kind is type(None):
        return "None"
    if registry_of(kind) is not None or (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return "a dictionary"
    if typing.get_origin(kind) is tuple:
        return f"a list of {_name(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is dict:
        return "a dictionary"
    if len(members(kind)) > 1:
        return " or ".join(_name(option) for option in members(kind))
    return kind.__name__ if type(kind) is type else str(kind)


# ------------------------------------------------------------------------------------ build


def build(cls: type, values: Values, key: str) -> Any:
    """Makes a specification of plain values.

    Args:
        cls: the dataclass; its annotations define what each key must be.
        values: the values by key; a list is read as a tuple.
        key: the config key of the values, for errors; empty for the whole config.

    Raises:
        UsageError: if a key is unknown or missing, or a value is not of its type or range.
    """
    fields = fields_of(cls)
    made = {}
    for name, value in _mapping(values, key).items():
        if name not in fields:
            raise UsageError(unknown_key(name, cls, fields, key))
        made[name] = value_of(fields[name][0], value, join(key, name))
    for name, (_, field) in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in made:
            raise UsageError(f"{join(key, name)} is missing: give it a value.")
    try:
        return cls(**made)
    except ValueError as error:
        raise UsageError(f"{key or 'config'}: {str(error).rstrip('.')}.") from error
    except Exception as error:  # a user's own class raises whatever it likes
        raise UsageError(
            f"{key or 'config'} cannot be used ({user_code.raised(error)}): check its values."
        ) from error


def value_of(kind: Any, value: Any, key: str) -> Any:
    """Returns a plain value as its annotation wants it; raises `UsageError` if it does not fit."""
    structured, item = structured_of(kind), item_of(kind)
    if structured is not None and (isinstance(value, Mapping) or not _is_plain(kind, value)):
        return _build_structured(structured, _mapping(value, key), key)
    if item is not None and structured_of(item) is not None:
        each = _mapping(value, key)
        return {name: value_of(item, each[name], join(key, name)) for name in each}
    value = tuple(value) if isinstance(value, list) else value
    if not is_of(value, kind):
        raise UsageError(f"{key} = {shown(value)} must be {_name(kind)}.")
    _check_plain(value, key)
    return value


def _check_plain(value: Any, key: str) -> None:
    """Raises `UsageError` for a value that JSON cannot hold or that JAX cannot compute with."""
    if isinstance(value, Mapping):
        for name, inner in _mapping(value, key).items():
            _check_plain(inner, join(key, name))
    elif isinstance(value, tuple | list):
        for item in value:
            _check_plain(item, key)
    elif isinstance(value, str):
        if not value or not value.isprintable():
            raise UsageError(f"{key} = {shown(value)} must be one or more printable characters.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{key} = {shown(value)} must be a finite number.")
        if abs(value) > _LARGEST_FLOAT:
            raise UsageError(
                f"{key} = {shown(value)} must be at most {_LARGEST_FLOAT:.4g} (float32)."
            )
    elif isinstance(value, int) and not isinstance(value, bool):
        bits = _SEED_BITS if key.endswith("seed") else _INT_BITS
        if not -(2**bits) < value < 2**bits:
            raise UsageError(
                f"{key} = {shown(value)} must be greater than -2**{bits} and less than 2**{bits}."
            )
    elif not isinstance(value, bool | None):
        raise UsageError(
            f"{key} = {shown(value)} must be made of numbers, words, True, False, None, lists and"
            " dictionaries only."
        )


def _is_plain(kind: Any, value: Any) -> bool:
    """Returns whether a value fits a member of the annotation that is not made of keys."""
    return any(is_of(value, option) for option in members(kind) if structured_of(option) is None)


def _build_structured(kind: Any, values: Values, key: str) -> Any:
    if (registry := registry_of(kind)) is None:
        return build(kind, values, key)
    values = dict(values)
    if "name" not in values:
        known = ", ".join(sorted(registry.names()))
        raise UsageError(f"{key}.name is missing: choose one of {known}.")
    return build(registry.get(values.pop("name"), f"{key}.name"), values, key)


def shown(value: Any) -> str:
    """Returns the value of an error, in one line of limited length."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # Python does not print integers of thousands of digits
        text = f"({type(value).__name__})"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def _mapping(value: Any, key: str) -> Values:
    """Returns a value that must be a dictionary whose keys are words."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{key or 'config'} = {shown(value)} must be a dictionary.")
    for name in value:
        if not isinstance(name, str) or not name.isprintable():
            raise UsageError(
                f"{key or 'config'} has the key {shown(name)}: each key must be a word."
            )
    return value


def unknown_key(name: str, cls: type, fields: Mapping[str, Any], key: str) -> str:
    """Returns the sentence about a key that a specification does not have."""
    return f"{join(key, name)} is not used by {cls.__name__}: its keys are {choices(name, fields)}."


def join(key: str, name: str) -> str:
    """Returns the key of `name` below `key`."""
    return f"{key}.{name}" if key else name


# -------------------------------------------------------------------------------- write out


def to_config(spec: Any) -> dict[str, Any]:
    """Returns the plain values of a specification, its defaults included; inverse of `build`."""
    return {
        name: _plain(kind, getattr(spec, name)) for name, (kind, _) in fields_of(type(spec)).items()
    }


def _plain(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        registry = registry_of(structured_of(kind))
        name = {} if registry is None else {"name": registry.name_of(type(value))}
        return name | to_config(value)
    if isinstance(value, Mapping):
        return {name: _plain(item_of(kind), inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
