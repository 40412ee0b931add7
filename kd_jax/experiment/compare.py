"""Compares finished runs: their results with the noise, their curves, and their configs."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from kd_jax.core.errors import UsageError, check_choice, reason
from kd_jax.core.files import PathLike, absolute_path, read_json
from kd_jax.core.text import markdown
from kd_jax.experiment import noise
from kd_jax.experiment.run import fixed
from kd_jax.experiment.stored import check_stage, num_images, result, result_name, seen_size

_DEPTH = 3
"""Depth below a folder in which runs are searched."""
_EMPTY = {"-", "None", "{}", "[]"}
"""Values that say no more than a key that is absent."""
Stage = Mapping[str, Any]
"""Content of `stage.json`."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        name: shortest end of the path that no other run has.
        folder: folder of the run.
        seed: seed of the run.
        config: its whole config.
        stages: results by the name of the stage.
    """

    name: str
    folder: epath.Path
    seed: int
    config: Mapping[str, Any]
    stages: Mapping[str, Stage]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config with several seeds, or one run.

    Attributes:
        name: name of the group.
        runs: the runs by seed.
    """

    name: str
    runs: Mapping[int, FinishedRun]

    @property
    def first(self) -> FinishedRun:
        """Returns the run with the smallest seed."""
        return self.runs[min(self.runs)]

    def stages(self, name: str) -> dict[int, Stage]:
        """Returns the results of a stage by seed."""
        return {seed: r.stages[name] for seed, r in self.runs.items() if name in r.stages}


# -------------------------------------------------------------------------------------- reading


def read_runs(paths: Sequence[PathLike], metric: str | None = None) -> list[FinishedRun]:
    """Reads finished runs.

    Args:
        paths: folders of runs, or folders that contain folders of runs, such as that of a sweep.
        metric: metric to compare; None takes the result of each stage.

    Raises:
        UsageError: if a folder has no finished run, a file is damaged, or no stage has the metric.
    """
    folders = list(dict.fromkeys(folder for path in paths for folder in _folders(path)))
    names = _names(folders)
    runs = [_read(names[folder], folder) for folder in folders]
    if metric is None:
        return runs
    known = {key for run in runs for stage in run.stages.values() for key in stage["last"]}
    check_choice(metric, known - {"step", "epoch"}, "--metric")
    return [
        dataclasses.replace(
            run,
            stages={
                name: {**stage, "result": metric}
                for name, stage in run.stages.items()
                if metric in stage["last"] and metric in stage["best"]
            },
        )
        for run in runs
    ]


def _folders(path: PathLike) -> list[epath.Path]:
    """Returns the folder of a run, or those of the runs below a folder."""
    folder = absolute_path(path, "RUN")
    level, found = [folder], []
    for _ in range(_DEPTH + 1):
        found += [place for place in level if (place / "results.json").exists()]
        open_ = (place for place in level if place not in found and place.is_dir())
        level = sorted((p for place in open_ for p in place.iterdir() if p.is_dir()), key=str)
    if not found:
        raise UsageError(
            f"{folder} has no results.json: name the folder of a run that has ended, or a folder of"
            " such folders."
        )
    return found


def _names(folders: Sequence[epath.Path]) -> dict[epath.Path, str]:
    """Returns, for each folder, the shortest end of its path that no other one has."""
    for parts in range(1, 1 + max(len(folder.parts) for folder in folders)):
        names = {folder: "/".join(folder.parts[-parts:]) for folder in folders}
        if len(set(names.values())) == len(folders):
            break
    return names


def _read(name: str, folder: epath.Path) -> FinishedRun:
    path = folder / "results.json"
    try:
        values = read_json(path)
        config, seed, stages = values.get("config"), values.get("seed"), values.get("stages")
        if not isinstance(config, dict) or type(seed) is not int or not isinstance(stages, list):
            raise ValueError("config, seed or stages is missing")
        for stage in stages:
            if not isinstance(stage, dict) or not isinstance(stage.get("name"), str):
                raise ValueError("a stage has no name")
            check_stage(stage)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is damaged ({reason(error)}): restore it, or run the same training command"
            " again, which writes it again."
        ) from error
    return FinishedRun(name, folder, seed, config, {stage["name"]: stage for stage in stages})


def grouped(runs: Sequence[FinishedRun]) -> list[Group]:
    """Returns the runs in groups: those whose configs differ by the seed only are one group."""
    groups: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        key = json.dumps({**fixed(dict(run.config)), "seed": None}, sort_keys=True)
        if run.seed in groups.setdefault(key, {}):
            key = f"{key} {run.folder}"  # the same seed twice: a group of its own
        groups.setdefault(key, {})[run.seed] = run
    found = []
    for by_seed in groups.values():
        names = [run.name for run in by_seed.values()]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        found.append(Group(names[0] + more, dict(sorted(by_seed.items()))))
    return found


def with_stages(runs: Sequence[FinishedRun], names: Sequence[str]) -> list[FinishedRun]:
    """Returns the runs with some of their stages only; a run without any is left out."""
    found = (
        dataclasses.replace(r, stages={n: s for n, s in r.stages.items() if n in names})
        for r in runs
    )
    return [run for run in found if run.stages]


def group_of(groups: Sequence[Group], name: str) -> Group:
    """Returns the group of a run by the name of the run.

    Raises:
        UsageError: if no run has this name.
    """
    known = {run.name: group for group in groups for run in group.runs.values()}
    return known[check_choice(name.rstrip("/"), known, "--baseline")]


def stage_names(groups: Sequence[Group]) -> list[str]:
    """Returns the names of all stages, in the order of the runs."""
    runs = (run for group in groups for run in group.runs.values())
    return list(dict.fromkeys(name for run in runs for name in run.stages))


# -------------------------------------------------------------------------------------- results


def difference(group: Group, base: Group, stage: str) -> noise.Difference | None:
    """Returns the result of a stage in one group minus that in another one.

    With two seeds or more in common, the difference is paired by seed. With one in common, or one
    run each, the noise is that of the images.

    Returns:
        The difference, or None if there is nothing to compare.
    """
    ours, theirs = group.stages(stage), base.stages(stage)
    if not ours or not theirs or len({*map(result_name, (*ours.values(), *theirs.values()))}) > 1:
        return None
    common = sorted(set(ours) & set(theirs))
    if len(common) > 1:
        values = [result(ours[seed]) for seed in common]
        return noise.of_seeds(values, [result(theirs[seed]) for seed in common])
    first, second = (s[common[0] if common else min(s)] for s in (ours, theirs))
    if not common and len(ours) + len(theirs) > 2:
        return None
    return noise.of_stages(first, second)


COLUMNS = ("stage", "run", "seeds", "network", "sees", "epochs", "result", "best")


def rows(groups: Sequence[Group], base: Group) -> list[tuple[str, ...]]:
    """Returns the table of all stages of all groups; the last cell is the difference from `base`.

    Results are in percent: of several seeds, mean and standard deviation; of one, with the margin
    of 95 % of the images where their number is known.
    """
    found: list[tuple[str, ...]] = []
    for name in stage_names(groups):
        for group in groups:
            if not (stages := group.stages(name)):
                continue
            first = stages[min(stages)]
            gap = None if group is base else difference(group, base, name)
            none = "" if group is base or name not in stage_names([base]) else "noise not known"
            found.append(
                (
                    name,
                    group.name,
                    ",".join(map(str, stages)),
                    first["network"],
                    seen_size(first),
                    f"{first['last']['epoch']:g}",
                    _percent([*stages.values()], "last"),
                    _percent([*stages.values()], "best"),
                    none if gap is None else str(gap),
                )
            )
    return found


def _percent(stages: Sequence[Stage], checkpoint: str) -> str:
    """Returns the results of the seeds of a stage in percent."""
    values = [result(stage, checkpoint) for stage in stages]
    mean = 100 * statistics.mean(values)
    if len(values) > 1:
        return f"{mean:.2f} ± {100 * statistics.stdev(values):.2f}"
    number = num_images(stages[0])
    if number is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {100 * noise.margin(values[0], number):.2f}"


def text(groups: Sequence[Group], base: Group) -> str:
    """Returns the comparison in Markdown: the table, its explanation, and the configs."""
    columns = (*COLUMNS, f"difference from {base.name}")
    parts = [markdown(columns, rows(groups, base), left=4), explanation()]
    for group in groups:
        if lines := [] if group is base else [*config_changes(base, group)]:
            parts.append(f"Config of {group.name}:")
            parts.append(markdown(("key", base.name, group.name), lines, left=3))
    return "\n\n".join(parts)


def explanation() -> str:
    """Returns the sentences on the numbers of the table."""
    return (
        "Results are in percent after the last epoch: mean ± standard deviation of several seeds,"
        " or ± half of an interval of 95 % from the test images of one run. Differences are in"
        " percentage points ± half of an interval of 95 %: paired by seed (Student's t) where two"
        " seeds or more are in common, else from the binomial standard error of the images, which"
        " leaves the noise of the seeds out."
    )


def config_changes(base: Group, group: Group) -> Iterator[tuple[str, str, str]]:
    """Yields the keys that differ between the configs of two groups, with both values.

    A key that one config does not have and that is empty in the other one is left out.
    """
    ours, theirs = ({**fixed(dict(g.first.config)), "seed": None} for g in (base, group))
    before, now = dict(_flat(ours)), dict(_flat(theirs))
    for key in dict.fromkeys((*before, *now)):
        pair = before.get(key, "-"), now.get(key, "-")
        if pair[0] != pair[1] and not set(pair) <= _EMPTY:
            yield key, *pair


def _flat(values: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, str]]:
    """Yields the values below nested dictionaries as text, by config key."""
    for name, value in values.items():
        whole = f"{key}.{name}" if key else name
        if isinstance(value, Mapping) and value:
            yield from _flat(value, whole)
        else:
            yield whole, value if isinstance(value, str) else repr(value)
