"""The report of a run: a table, `report.md`, and the curves."""

import io
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

import kd_jax
from kd_jax.core.errors import UsageError, reason
from kd_jax.core.files import read_json, read_regular, write_file
from kd_jax.core.text import markdown
from kd_jax.pretrained.weights import FINISHED

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_TEST_METRICS = ("accuracy", "accuracy_gap", "cross_entropy")
"""Beginnings of the names of those metrics that are always of the test images."""
_CURVE = "metrics.jsonl"
_KINDS: dict[str, Any] = {
    "network": str,
    "resolution": int,
    "params": int,
    "metric": str,
    "seconds": int | float,
    "last": dict,
    "best": dict,
    "versions": dict,
    "device": dict,
}
"""Types of the values in `stage.json` that reports need."""


def environment(mesh: Mesh) -> dict[str, Any]:
    """Returns the versions and the devices of this process."""
    device = mesh.devices.flat[0]
    return {
        "versions": {
            "kd_jax": kd_jax.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": mesh.size,
            "processes": jax.process_count(),
        },
    }


def stored_stage(folder: epath.Path) -> dict[str, Any]:
    """Returns the results of a finished stage.

    Raises:
        UsageError: if `stage.json` is damaged.
    """
    path = folder / FINISHED
    try:
        stage = read_json(path)
        if stage.get("name") != folder.name:
            raise ValueError(f"its name must be {folder.name!r}")
        for name, kind in _KINDS.items():
            if not isinstance(stage.get(name), kind) or isinstance(stage[name], bool):
                raise ValueError(f"{name} is missing, or of another type")
        if not isinstance(stage.get("predictions", []), list):  # version 0.1 has none
            raise ValueError("predictions is of another type")
        for checkpoint in ("last", "best"):
            names = {"step", "epoch", _result_name(stage), *stage[checkpoint]}
            _check_numbers(stage[checkpoint], names)
        _check_numbers(stage["device"], ("count", "processes"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is damaged ({reason(error)}): restore it, or delete {folder} and run the same"
            " command again, which trains the stage again."
        ) from error
    return stage


def curve(folder: epath.Path) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` of a stage; none if the file is missing.

    Raises:
        UsageError: if the file is damaged.
    """
    path = folder / _CURVE
    if not path.exists():
        return []
    try:
        entries = [json.loads(line) for line in read_regular(path).splitlines()]
        for entry in entries:
            _check_numbers(entry, {"step", "epoch", *entry} - {"train"})
            _check_numbers(entry.get("train"), ("loss",))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is damaged ({reason(error)}): restore it, or delete it and run the same"
            " command again; only the plotted curves need it."
        ) from error
    return entries


def _check_numbers(values: Any, names: Iterable[Any]) -> None:
    """Raises `ValueError` if some values of a dictionary are no finite numbers."""
    for name in names:
        value = values.get(name) if isinstance(values, Mapping) else None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{name} is no finite number")


def result(stage: Mapping[str, Any], checkpoint: str = "last") -> float:
    """Returns the metric that describes a stage.

    Args:
        stage: content of `stage.json`.
        checkpoint: `last` or `best`.
    """
    value: float = stage[checkpoint][_result_name(stage)]
    return value


def heading(stages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the name of the column of results: their metric, or `result` if there are several."""
    names = {_result_name(stage) for stage in stages}
    return names.pop() if len(names) == 1 else "result"


def meaning(stages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the words that follow the results of some stages in a sentence."""
    by_metric: dict[str, list[str]] = {}
    for stage in stages:
        names = by_metric.setdefault(_result_name(stage), [])
        if stage["name"] not in names:
            names.append(stage["name"])
    if set(by_metric) == {"accuracy"}:
        return " on the test images"
    if len(by_metric) == 1:
        return ""
    return ", " + ", ".join(f"{metric} of {' and '.join(n)}" for metric, n in by_metric.items())


def _result_name(stage: Mapping[str, Any]) -> str:
    return str(stage.get("result", "accuracy"))  # stages of version 0.1 have test images


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for stage in summary["stages"]:
        row = (
            stage["name"],
            stage["network"],
            str(stage["resolution"]),
            f"{stage['params']:,}",
            f"{result(stage):.2%}",
            f"{result(stage, 'best'):.2%}",
            f"{stage['last']['epoch']:g}",
            f"{stage['seconds']:.0f}",
        )
        rows += [row, *_further_rows(stage)]
    return rows


def _further_rows(stage: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns one row per further output of a stage: another network, a branch or an ensemble."""
    rows = []
    for name in stage.get("predictions", ())[1:]:
        metric = f"{_result_name(stage)}/{name}"
        if all(metric in stage[checkpoint] for checkpoint in ("last", "best")):
            values = (f"{stage[checkpoint][metric]:.2%}" for checkpoint in ("last", "best"))
            rows.append((f"{stage['name']}: {name}", "", "", "", *values, "", ""))
    return rows


def table(summary: Mapping[str, Any]) -> str:
    """Returns the stages of a run as a Markdown table.

    `accuracy` is the accuracy on the test images after the last epoch. `best` is that of the best
    checkpoint. Without a validation split the best checkpoint is chosen on the test images, and
    its accuracy is then too high. Where there are no test images, the column is named after the
    metric that it shows. The other trained networks of a stage, its branches and its ensemble have
    a row each, such as `student: ensemble`. Metrics of further evaluators are below the table.
    """
    name = heading(summary["stages"])
    columns = ("stage", "network", "resolution", "params", name, "best", "epoch", "seconds")
    lines = [markdown(columns, _rows(summary), left=2), *_further(summary)]
    return "\n".join(lines)


def _further(summary: Mapping[str, Any]) -> list[str]:
    """Returns one line per stage with the metrics of its further evaluators."""
    lines = []
    for stage in summary["stages"]:
        metrics = {
            name: value
            for name, value in stage["last"].items()
            if "/" in name
            and not name.startswith(("accuracy", "cross_entropy"))
            and name != _result_name(stage)
        }
        if metrics:
            words = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            lines.append(f"\n{stage['name']}: {words}")
    return lines


def _chosen_by(summary: Mapping[str, Any]) -> str:
    """Returns the sentence on how the best checkpoints were chosen."""
    metrics = sorted({stage["metric"] for stage in summary["stages"]})
    tested = {_result_name(stage) for stage in summary["stages"]}
    words = [f"lowest {m[1:]}" if m.startswith("-") else f"highest {m}" for m in metrics]
    text = f"`best` is that of the checkpoint with the {' or '.join(words)}"
    chosen_on_test = any(
        m.removeprefix("-").partition("/")[0] in _TEST_METRICS or m in tested for m in metrics
    )
    return text + (", chosen on the same images." if chosen_on_test else ".")


def write(summary: Mapping[str, Any], workdir: epath.Path) -> None:
    """Writes `report.md` and `curves.png`."""
    curves = {stage["name"]: curve(workdir / stage["name"]) for stage in summary["stages"]}
    results = {stage["name"]: _result_name(stage) for stage in summary["stages"]}
    _plot(curves, results, heading(summary["stages"]), workdir / "curves.png")
    stages, device, versions = summary["stages"], summary["device"], summary["versions"]
    write_file(
        workdir / "report.md",
        f"# {summary['experiment']}\n\n{table(summary)}\n\n"
        f"`{heading(stages)}` is that of the last epoch{meaning(stages)}. {_chosen_by(summary)}\n\n"
        f"Seed {summary['seed']}, {device['count']} x {device['kind']} ({device['platform']}), "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f".\nLower resolutions by the filter {summary['filter']}.\n\n"
        "![Accuracy and loss of every stage](curves.png)\n",
    )


def _plot(
    curves: Mapping[str, list[dict[str, Any]]],
    results: Mapping[str, str],
    heading: str,
    path: epath.Path,
) -> None:
    """Draws the result and the training loss of every stage over its epochs.

    Args:
        curves: the lines of `metrics.jsonl` by stage.
        results: the metric that describes each stage.
        heading: label of the axis of these metrics.
        path: path of the image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, loss = figure.subplots(1, 2)
    for name, entries in curves.items():
        epochs = [entry["epoch"] for entry in entries]
        marker = "." if len(entries) < 20 else None
        values = [entry.get(results[name], math.nan) for entry in entries]
        accuracy.plot(epochs, values, label=name, marker=marker)
        loss.plot(epochs, [entry["train"]["loss"] for entry in entries], label=name, marker=marker)
    label = "test accuracy" if heading == "accuracy" else heading
    accuracy.set(xlabel="epoch", ylabel=label)
    loss.set(xlabel="epoch", ylabel="training loss")
    if all(entry["train"]["loss"] > 0 for entries in curves.values() for entry in entries):
        loss.set_yscale("log")
    accuracy.legend()
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    write_file(path, file.getvalue())
