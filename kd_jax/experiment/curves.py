"""Curves of runs: results in percent with their confidence, and the losses of each stage."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.experiment import noise
from kd_jax.experiment.report_html.chart import Series, chart
from kd_jax.experiment.stored import num_images, result_name

Curve = Sequence[Mapping[str, Any]]
"""The lines of `metrics.jsonl` of a stage."""


def results_label(stages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the label of the axis of the results of some stages."""
    names = {result_name(stage) for stage in stages}
    name = names.pop() if len(names) == 1 else "result"
    return f"{'test accuracy' if name == 'accuracy' else name} (%)"


def result_series(stage: Mapping[str, Any], entries: Curve) -> Series:
    """Returns the result of a stage over the epochs, in percent.

    The margin is that of 95 %, from the binomial standard error of the images.

    Args:
        stage: content of `stage.json`. The key `label` replaces the name in the legend.
        entries: the curve.
    """
    values = [entry.get(result_name(stage), math.nan) for entry in entries]
    number = num_images(stage)
    margins = None
    if number is not None:
        clipped = [min(max(value, 0.0), 1.0) for value in values]
        margins = [100 * noise.margin(value, number) for value in clipped]
    epochs = [entry["epoch"] for entry in entries]
    label = str(stage.get("label", stage["name"]))
    return Series(label, epochs, [100 * value for value in values], margins, 100.0)


def loss_series(entries: Curve) -> list[Series]:
    """Returns the training loss of a stage, and every term of it without its weight."""
    terms = list(entries[0]["train"]) if entries else []
    terms = [term for term in terms if not term.startswith("accuracy")]
    epochs = [entry["epoch"] for entry in entries]
    return [
        Series(
            term,
            epochs,
            [entry["train"].get(term, math.nan) for entry in entries],
            dashed=term != "loss",
        )
        for term in sorted(terms, key=lambda term: term != "loss")
    ]


def results_svg(stages: Sequence[Mapping[str, Any]], curves: Sequence[Curve]) -> str:
    """Returns the results of all stages as an `<svg>` element."""
    series = [result_series(*pair) for pair in zip(stages, curves, strict=True)]
    label = results_label(stages)
    title = label.removesuffix(" (%)")
    return chart(f"{title[0].upper()}{title[1:]}", "epoch", label, series)


def losses_svg(name: str, entries: Curve) -> str:
    """Returns the losses of a stage as an `<svg>` element."""
    title = f"Training loss of {name}"
    return chart(title, "epoch", "mean (no unit), terms unweighted", loss_series(entries), log=True)


def curves_png(stages: Sequence[Mapping[str, Any]], curves: Mapping[str, Curve]) -> bytes:
    """Draws the results of all stages, and the losses of each stage in a panel.

    Args:
        stages: contents of `stage.json`.
        curves: the curves by the name of the stage.

    Returns:
        The content of a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil((1 + len(stages)) / 2)
    figure = Figure(figsize=(10, 3.6 * rows))
    FigureCanvasAgg(figure)
    results = figure.add_subplot(rows, 2, 1)
    every = [result_series(stage, curves[stage["name"]]) for stage in stages]
    _draw(results, every, results_label(stages))
    for place, stage in enumerate(stages):
        axes = figure.add_subplot(rows, 2, place + 2)
        losses = loss_series(curves[stage["name"]])
        _draw(axes, losses, "loss and unweighted terms")
        axes.set_title(f"training loss of {stage['name']}", fontsize=10)
        if all(value > 0 for series in losses for value in series.y):
            axes.set_yscale("log")
    figure.subplots_adjust(0.08, 0.15 / rows, 0.98, 1 - 0.1 / rows, 0.22, 0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _draw(axes: Any, series: Sequence[Series], label: str) -> None:
    """Draws curves into axes of matplotlib."""
    for curve in series:
        marker, style = "." if len(curve.x) < 20 else None, "--" if curve.dashed else "-"
        (line,) = axes.plot(curve.x, curve.y, label=curve.label, marker=marker, linestyle=style)
        if curve.margin is not None:
            low = [y - m for y, m in zip(curve.y, curve.margin, strict=True)]
            high = [min(y + m, curve.most) for y, m in zip(curve.y, curve.margin, strict=True)]
            axes.fill_between(curve.x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize=8, loc="best" if len(series) < 6 else "upper left")
