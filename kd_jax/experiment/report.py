"""The report of a run: a table, `report.md`, the curves, and `report.html`."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from kd_jax.core.files import write_file
from kd_jax.core.text import markdown
from kd_jax.experiment import noise
from kd_jax.experiment.curves import curves_png
from kd_jax.experiment.stored import curve, result_name, seen_size
from kd_jax.experiment.stored import result as result

_TEST_METRICS = ("accuracy", "accuracy_gap", "cross_entropy")
"""Beginnings of the names of those metrics that are always of the test images."""


def heading(stages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the name of the column of results: their metric, or `result` if there are several."""
    names = {result_name(stage) for stage in stages}
    return names.pop() if len(names) == 1 else "result"


def meaning(stages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the words that follow the results of some stages in a sentence."""
    by_metric: dict[str, list[str]] = {}
    for stage in stages:
        names = by_metric.setdefault(result_name(stage), [])
        if stage["name"] not in names:
            names.append(stage["name"])
    if set(by_metric) == {"accuracy"}:
        return " on the test images"
    if len(by_metric) == 1:
        return ""
    return ", " + ", ".join(f"{metric} of {' and '.join(n)}" for metric, n in by_metric.items())


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for stage in summary["stages"]:
        row = (
            stage["name"],
            stage["network"],
            seen_size(stage),
            f"{stage['params']:,}",
            f"{result(stage):.2%}",
            f"{result(stage, 'best'):.2%}",
            f"{stage['last']['epoch']:g}",
            f"{stage['seconds']:.0f}",
        )
        rows += [row, *further_rows(stage)]
    return rows


def further_rows(stage: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns one row per further output of a stage: another network, a branch or an ensemble."""
    rows = []
    for name in stage.get("predictions", ())[1:]:
        metric = f"{result_name(stage)}/{name}"
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
            and name != result_name(stage)
        }
        if metrics:
            words = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            lines.append(f"\n{stage['name']}: {words}")
    return lines


def _chosen_by(summary: Mapping[str, Any]) -> str:
    """Returns the sentence on how the best checkpoints were chosen."""
    metrics = sorted({stage["metric"] for stage in summary["stages"]})
    tested = {result_name(stage) for stage in summary["stages"]}
    words = [f"lowest {m[1:]}" if m.startswith("-") else f"highest {m}" for m in metrics]
    text = f"`best` is that of the checkpoint with the {' or '.join(words)}"
    chosen_on_test = any(
        m.removeprefix("-").partition("/")[0] in _TEST_METRICS or m in tested for m in metrics
    )
    return text + (", chosen on the same images." if chosen_on_test else ".")


def device(summary: Mapping[str, Any]) -> str:
    """Returns the sentence on seed, devices, versions and filter."""
    device, versions = summary["device"], summary["versions"]
    return (
        f"Seed {summary['seed']}, {device['count']} x {device['kind']} ({device['platform']}), "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f".\nLower resolutions by the filter {summary['filter']}."
    )


def explanation(summary: Mapping[str, Any]) -> str:
    """Returns the sentences on the columns of the table."""
    stages = summary["stages"]
    return (
        f"`{heading(stages)}` is that of the last epoch{meaning(stages)}. {_chosen_by(summary)}"
        f"{_faces(stages)}"
    )


def _faces(stages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the sentence on the test accuracy of stages that have evaluators of their own."""
    tested = [s["name"] for s in stages if "accuracy" in s["last"]]
    other = {
        s["name"]: [n for n in s["last"] if "/" in n and n.partition("/")[2] == "accuracy"]
        for s in stages
    }
    if not tested or not any(set(names) - {"validation/accuracy"} for names in other.values()):
        return ""
    return (
        " `accuracy` is that of classification: the fraction of the test images whose class, which"
        " is one of the training classes, gets the greatest logit. It is another measure than the"
        " accuracy of an evaluator of pairs."
    )


def differences(summary: Mapping[str, Any]) -> list[str]:
    """Returns one line per pair of stages with like networks: their difference and its noise."""
    stages = summary["stages"]
    lines = []
    for i, j in noise.comparable(stages):
        if (found := noise.of_stages(stages[j], stages[i])) is not None:
            lines.append(f"{stages[j]['name']} - {stages[i]['name']}: {found}")
    return lines


def differences_note() -> str:
    """Returns the sentence that explains the lines of `differences`."""
    return (
        "Differences are in percentage points, with an interval of 95 % from the binomial standard"
        " error of the images. Other seeds add noise that one run does not show: see"
        " `kd-jax compare`."
    )


def storage(summary: Mapping[str, Any]) -> list[str]:
    """Returns one sentence per stage whose options change what is trained on, or stored."""
    data, lines = summary["config"].get("data", {}), []
    for name in (stage["name"] for stage in summary["stages"]):
        spec = summary["config"].get("stages", {}).get(name, {})
        if decay := spec.get("ema_decay"):
            lines.append(
                f"{name}: the evaluated and stored networks are moving averages of the trained"
                f" ones (ema_decay {decay:g})."
            )
        if (parts := spec.get("accumulate", 1)) > 1:
            lines.append(f"{name}: each step computes its batch in {parts} parts (accumulate).")
        if source := spec.get("adapters_from"):
            lines.append(f"{name}: the first adapters are those of {source} (adapters_from).")
    if (fraction := data.get("train_fraction", 1.0)) < 1:
        lines.append(f"Trained on {fraction:g} of the training images (train_fraction).")
    if fraction := data.get("validation_fraction"):
        lines.append(f"{fraction:g} of the training images are for validation only.")
    return lines


def write(summary: Mapping[str, Any], workdir: epath.Path) -> None:
    """Writes `report.md` and `curves.png`."""
    stages = summary["stages"]
    curves = {stage["name"]: curve(workdir / stage["name"]) for stage in stages}
    write_file(workdir / "curves.png", curves_png(stages, curves))
    parts = [f"# {summary['experiment']}", table(summary), explanation(summary)]
    if lines := differences(summary):
        parts.append("\n".join(f"- {line}" for line in lines))
        parts.append(differences_note())
    if lines := storage(summary):
        parts.append("\n".join(f"- {line}" for line in lines))
    parts.append(device(summary))
    links = ", ".join(f"[{name}]({name}/metrics.jsonl)" for name in curves)
    parts.append(f"Numbers of the curves: {links}.")
    parts.append("![Accuracy and loss of every stage](curves.png)")
    write_file(workdir / "report.md", "\n\n".join(parts) + "\n")
