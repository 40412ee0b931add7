"""The reference of the Python interface: one page per package, from the docstrings."""

import importlib
import inspect
from types import ModuleType
from typing import Any

import kd_jax
from kd_jax.methods import METHODS

FOLDER = "api"
PACKAGES = ("losses", "models", "methods", "data", "training", "evaluation", "pretrained")
_TITLES = {
    "losses": "Losses",
    "models": "Networks",
    "methods": "Methods",
    "data": "Images",
    "training": "Training",
    "evaluation": "Evaluation",
    "pretrained": "Trained networks",
}


def pages() -> dict[str, str]:
    """Returns the text of every page by its path."""
    top = [name for name in kd_jax.__all__ if name not in PACKAGES]
    parts = [
        "# kd_jax",
        (kd_jax.__doc__ or "").partition("\n")[0],
        "[The public surface](../api.md) says which names are stable.",
    ]
    for name in top:
        item = getattr(kd_jax, name)
        parts += [f"## {name}", f"::: {item.__module__}.{item.__qualname__}", _HIDDEN]
    return {f"{FOLDER}/kd_jax.md": "\n\n".join(parts)} | {
        f"{FOLDER}/{name}.md": _page(name) for name in PACKAGES
    }


_HIDDEN = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false"


def public(package: ModuleType) -> dict[str, Any]:
    """Returns the public classes and functions of a package by name, without those of methods."""
    methods = {METHODS.get(name) for name in METHODS.built_in()}
    found = {}
    for name, item in vars(package).items():
        ours = (getattr(item, "__module__", "") or "").startswith("kd_jax.")
        known = inspect.isclass(item) or inspect.isfunction(item)
        if ours and known and not name.startswith("_") and item not in methods:
            found[name] = item
    return found


def _page(name: str) -> str:
    package = importlib.import_module(f"kd_jax.{name}")
    parts = [f"# {_TITLES[name]}: `kd_jax.{name}`", inspect.getdoc(package) or ""]
    if name == "methods":
        links = [f"[`{n}`](../methods/{n}.md)" for n in METHODS.built_in()]
        parts.append(f"The classes of the methods have their own pages: {', '.join(links)}.")
    heading = None
    for word, item in sorted(public(package).items(), key=_by_module):
        if name == "losses" and item.__module__ != heading:
            heading = item.__module__
            module = inspect.getdoc(importlib.import_module(heading)) or ""
            parts.append(f"## {module.partition(chr(10))[0].rstrip('.').partition(':')[0]}")
        parts.append(f"::: kd_jax.{name}.{word}\n    options:\n      heading_level: 3")
    return "\n\n".join(parts)


def _by_module(entry: tuple[str, Any]) -> tuple[str, int]:
    """Orders names by their module, and by their place in it."""
    _, item = entry
    try:
        line = inspect.getsourcelines(item)[1]
    except (OSError, TypeError):
        line = 0
    return item.__module__, line
