"""The keys of a config whose values are not the defaults."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kd_jax.experiment.building import fields_of, item_of, join, registry_of, structured_of

REQUIRED = "required"
"""Default of a key that every config must set."""


class Change(NamedTuple):
    """A key of a config, its value, and its default."""

    key: str
    value: Any
    default: Any


def changes(spec: Any, key: str = "") -> Iterator[Change]:
    """Yields the keys of a specification that have no default, or another value than it.

    Args:
        spec: the specification.
        key: config key of the specification; empty for the whole config.
    """
    for name, (kind, field) in fields_of(type(spec)).items():
        yield from _changes(kind, getattr(spec, name), _default(field), join(key, name))


def _changes(kind: Any, value: Any, default: Any, key: str) -> Iterator[Change]:
    structured = structured_of(kind)
    if _is_spec(value) and structured is not None:
        same = type(default) is type(value)
        if (registry := registry_of(structured)) is not None and not same:
            before = registry.name_of(type(default)) if _is_spec(default) else default
            yield Change(f"{key}.name", registry.name_of(type(value)), before)
        if not same or value != default:
            yield from changes(value, key)
    elif isinstance(value, Mapping) and structured_of(item_of(kind)) is not None:
        for name, inner in value.items():
            yield from _changes(item_of(kind), inner, REQUIRED, join(key, name))
    elif value != default:
        yield Change(key, list(value) if isinstance(value, tuple) else value, default)


def _is_spec(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED
