"""Options of a specification class as Markdown, from its annotations, defaults and docstring."""

import dataclasses
import inspect
import re
import typing
from typing import Any, NamedTuple

from kd_jax.core.registry import Registry
from kd_jax.experiment.building import fields_of, item_of, join, members, registry_of

FOLDER = "options"
SPECIAL = {
    "method": "methods.md",
    "optimizer": f"{FOLDER}/optimizers.md",
    "schedule": f"{FOLDER}/optimizers.md#schedules",
}
"""Pages that describe the entries of a registry in a form of their own, by its kind."""


class Field(NamedTuple):
    """One option: its key, type, default and meaning, as Markdown."""

    key: str
    kind: str
    default: str
    text: str


def page_of(registry: Registry) -> str:
    """Returns the page that describes the entries of a registry."""
    kind = registry.kind
    return SPECIAL.get(kind, f"{FOLDER}/{kind.replace(' ', '_')}s.md")


def attributes(cls: type) -> dict[str, str]:
    """Returns the whole text on each attribute in the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.M):
            texts[name] = " ".join(text.split())
    return texts


def intro(item: Any) -> str:
    """Returns a docstring up to its first section, as Markdown."""
    text = inspect.getdoc(item) or ""
    return re.split(r"^(?:Attributes|Args|Example|Raises|Returns):$", text, flags=re.M)[0].strip()


def options_of(cls: type, key: str = "", without: type | None = None) -> list[Field]:
    """Returns the options of a specification class, except those of the class `without`."""
    texts, known = attributes(cls), set(fields_of(without)) if without else set()
    return [
        Field(join(key, name), _kind(kind), _default(field), texts.get(name, ""))
        for name, (kind, field) in fields_of(cls).items()
        if name not in known
    ]


def described(fields: list[Field]) -> str:
    """Returns a list of definitions, or a sentence if there is no option."""
    if not fields:
        return "No options."
    parts = []
    for field in fields:
        words = f"{field.kind}, {field.default}" if field.default else field.kind
        text = field.text or "See the documentation of the function."
        parts.append(f"`{field.key}` <small>{words}</small>\n:   {text[0].upper()}{text[1:]}")
    return "\n\n".join(parts)


def _kind(kind: Any) -> str:
    """Returns the words for an annotation, with a link to what it names."""
    if (registry := registry_of(kind)) is not None:
        return f"[{registry.kind}](../{page_of(registry)})"
    if len(members(kind)) > 1:
        return " or ".join(_kind(option) for option in members(kind))
    if (item := item_of(kind)) is not None:
        return "dictionary" if item is Any else f"dictionary of {_kind(item)}"
    if typing.get_origin(kind) is tuple:
        return f"list of {_kind(typing.get_args(kind)[0])}"
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return f"[{kind.__name__}](../{FOLDER}/config.md#{kind.__name__.lower()})"
    names = {type(None): "None", Any: "any value"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _default(field: dataclasses.Field) -> str:
    value: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "**required**"
    return f"default `{_shown(value)}`"


def _shown(value: Any) -> str:
    """Returns a default; of a dataclass only the values that differ from its own defaults."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_shown(v)}" for k, v in value.items()) + "}"
    if not dataclasses.is_dataclass(value):
        return repr(value)
    own = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
    differ = [
        f"{f.name}={v!r}" for f, v in own if f.default is dataclasses.MISSING or v != f.default
    ]
    return f"{type(value).__name__}({', '.join(differ)})"
