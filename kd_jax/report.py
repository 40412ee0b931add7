"""What a run ends with: a table, `report.md`, and the curves."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

import kd_jax
from kd_jax.files import write_atomically

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
COLUMNS = ("stage", "network", "resolution", "params", "accuracy", "best", "epoch", "seconds")


def environment(mesh: Mesh) -> dict[str, Any]:
    """What a stage was trained with."""
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


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table that reads well on a terminal too; the first `left` columns are words."""
    rows = [columns, *rows]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(columns))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def line(cells):
        pairs = enumerate(zip(cells, widths, strict=True))
        padded = (cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in pairs)
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(columns), line(rule), *map(line, rows[1:])])


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            stage["name"],
            stage["network"],
            str(stage["resolution"]),
            f"{stage['params']:,}",
            f"{stage['last']['accuracy']:.2%}",
            f"{stage['best']['accuracy']:.2%}",
            f"{stage['last']['epoch']:g}",
            f"{stage['seconds']:.0f}",
        )
        for stage in summary["stages"]
    ]


def table(summary: Mapping[str, Any]) -> str:
    """The stages of a run as a Markdown table.

    `accuracy` is that of the last epoch, `best` the greatest on the way, which is chosen on the
    test images and therefore flatters.
    """
    return markdown(COLUMNS, _rows(summary), left=2)


def write(summary: Mapping[str, Any], workdir: epath.Path) -> None:
    """Writes `report.md` and `curves.png`."""
    curves = {
        stage["name"]: [
            json.loads(text)
            for text in (workdir / stage["name"] / "metrics.jsonl").read_text().splitlines()
        ]
        for stage in summary["stages"]
    }
    _plot(curves, workdir / "curves.png")
    device, versions = summary["device"], summary["versions"]
    write_atomically(
        workdir / "report.md",
        f"# {summary['experiment']}\n\n{table(summary)}\n\n"
        "`accuracy` is that of the last epoch on the test images; `best` is the greatest of all"
        " evaluations, chosen on the same images.\n\n"
        f"Seed {summary['seed']}, {device['count']} x {device['kind']} ({device['platform']}), "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f".\nLower resolutions by the filter {summary['filter']}.\n\n"
        "![Accuracy and loss of every stage](curves.png)\n",
    )


def _plot(curves: Mapping[str, list[dict[str, Any]]], path: epath.Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, loss = figure.subplots(1, 2)
    for name, entries in curves.items():
        epochs = [entry["epoch"] for entry in entries]
        marker = "." if len(entries) < 20 else None
        accuracy.plot(epochs, [entry["accuracy"] for entry in entries], label=name, marker=marker)
        loss.plot(epochs, [entry["train"]["loss"] for entry in entries], label=name, marker=marker)
    accuracy.set(xlabel="epoch", ylabel="test accuracy")
    loss.set(xlabel="epoch", ylabel="training loss")
    if all(entry["train"]["loss"] > 0 for entries in curves.values() for entry in entries):
        loss.set_yscale("log")
    accuracy.legend()
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=120)
