"""The pages of the methods: the text of `docs/methods/NAME.md`, and parts that follow from code.

The picture, the line of a config, the command, the options and the measured results are added to
each page. A registered method that has no page gets one from its docstring.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from docs.generate import fields, pictures, tables
from docs.generate.files import ROOT, results
from kd_jax.core.errors import UsageError
from kd_jax.experiment.config_files import load_config
from kd_jax.methods import METHODS

FOLDER = ROOT / "docs" / "methods"
_WIDTH = 80
"""Number of characters of a line of code that a page shows without scrolling."""
FAMILIES = (
    "Predictions",
    "Feature maps",
    "Relations of images",
    "Contrast",
    "Several networks",
    "Online",
    "Building blocks",
    "Further methods",
)
"""Groups of the navigation, in order; the last one has the methods without a page of text."""


def texts() -> dict[str, tuple[dict[str, Any], str]]:
    """Returns front matter and text of every method by its name."""
    found = {}
    for path in sorted(FOLDER.glob("*.md")):
        found[path.stem] = _split(path)
    for name in METHODS.built_in():
        if name not in found:
            summary, _, rest = fields.intro(METHODS.get(name)).partition("\n")
            text = f"# `{name}`\n\n{summary}\n\n## Definition\n{rest or summary}\n"
            found[name] = {"family": FAMILIES[-1]}, text
    return found


def _split(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    _, front, text = path.read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def navigation() -> list[dict[str, list[str]]]:
    """Returns the pages of the methods by family."""
    known = texts()
    by_family = {
        family: [
            f"methods/{name}.md" for name, (meta, _) in known.items() if meta["family"] == family
        ]
        for family in FAMILIES
    }
    return [{family: names} for family, names in by_family.items() if names]


def page(name: str, meta: Mapping[str, Any], text: str) -> str:
    """Returns the whole page of a method.

    Args:
        name: name in configs, of a registered method or of a method of `baselines/cifar10`.
        meta: front matter: `family`, and where there are any, `picture`, `command` and `results`.
        text: title, idea, paper and formula, with the formula under the second heading.
    """
    idea, mark, formula = text.partition("\n## ")
    parts = [idea]
    if "picture" in meta:
        parts.append(pictures.drawn(meta["picture"], f"Networks and losses of {name}"))
    parts += [(mark + formula).strip(), "## In a config", config_lines(name, meta)]
    if name in METHODS:
        rows = fields.described(fields.options_of(METHODS.get(name)))
        parts += ["## Options", "Keys below `stages.STAGE.method`.", rows]
    parts += ["## Measured", measured(name, meta)]
    return "\n\n".join(parts) + "\n"


def config_lines(name: str, meta: Mapping[str, Any]) -> str:
    """Returns the line of a config, and the command that trains a student by the method."""
    parts = []
    if name in METHODS:
        line = meta.get("method", f'{{"name": "{name}"}}')
        parts.append(f"```python\nconfig.stages.student.method = {line}\n```")
    if command := meta.get("command") or _command(name):
        if len(command.partition("\n")[0]) > _WIDTH:
            command = command.replace(" --workdir", " \\\n  --workdir")
        parts.append(f"```bash\n{command}\n```")
        parts.append(
            "`runs/resnet20` is the teacher that the first command of [the methods](../methods.md)"
            " imports."
            if "runs/resnet20" in command
            else ""
        )
    return "\n\n".join(part for part in parts if part)


def _command(name: str) -> str | None:
    """Returns the command of `baselines/cifar10`; None if this config refuses the method."""
    argument = f"baselines/cifar10:method={name}"
    try:
        stages = load_config(argument).stages.to_dict().values()
    except UsageError:
        return None
    if any("teacher" in stage["networks"] for stage in stages) and name != "snapshot":
        argument += ",teacher=runs/resnet20"
    return f"kd-jax train --config={argument} --workdir=runs/{name}"


def measured(name: str, meta: Mapping[str, Any]) -> str:
    """Returns the measured results of a method, with links to the files that explain them."""
    parts = []
    for entry in meta.get("results", ()):
        path = f"experiments/results/{entry['file']}"
        rows = tables.chosen(path, entry["table"], entry["rows"])
        parts += [f"{entry['text']} ([all results](../results/{entry['file']}))", rows]
    for path, rows in tables.of_method(results(), name):
        link = f"../results/{path.rpartition('/')[2]}"
        parts += [f"All methods on one student ([conditions and limits]({link})):", rows]
    if not parts:
        return (
            "This repository has no result of this method yet. `python -m experiments.method_zoo`"
            " measures all methods on one student."
        )
    return "\n\n".join(parts)
