r"""HORKD's Table 4 and Fig. 3: retrieval at low resolution, next to all published rows.

    python experiments/horkd_table4.py --workdir=runs/table4 --cub200=CUB_200_2011 \
        --cars196=cars196 --sop=Stanford_Online_Products --resolutions=256,224,160,128,96

Each cell is a stage of the configs `horkd/cub200`, `horkd/cars196` or `horkd/sop` and has a folder
in the workdir. For every seed, the teacher and the assistant are trained once at full size. At
each lower resolution the student learns from the assistant, and for Fig. 3 also directly from the
teacher, by RKD, and alone. PKT, DarkRank and MKD of Table 4 are trained at full size. Sets without
a path are left out. The same command resumes after an interruption.

`--arguments` are further arguments of the configs. For a part of the classes and small images:

    python experiments/horkd_table4.py --workdir=runs/table4 --cars196=cars196 \
        --resolutions=64,48,32,24 --seeds=0,1,2 \
        --arguments=size=64,teacher=resnet18,width=0.5,dtype=float32
"""

import argparse
import collections
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kd_jax.commands import Parser, exit_code
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path
from kd_jax.core.text import markdown
from kd_jax.experiment import tables
from kd_jax.experiment.config_files import load_config

EXAMPLE = "python experiments/horkd_table4.py --workdir=runs/table4 --cars196=cars196"
SETS = {"cars196": "Cars196", "cub200": "CUB-200-2011", "sop": "Stanford Online Products"}
"""Titles of the sets, by option and config."""
METRIC = "retrieval/recall_at_1"


class Row(NamedTuple):
    """One row of Table 4.

    Attributes:
        model: name of the row in the paper.
        paper: Recall@1 in percent by set; None where the paper has none.
        stage: our stage; None if the network is not trained here.
        resolution: height of its images; None for full size.
    """

    model: str
    paper: Mapping[str, float | None]
    stage: str | None = None
    resolution: int | None = None


def _published(cars: float, cub: float, sop: float | None) -> dict[str, float | None]:
    return {"cars196": cars, "cub200": cub, "sop": sop}


ROWS = (
    Row("PKT", _published(46.9, 53.1, None), "student_pkt"),
    Row("DarkRank", _published(74.3, 56.2, None), "student_darkrank"),
    Row("MKD", _published(76.6, 58.0, 68.0), "student_mkd"),
    Row("MKD+AT", _published(76.4, 58.1, None)),
    Row("OUR-256-R (HORKD)", _published(82.23, 57.82, 68.13), "assistant"),
    Row("OUR-224-R (HORKD)", _published(80.03, 57.14, 69.90), "student", 224),
    Row("OUR-160-R (HORKD)", _published(79.04, 57.19, 68.87), "student", 160),
    Row("OUR-128-R (HORKD)", _published(77.85, 55.37, 67.66), "student", 128),
    Row("OUR-96-R (HORKD)", _published(73.41, 53.53, 66.42), "student", 96),
    Row("Student (ResNet-18)", _published(46.70, 51.70, 61.70), "student_alone"),
    Row("Teacher (ResNet-50)", _published(75.91, 58.96, 72.62), "teacher"),
    Row("ResNet-101", _published(74.80, 58.90, 69.50)),
)
"""All rows of Ge et al., AAAI 2020, Table 4."""
CURVES = {
    "student_alone": "alone",
    "student_rkd": "RKD",
    "student_direct": "HORKD without assistant",
    "student": "HORKD through the assistant",
}
"""The lines of Fig. 3, by stage. At full size, HORKD is the assistant."""
Results = dict[tuple[str, int], dict[int, float]]
"""Recall@1 by stage and resolution, then by seed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = _parser()
    args = parser.parse(argv)
    parser.require(args, "workdir")
    chosen = [name for name in SETS if getattr(args, name)]
    if not chosen:
        raise UsageError(f"No images are given: set one of --{', --'.join(SETS)} to a folder.")
    try:
        resolutions = sorted({int(text) for text in args.resolutions.split(",")}, reverse=True)
    except ValueError:
        raise UsageError(
            f"--resolutions={args.resolutions} must be heights, such as 64,32."
        ) from None
    seeds = tables.seeds(args.seeds)
    results: dict[str, Results] = {name: collections.defaultdict(dict) for name in chosen}
    devices: set[str] = set()
    for name in chosen:
        for seed in seeds:
            for stage, resolution, found in _trained(name, seed, resolutions, args):
                results[name][stage, resolution][seed] = found.metrics[METRIC]
                devices.add(found.device)
                tables.write(text(results, args, devices), args.workdir)  # for an interrupted run
        plot(results[name], SETS[name], absolute_path(args.workdir) / f"fig3_{name}.png")
    print(text(results, args, devices))


def _parser() -> Parser:
    parser = Parser(__doc__ or "", EXAMPLE)
    add = parser.add_argument
    add("--workdir", help="folder of the runs, of table.md and of the figures")
    for name, title in SETS.items():
        add(f"--{name}", help=f"folder of {title}")
    add("--resolutions", default="256,224,160,128,96", help="heights (default: %(default)s)")
    add("--seeds", default="0,1,2", help="seeds (default: %(default)s)")
    add("--arguments", default="", help="further arguments of the configs, such as size=64")
    add("--smoke", action="store_true", help="run as short as possible")
    return parser


def _config(name: str, resolution: int, args: argparse.Namespace) -> Any:
    """Returns the config of a set with all stages."""
    words = [f"path={getattr(args, name)}", args.arguments, f"resolution={resolution}"]
    words += ["baselines=true", "others=true", *(["smoke"] if args.smoke else [])]
    return load_config(f"horkd/{name}:{','.join(filter(None, words))}")


def _size(config: Any) -> int:
    """Returns the full size: the height of the images that the teacher sees."""
    size: int = config.stages.teacher.networks.student.resolution
    return size


def _trained(name: str, seed: int, resolutions: Sequence[int], args: argparse.Namespace) -> Any:
    """Trains the stages of a set with one seed; yields stage, resolution and result of each."""
    folder = absolute_path(args.workdir) / name / f"seed{seed}"
    configs = {height: _config(name, height, args) for height in resolutions}
    size = _size(configs[resolutions[0]])
    configs[size] = _config(name, size, args)

    def train(stage: str, resolution: int, teacher: Any = None) -> tables.Result:
        values = tables.one_stage(configs[resolution], stage, teacher=teacher)
        return tables.run({**values, "seed": seed}, folder / f"{stage}_{resolution}")

    teacher = train("teacher", size)
    yield "teacher", size, teacher
    assistant = train("assistant", size, teacher.folder)
    yield "assistant", size, assistant
    for row in ROWS:
        if row.stage not in (None, "teacher", "assistant", "student", "student_alone"):
            yield row.stage, size, train(row.stage, size, teacher.folder)
    for resolution in dict.fromkeys((size, *resolutions)):
        teachers = {"student_alone": None, "student_rkd": teacher.folder}
        if resolution != size:
            teachers |= {"student_direct": teacher.folder, "student": assistant.folder}
        for stage, source in teachers.items():
            yield stage, resolution, train(stage, resolution, source)


def text(results: Mapping[str, Results], args: argparse.Namespace, devices: set[str]) -> str:
    """Returns Table 4 and the numbers of Fig. 3 as Markdown.

    Args:
        results: results by set.
        args: options of the command line.
        devices: devices of the runs.
    """
    columns = ("model", *(f"{SETS[name]}, {who}" for name in results for who in ("paper", "ours")))
    rows = [_table_row(row, results) for row in ROWS]
    parts = ["## Table 4: Recall@1 in percent", markdown(columns, rows)]
    for name, found in results.items():
        parts += [f"## Fig. 3: {SETS[name]}, Recall@1 in percent", _curves(found)]
    parts.append(
        "Mean ± standard deviation over the seeds; gains with their standard error, paired by seed."
        " The text of the paper calls the results on CUB better than the best of the others; MKD"
        " and MKD+AT are above OUR-256-R in its table. The paper claims that the assistant gains"
        " 3.03 points, and names neither set nor resolution."
    )
    parts.append(f"Arguments: {args.arguments or 'none'}; {', '.join(sorted(devices))}.")
    return "\n\n".join(parts)


def _table_row(row: Row, results: Mapping[str, Results]) -> list[str]:
    """Returns a row of Table 4; a dash is a number that has not been measured."""
    cells = [row.model]
    for name, found in results.items():
        heights = [height for stage, height in found if stage == row.stage]
        height = row.resolution or max(heights, default=0)
        ours = found.get((row.stage or "", height), {})
        paper = row.paper[name]
        cells.append("-" if paper is None else f"{paper:.2f}")
        cells.append(tables.mean_and_std(list(ours.values())) if ours else "-")
    return cells


def _curves(found: Results) -> str:
    """Returns the numbers of Fig. 3, and the gains of HORKD and of its assistant."""
    rows = []
    for resolution in sorted({resolution for _, resolution in found}, reverse=True):
        by_stage = {stage: found.get((stage, resolution), {}) for stage in CURVES}
        if not by_stage["student"]:
            by_stage["student"] = found.get(("assistant", resolution), {})
        cells = [tables.mean_and_std(list(x.values())) if x else "-" for x in by_stage.values()]
        gains = [
            _gain(by_stage["student"], by_stage[other])
            for other in ("student_alone", "student_direct")
        ]
        rows.append([str(resolution), *cells, *gains])
    columns = ("height", *CURVES.values(), "gain over alone", "gain by the assistant")
    return markdown(columns, rows, left=1)


def _gain(values: Mapping[int, float], baseline: Mapping[int, float]) -> str:
    """Returns the paired gain over the seeds that both have."""
    common = sorted(values.keys() & baseline.keys())
    if not common:
        return "-"
    return tables.gain([values[s] for s in common], [baseline[s] for s in common])


def plot(found: Results, title: str, path: Any) -> None:
    """Draws Recall@1 over the resolution, with the standard deviation of the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for stage, label in CURVES.items():
        points = {r: list(x.values()) for (s, r), x in found.items() if s == stage and x}
        if stage == "student":
            points |= {r: list(x.values()) for (s, r), x in found.items() if s == "assistant"}
        if points:
            heights = sorted(points)
            means = [100 * statistics.fmean(points[r]) for r in heights]
            errors = [100 * statistics.pstdev(points[r]) for r in heights]
            axes.errorbar(heights, means, errors, marker="o", capsize=3, label=label)
    axes.set(title=title, xlabel="height of the student's images [pixels]", ylabel="Recall@1 [%]")
    axes.legend()
    figure.savefig(str(path), dpi=150)


if __name__ == "__main__":
    sys.exit(main())
