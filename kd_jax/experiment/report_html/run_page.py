"""The page of one run."""

import html
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from kd_jax.core.files import write_file
from kd_jax.experiment import noise, report
from kd_jax.experiment.curves import losses_svg, results_svg
from kd_jax.experiment.defaults import REQUIRED, changes
from kd_jax.experiment.report_html import page as parts
from kd_jax.experiment.report_html.chart import matrix
from kd_jax.experiment.specs import experiment
from kd_jax.experiment.stored import confusion, curve, num_images, result, seen_size
from kd_jax.training.pictures import STORED

_SHOWN = (1, 3)
"""Numbers of channels of images that can be shown."""


def write(
    summary: Mapping[str, Any], workdir: epath.Path, images: Mapping[str, np.ndarray]
) -> None:
    """Writes `report.html`.

    Args:
        summary: content of `results.json`.
        workdir: folder of the run.
        images: first images of the training by `STAGE/ROLE`; see `training.pictures`.
    """
    sections = [
        parts.Section("Results", _results(summary)),
        parts.Section("Curves", _curves(summary, workdir)),
    ]
    if images:
        sections.append(parts.Section("Images that the networks see", _seen(images)))
    if found := _confusions(summary, workdir):
        sections.append(parts.Section("Confusion matrices", found))
    sections.append(parts.Section("Configuration", _config(summary)))
    title = f"{summary['experiment']}: report"
    write_file(workdir / "report.html", parts.page(title, report.device(summary), sections))


def _results(summary: Mapping[str, Any]) -> str:
    """Returns the table of results, the differences, and the options that change what is stored."""
    stages = summary["stages"]
    columns = ("stage", "network", "sees", "parameters", report.heading(stages), "best", "epochs")
    rows = [
        (
            stage["name"],
            stage["network"],
            f"{seen_size(stage)} px",
            f"{stage['params']:,}",
            _with_margin(stage),
            f"{result(stage, 'best'):.2%}",
            f"{stage['last']['epoch']:g}",
            f"{stage['seconds']:,.0f}",
        )
        for stage in stages
    ]
    further = [row for stage in stages for row in report.further_rows(stage)]
    content = parts.table((*columns, "seconds"), [*rows, *further], left=2)
    content += parts.paragraph(
        f"{report.explanation(summary)} ± is half of an interval of 95 %, from the binomial"
        " standard error of the images.",
        "note",
    )
    if lines := report.differences(summary):
        content += "<h3>Differences of stages with like networks</h3>" + parts.bullets(lines)
        content += parts.paragraph(report.differences_note(), "note")
    if lines := report.storage(summary):
        content += "<h3>Options that change what is trained on or stored</h3>"
        content += parts.bullets(lines)
    return content


def _with_margin(stage: Mapping[str, Any]) -> str:
    """Returns the result of a stage in percent, with its interval of 95 % where it is known."""
    value, number = result(stage), num_images(stage)
    if number is None:
        return f"{value:.2%}"
    return f"{100 * value:.2f} ± {100 * noise.margin(value, number):.2f} %"


def _curves(summary: Mapping[str, Any], workdir: epath.Path) -> str:
    stages = summary["stages"]
    curves = {stage["name"]: curve(workdir / stage["name"]) for stage in stages}
    svgs = [results_svg(stages, [*curves.values()])]
    svgs += [losses_svg(name, entries) for name, entries in curves.items()]
    links = ", ".join(
        f'<a href="{html.escape(name)}/metrics.jsonl">{html.escape(name)}</a>' for name in curves
    )
    return parts.panels(svgs) + f'<p class="note">Numbers of the curves: {links}.</p>'


def _seen(images: Mapping[str, np.ndarray]) -> str:
    """Returns the same images as every role sees them; equal views are shown once."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, pixels in images.items():
        groups.setdefault((pixels.shape, pixels.tobytes()), []).append(name)
    content = parts.paragraph(
        "The first images of the first training step: as they are stored, and after augmentation,"
        " degradation and resizing, as the networks of each stage see them.",
        "note",
    )
    for names in groups.values():
        pixels = images[names[0]]
        if pixels.shape[-1] not in _SHOWN:
            continue
        words = ["stored images" if name == STORED else name for name in names]
        title = f"{', '.join(words)}: {pixels.shape[1]}x{pixels.shape[2]} pixels"
        content += f"<h3>{html.escape(title)}</h3>{parts.pictures(pixels, title)}"
    return content


def _confusions(summary: Mapping[str, Any], workdir: epath.Path) -> str:
    """Returns the confusion matrices of the stages that have one."""
    found = []
    for name in (stage["name"] for stage in summary["stages"]):
        if (counts := confusion(workdir / name)) is not None:
            found.append(matrix(f"{name}, {counts.sum():,} test images", counts))
    return parts.panels(found) if found else ""


def _config(summary: Mapping[str, Any]) -> str:
    """Returns the values that are not the defaults, and the whole config."""
    spec = experiment(summary["config"])
    every = [*changes(spec)]
    rows = [(c.key, _text(c.value), _text(c.default)) for c in every if c.default != REQUIRED]
    required = [(c.key, _text(c.value)) for c in every if c.default == REQUIRED]
    content = parts.paragraph("Values that are not the defaults:")
    content += parts.table(("key", "value", "default"), rows, left=3, wide=(0, 1, 2))
    content += parts.details(
        "Values without a default", parts.table(("key", "value"), required, left=2, wide=(0, 1))
    )
    whole = html.escape(json.dumps(summary["config"], indent=2))
    return content + parts.details("The whole config, config.json", f"<pre>{whole}</pre>")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
