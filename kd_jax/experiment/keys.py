"""The keys of a configuration: listing them, and setting one from the command line."""

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kd_jax.core.errors import UsageError, choices
from kd_jax.experiment.building import (
    fields_of,
    is_of,
    item_of,
    join,
    members,
    registry_of,
    structured_of,
    unknown_key,
    value_of,
)


class Option(NamedTuple):
    """One key of a configuration: its value and what it means."""

    key: str
    value: Any
    text: str


def describe(spec: Any, key: str = "") -> Iterator[Option]:
    """Lists all keys of a specification with their values and one sentence each."""
    texts = attribute_texts(type(spec))
    for name, (kind, _) in fields_of(type(spec)).items():
        yield from _describe_value(kind, getattr(spec, name), join(key, name), texts.get(name, ""))


def _describe_value(kind: Any, value: Any, key: str, text: str) -> Iterator[Option]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if (registry := registry_of(structured_of(kind))) is not None:
            yield Option(f"{key}.name", registry.name_of(type(value)), _summary(type(value)))
        yield from describe(value, key)
    elif isinstance(value, Mapping) and value and structured_of(item_of(kind)) is not None:
        for name, inner in value.items():
            yield from _describe_value(item_of(kind), inner, join(key, name), text)
    else:
        yield Option(key, list(value) if isinstance(value, tuple) else value, text)


def describe_keys(cls: type, key: str = "") -> Iterator[Option]:
    """Lists the keys of a specification class with their defaults; `NAME` is any name."""
    texts = attribute_texts(cls)
    for name, (kind, field) in fields_of(cls).items():
        inner, path = structured_of(kind), join(key, name)
        if inner is None and item_of(kind) is not None:
            inner = structured_of(item_of(kind))
            path += ".NAME" if inner is not None else ""
        plain = [o for o in members(kind) if structured_of(o) is None and o is not type(None)]
        if inner is None or (plain and item_of(kind) is None):
            yield Option(path, _default(field), texts.get(name, ""))
        elif (registry := registry_of(inner)) is not None:
            text = f"{texts.get(name, '')} One of {', '.join(sorted(registry.names()))}."
            default = _default(field)
            if dataclasses.is_dataclass(default):
                default = registry.name_of(type(default))
            yield Option(f"{path}.name", default, text.strip())
        else:
            yield from describe_keys(inner, path)


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "required"


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def attribute_texts(cls: type) -> dict[str, str]:
    """Returns the first sentence on each attribute in the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")[2]
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.M)
        for name, text in entries:
            words = " ".join(text.split())
            texts[name] = re.split(r"(?<=\.) (?=[A-Z`])", words)[0]
    return texts


# --------------------------------------------------------------------------------- override


def override(
    cls: type, config: Mapping[str, Any], assignments: Mapping[str, str]
) -> dict[str, Any]:
    """Sets values from the command line, whether or not the config file spells them.

    A new `name` of a choice drops those values of the config file that the new class does not
    have: `data.source.name=folder` needs no further word about the old source.

    Args:
        cls: the specification of the whole config.
        config: plain values. They are not changed.
        assignments: text by key, as in `--config.data.batch_size=128`. A `name` is set before
            other keys, and an outer one before an inner one.

    Returns:
        The new values. Parts that the stages of `config` share are not shared in them.

    Raises:
        UsageError: if a key is unknown or a text is not of the key's type.
    """
    values = _unshared(config)
    for key in sorted(assignments, key=lambda key: (not key.endswith(".name"), key.count("."))):
        _set(cls, values, key.split("."), assignments[key], [])
    return values


def _unshared(value: Any) -> Any:
    """Returns a copy in which every dictionary is in one place only."""
    if not isinstance(value, Mapping):
        return value
    return {name: _unshared(inner) for name, inner in value.items()}


def _set(kind: Any, values: dict[str, Any], path: list[str], text: str, done: list[str]) -> None:
    """Sets the value at `path` below `values`; `done` is the path so far."""
    (name, *rest), key = path, ".".join(done)
    structured = structured_of(kind)
    if (registry := registry_of(structured)) is not None:
        if name == "name" and not rest:
            chosen = registry.get(text, f"{key}.name")
            known = {"name", *fields_of(chosen)}
            for other in set(values) - known:
                del values[other]
            values["name"] = text
            return
        if "name" not in values:
            raise UsageError(f"{key}.name is missing: set it, as in --config.{key}.name=NAME.")
        structured = registry.get(values["name"], f"{key}.name")
    if structured is not None:
        fields = fields_of(structured)
        if name not in fields:
            raise UsageError(unknown_key(name, structured, fields, key))
        kind = fields[name][0]
    else:
        kind = item_of(kind)
        if structured_of(kind) is not None and name not in values and rest != ["name"]:
            raise UsageError(_no_entry(kind, name, values, key))
    whole = [*done, name]
    if not rest:
        values[name] = _parse(kind, text, ".".join(whole))
        return
    if structured_of(kind) is None and item_of(kind) is None:
        raise UsageError(f"{'.'.join(whole)} is a single value: it has no key {rest[0]!r}.")
    if not isinstance(values.get(name), dict):
        values[name] = {}
    _set(kind, values[name], rest, text, whole)


def _no_entry(kind: Any, name: str, values: Mapping[str, Any], key: str) -> str:
    """Returns the sentence about an entry that a dictionary of specifications does not have."""
    text = f"{key} has no entry {name!r}: its entries are {choices(name, values)}"
    structured: Any = structured_of(kind)
    if registry_of(structured) is not None or "name" in fields_of(structured):
        text += f"; a new one begins with --config.{join(key, name)}.name=NAME"
    return f"{text}."


def _parse(kind: Any, text: str, key: str) -> Any:
    """Reads a text as a value of an annotated type."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    options = members(kind)
    if any(typing.get_origin(option) is tuple for option in options):
        value = _as_tuple(value)
    value = list(value) if isinstance(value, set) else value
    if kind is str or (str in options and not any(is_of(value, o) for o in options)):
        value = text
    return value if kind is None or kind is Any else _value_or_mapping(kind, value, key)


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str) and "," in value:
        return tuple(value.split(","))
    return value if value is None or isinstance(value, tuple | list) else (value,)


def _value_or_mapping(kind: Any, value: Any, key: str) -> Any:
    """Checks a value; those made of keys stay plain, since `build` checks them later."""
    if isinstance(value, Mapping):
        return dict(value)
    return value_of(kind, value, key)
