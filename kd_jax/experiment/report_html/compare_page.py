"""The page of a comparison of runs."""

import math
import statistics
from collections.abc import Sequence

from kd_jax.experiment import compare
from kd_jax.experiment.compare import Group
from kd_jax.experiment.curves import loss_series, result_series, results_label
from kd_jax.experiment.report_html import page as parts
from kd_jax.experiment.report_html.chart import Series, chart
from kd_jax.experiment.stored import curve


def compare_page(groups: Sequence[Group], base: Group) -> str:
    """Returns the page: the table of results, the curves of every stage, and the configs.

    Args:
        groups: the groups of runs.
        base: the group from which differences are measured.
    """
    columns = (*compare.COLUMNS, f"difference from {base.name}")
    results = parts.table(columns, compare.rows(groups, base), left=4, wide=(1,))
    results += parts.paragraph(compare.explanation(), "note")
    svgs = [svg for name in compare.stage_names(groups) for svg in _stage(name, groups)]
    note = (
        "Bands are the standard deviation of several seeds, or the interval of 95 % from the test"
        " images of one run."
    )
    configs = ""
    for group in groups:
        if lines := [] if group is base else [*compare.config_changes(base, group)]:
            configs += parts.paragraph(f"Config of {group.name}:")
            configs += parts.table(("key", base.name, group.name), lines, left=3, wide=(0, 1, 2))
    sections = [
        parts.Section("Results", results),
        parts.Section("Curves", parts.panels(svgs) + parts.paragraph(note, "note")),
    ]
    if configs:
        sections.append(parts.Section("Differences of the configs", configs))
    runs = [f"{run.name} (seed {run.seed})" for group in groups for run in group.runs.values()]
    return parts.page("Comparison of runs", f"{len(runs)} runs: {', '.join(runs)}", sections)


def _stage(name: str, groups: Sequence[Group]) -> list[str]:
    """Returns the charts of the results and of the training loss of a stage."""
    results, losses, stages = [], [], []
    for group in groups:
        of_seeds = [
            (run.stages[name], curve(run.folder / name))
            for run in group.runs.values()
            if name in run.stages
        ]
        of_seeds = [pair for pair in of_seeds if pair[1]]
        if not of_seeds:
            continue
        stages.append(of_seeds[0][0])
        label = group.name
        results.append(_mean(label, [result_series(*pair) for pair in of_seeds]))
        losses.append(_mean(label, [loss_series(entries)[0] for _, entries in of_seeds]))
    if not stages:
        return []
    label = results_label(stages)
    return [
        chart(f"{name}: {label.removesuffix(' (%)')}", "epoch", label, results),
        chart(f"{name}: training loss", "epoch", "mean (no unit)", losses, log=True),
    ]


def _mean(label: str, every: Sequence[Series]) -> Series:
    """Returns the mean of the curves of several seeds, with their standard deviation."""
    if len(every) == 1:
        return every[0]._replace(label=label)
    values: dict[float, list[float]] = {}
    for series in every:
        for x, y in zip(series.x, series.y, strict=True):
            values.setdefault(x, []).append(y)
    common = {x: ys for x, ys in sorted(values.items()) if len(ys) == len(every)}
    finite = [not any(map(math.isnan, ys)) for ys in common.values()]
    return Series(
        label,
        [*common],
        [statistics.mean(ys) for ys in common.values()],
        [
            statistics.stdev(ys) if ok else 0.0
            for ys, ok in zip(common.values(), finite, strict=True)
        ],
    )
