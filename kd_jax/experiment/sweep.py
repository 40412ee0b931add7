"""Several runs of one config: seeds, and values of a key; one table with paired gains."""

import copy
import dataclasses
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import PathLike, absolute_path, output_folder, read_regular, write_file
from kd_jax.core.text import markdown
from kd_jax.experiment import report
from kd_jax.experiment.keys import override
from kd_jax.experiment.run import Run
from kd_jax.experiment.specs import Experiment, experiment

SHARED = "shared"
"""Folder of the stages that all runs share."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of a sweep: every seed with every combination of values.

    Attributes:
        seeds: seeds of the runs.
        values: texts of the values by key, as in `--config.KEY=VALUE`.
        shared: names of the stages that are trained once, with the first seed, for all runs.
        stages: names of the stages that every run trains; None is all. Other stages that they start
            from must be shared.
        baseline: stage from which the gains of the others are measured; None measures no gains.
        metrics: names of the metrics in the table; empty shows the result of every stage.
    """

    seeds: tuple[int, ...]
    values: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    shared: tuple[str, ...] = ()
    stages: tuple[str, ...] | None = None
    baseline: str | None = None
    metrics: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"--seeds={self.seeds}: name one seed or more, each once.")
        for key, texts in self.values.items():
            if not texts or len(set(texts)) < len(texts):
                raise UsageError(f"--sweep={key}: name one value or more, each once.")

    def variants(self) -> Iterator[dict[str, str]]:
        """Yields the swept values of every combination, by key."""
        for texts in itertools.product(*self.values.values()):
            yield dict(zip(self.values, texts, strict=True))


def run_sweep(config: Mapping[str, Any], workdir: PathLike, sweep: Sweep) -> dict[str, Any]:
    """Runs all runs of a sweep, or resumes them.

    Each run has its own folder, `VALUES/seedN`. The shared stages are in the folder `shared`; the
    other runs start from them.

    Args:
        config: plain values of the config.
        workdir: folder of the sweep.
        sweep: seeds and values.

    Returns:
        The content of `sweep.json`: the metrics of every stage, by values and seed.

    Raises:
        UsageError: for everything that the user can fix.
        Stopped: after a request to stop, when the state is saved.
    """
    folder = absolute_path(workdir, "--workdir")
    spec = experiment(config)
    for name in sweep.shared:
        check_choice(name, spec.stages, "--shared")
    for name in sweep.stages or ():
        check_choice(name, set(spec.stages) - set(sweep.shared), "--stages")
    if sweep.baseline is not None:
        check_choice(sweep.baseline, sweep.stages or spec.stages, "--baseline")
    if not (folder / "sweep.json").exists():
        output_folder(folder, "--workdir")
    # All configs are checked before anything is trained.
    runs = [
        (variant, seed, _variant(config, variant, seed, sweep.shared, folder / SHARED))
        for variant in sweep.variants()
        for seed in sweep.seeds
    ]
    if sweep.shared:
        first = {**copy.deepcopy(dict(config)), "seed": sweep.seeds[0]}
        Run(_only(first, sweep.shared), folder / SHARED).run()
    results: list[dict[str, Any]] = []
    for number, (variant, seed, values) in enumerate(runs, start=1):
        words = ", ".join([*(f"{key} = {value}" for key, value in variant.items()), f"seed {seed}"])
        print(f"run {number} of {len(runs)}: {words}", file=sys.stderr, flush=True)
        run = Run(values, folder / _name(variant) / f"seed{seed}", stages=sweep.stages)
        summary = run.run()
        results.append({"values": variant, "seed": seed, "stages": summary["stages"]})
    found = {
        "seeds": list(sweep.seeds),
        "baseline": sweep.baseline,
        "metrics": list(sweep.metrics),
        "runs": results,
    }
    for name, text in (("sweep.json", json.dumps(found, indent=2)), ("sweep.md", table(found))):
        if not _has(folder / name, f"{text}\n"):
            write_file(folder / name, f"{text}\n", make_folder=True)
    return found


def _has(path: epath.Path, text: str) -> bool:
    """Returns whether a file, whose folder may be read-only, has a content already."""
    try:
        return read_regular(path) == text
    except (OSError, ValueError):
        return False


def _variant(
    config: Mapping[str, Any],
    variant: Mapping[str, str],
    seed: int,
    shared: Sequence[str],
    folder: epath.Path,
) -> dict[str, Any]:
    """Returns the config of one run."""
    values = {**copy.deepcopy(dict(config)), "seed": seed}
    values = override(Experiment, values, variant)
    values["stages"] = {n: s for n, s in values["stages"].items() if n not in shared}
    if not values["stages"]:
        raise UsageError(f"--shared={','.join(shared)} names every stage: leave one out.")
    if values.get("pipeline"):
        values["pipeline"] = [name for name in values["pipeline"] if name not in shared]
    for stage in values["stages"].values():
        for network in stage["networks"].values():
            if network.get("init_from") in shared:
                network["init_from"] = str(folder / network["init_from"])
    experiment(values)
    return values


def _only(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Returns a config with some of its stages."""
    config["stages"] = {name: config["stages"][name] for name in names}
    config["pipeline"] = [n for n in config.get("pipeline") or () if n in names]
    return config


def _name(variant: Mapping[str, str]) -> str:
    """Returns the name of the folder of a combination of values."""
    words = (f"{key.rpartition('.')[2]}={text}" for key, text in variant.items())
    return "_".join(words).replace("/", "-") or "."


def table(found: Mapping[str, Any]) -> str:
    """Returns the results as a Markdown table.

    The results are those of the last epoch, in percent: mean and standard deviation over the seeds.
    The gain over the baseline is paired by seed, with its standard error.
    """
    baseline, metrics = found["baseline"], found["metrics"]
    groups: dict[str, dict[str, dict[int, list[float]]]] = {}
    for run in found["runs"]:
        stages = groups.setdefault(_name(run["values"]), {})
        for stage in run["stages"]:
            last = stage["last"]
            values = [last.get(metric, math.nan) for metric in metrics] or [report.result(stage)]
            stages.setdefault(stage["name"], {})[run["seed"]] = values
    rows = []
    for swept, stages in groups.items():
        for name, by_seed in stages.items():
            cells = [] if swept == "." else [swept]
            cells.append(name)
            for column, of_seeds in enumerate(zip(*by_seed.values(), strict=True)):
                cells.append("-" if any(map(math.isnan, of_seeds)) else mean_and_std(of_seeds))
                if baseline is not None:
                    base = stages.get(baseline, {})
                    gains = [by_seed[seed][column] - base[seed][column] for seed in base]
                    compared = gains and name != baseline and not any(map(math.isnan, gains))
                    cells.append(mean_and_error(gains) if compared else "-")
            rows.append(cells)
    first = () if "." in groups else ("values",)
    ends = [stage for run in found["runs"] for stage in run["stages"]]
    columns = [*first, "stage"]
    for metric in metrics or [report.heading(ends)]:
        columns += [metric] if baseline is None else [metric, f"gain over {baseline}"]
    seeds = ", ".join(map(str, found["seeds"]))
    paired = "" if baseline is None else "; gain paired by seed ± standard error"
    where = "" if metrics else report.meaning(ends)
    return (
        f"{markdown(columns, rows, left=len(first) + 1)}\n\n"
        f"Percent after the last epoch{where}, seeds {seeds}: mean ± standard"
        f" deviation{paired}."
    )


def mean_and_std(values: Sequence[float]) -> str:
    """Returns mean and standard deviation (of a sample) of fractions, in percent."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def mean_and_error(values: Sequence[float]) -> str:
    """Returns mean and standard error of differences of fractions, in percentage points."""
    mean = f"{100 * statistics.mean(values):+.2f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {100 * statistics.stdev(values) / math.sqrt(len(values)):.2f}"
