"""The reference of all options, generated from the specification of a config.

`kd_jax/experiment/specs.py` and the classes that it names are the only home of an option. The pages
follow their annotations, defaults and docstrings, so a new field, method, source, network,
optimizer, evaluator or loss appears by itself.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from docs.generate.fields import FOLDER, SPECIAL, described, intro, options_of, page_of
from kd_jax import losses
from kd_jax.core.registry import Registry
from kd_jax.core.text import markdown
from kd_jax.data.preprocessing import FILTERS
from kd_jax.experiment import RECIPES
from kd_jax.experiment.building import fields_of, item_of, join, members, registry_of, structured_of
from kd_jax.experiment.specs import Experiment
from kd_jax.methods import LABEL_LOSSES, default_options
from kd_jax.models import NETWORKS
from kd_jax.training import OPTIMIZERS, SCHEDULES, Optimizer

_FIRST = {
    "source": "A source gives the images of a config.",
    "evaluator": "An evaluator measures the networks of a stage, in addition to the accuracy on the"
    " test images. Its metrics are called `NAME/METRIC`.",
}
"""First sentences of the pages of registries."""
_NETWORK_ARGUMENTS = ("num_classes", "axis_name", "remat", "parent", "name")
"""Arguments of networks that a run sets."""


def pages() -> dict[str, str]:
    """Returns the text of every page of the reference by its path."""
    named = {
        page_of(registry): _registry_page(registry, key)
        for key, registry in registries()
        if registry.kind not in SPECIAL
    }
    return {
        f"{FOLDER}/config.md": _config_page(),
        **dict(sorted(named.items())),
        f"{FOLDER}/networks.md": _networks_page(),
        f"{FOLDER}/optimizers.md": _optimizers_page(),
        f"{FOLDER}/label_losses.md": _label_losses_page(),
    }


# ------------------------------------------------------------------------------------- pages


def _config_page() -> str:
    """Returns the page of all keys that have a fixed place in a config."""
    parts = [
        "# Options of a config",
        "This page is generated from `kd_jax/experiment/specs.py`. Set any key in a config file, or"
        " on the command line: `--config.data.batch_size=128`. `STAGE`, `ROLE` and `NAME` are names"
        " of your choice. Fractions of the images, sizes and seeds are checked before anything"
        " starts; an error names the key and the fix.",
    ]
    for cls, key in specifications():
        text = intro(cls)
        if key and f"`config.{key}`" not in text:
            text = f"`config.{key}`. {text}"
        parts += [f"## {cls.__name__}", text, described(options_of(cls, key or ""))]
    parts += ["## Resampling filters", "Values of `data.filter`: " + _codes(FILTERS) + "."]
    parts += [
        "## Recipes of the configs for CIFAR",
        "Values of the argument `recipe`, as in `--config=horkd/cifar100:recipe=ekd`: "
        + _codes(RECIPES)
        + ".",
    ]
    return "\n\n".join(parts)


def specifications() -> list[tuple[type, str | None]]:
    """Returns the classes that a config is made of, with the key of each.

    The key is None for a class that is a value of several keys.
    """
    found: dict[type, str | None] = {}

    def visit(cls: type, key: str | None) -> None:
        if cls in found:
            found[cls] = None
            return
        found[cls] = key
        for name, (kind, _) in fields_of(cls).items():
            for inner, path in _structures(kind, join(key or "", name)):
                if isinstance(inner, type):
                    visit(inner, path)

    visit(Experiment, "")
    for _, registry in registries():
        for cls in map(registry.get, registry.built_in()):
            for kind, _ in fields_of(cls).values():
                for inner, _ in _structures(kind, ""):
                    if isinstance(inner, type) and inner not in found:
                        visit(inner, None)
    return list(found.items())


def registries() -> list[tuple[str, Registry]]:
    """Returns the registries that a config can name, each with its first key."""
    found: dict[int, tuple[str, Registry]] = {}

    def visit(cls: type, key: str) -> None:
        for name, (kind, _) in fields_of(cls).items():
            for inner, path in _structures(kind, join(key, name)):
                registry = registry_of(inner)
                if registry is None:
                    visit(inner, path)
                elif id(registry) not in found:
                    found[id(registry)] = path, registry
                    for entry in map(registry.get, registry.built_in()):
                        visit(entry, path)

    visit(Experiment, "")
    return list(found.values())


_NAMES = {"stages": "STAGE", "networks": "ROLE", "optimizers": "GROUP"}


def _structures(kind: Any, key: str) -> Iterator[tuple[Any, str]]:
    """Yields the dataclasses and the choices in an annotation, with their keys."""
    for option in members(kind):
        item = item_of(option)
        if item is not None and item is not Any:
            yield from _structures(item, f"{key}.{_NAMES.get(key.split('.')[-1], 'NAME')}")
        elif (inner := structured_of(option)) is not None:
            yield inner, key


def _registry_page(registry: Registry, key: str) -> str:
    """Returns the page of the entries of a registry, which a config names at a key."""
    parts = [f"# {registry.kind.capitalize()}s", f"{_FIRST.get(registry.kind, '')} Key: `{key}`."]
    for name in registry.built_in():
        cls = registry.get(name)
        parts += [f"## {name}", intro(cls), described(options_of(cls))]
    return "\n\n".join(parts)


def _optimizers_page() -> str:
    parts = [
        "# Optimizers and schedules",
        "Key: `stages.STAGE.optimizers.GROUP`, where `GROUP` is `default`, a trained role, or"
        " `adapters`. The optimizers are those of optax, with optax's defaults.",
        "## Options of all optimizers",
        described(options_of(Optimizer)),
        "## Schedules",
        "Key: `stages.STAGE.optimizers.GROUP.schedule`.",
    ]
    for name in SCHEDULES.built_in():
        cls = SCHEDULES.get(name)
        parts += [f"### {name}", intro(cls), described(options_of(cls))]
    parts.append("## Optimizers")
    for name in OPTIMIZERS.built_in():
        own = options_of(OPTIMIZERS.get(name), without=Optimizer)
        words = ", ".join(f"`{f.key}` ({f.default.removeprefix('default ')})" for f in own)
        parts.append(f"`{name}`\n:   {words or 'No options of its own.'}")
    return "\n\n".join(parts)


def _label_losses_page() -> str:
    parts = [
        "# Label losses",
        "The loss of one network on the labels: the keys `method.loss` and `method.options` of"
        " `supervised` and `kdim`. The angular losses need a network with `head=angular`.",
    ]
    for name in LABEL_LOSSES.built_in():
        known = default_options(name).items()
        words = "\n".join(f"- `{k}`: {type(v).__name__}, default `{v!r}`" for k, v in known)
        text = intro(LABEL_LOSSES.get(name))
        if hasattr(losses, name):
            text += (
                f" Formula and source: [`losses.{name}`](../api/losses.md#kd_jax.losses.{name})."
            )
        parts += [f"## {name}", text, words or "No options."]
    return "\n\n".join(parts)


def _networks_page() -> str:
    """Returns the page of all networks, with one row for those of the same options."""
    rows: dict[str, list[str]] = {}
    for name in NETWORKS.built_in():
        factory = NETWORKS.get(name)
        fixed = getattr(factory, "keywords", {})
        options = [
            f"`{p.name}={p.default!r}`"
            for p in inspect.signature(factory).parameters.values()
            if p.name not in (*_NETWORK_ARGUMENTS, "dtype", *fixed)
            and p.default is not p.empty
            and isinstance(p.default, bool | int | float | str | None)
        ]
        rows.setdefault(", ".join(options) or "none", []).append(name)
    table = [[_codes(names), options] for options, names in rows.items()]
    return "\n\n".join(
        [
            "# Networks",
            "Key: `stages.STAGE.networks.ROLE.name`. The options are those of"
            " `networks.ROLE.options`, with their defaults. All networks also take"
            ' `dtype="float32"` or `"bfloat16"`.',
            markdown(["networks", "options"], table, left=2),
        ]
    )


def _codes(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
