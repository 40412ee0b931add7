r"""EKD's tables and figures (Zhang et al., IEEE TCSVT 2021), next to the paper's numbers.

    python experiments/ekd_tables.py --workdir=runs/ekd --tables=5 --seeds=5,6,7

| `--tables` | content |
|---|---|
| `1`, `2`, `3` | CIFAR-100: peer architectures, cross architectures, the same architecture twice |
| `4` | Tiny-ImageNet, `--path=tiny-imagenet-200` or `--path=tiny_imagenet_{split}.npz` |
| `5` | with and without evolving teacher (ET) and guided modules of teacher (T_G), student (S_G) |
| `fig3` | the students of Fig. 3, Tiny-ImageNet; `experiments/tsne.py` draws them |
| `fig4` | number of guided modules, VGG-11 |
| `fig5` | terms of the loss, CIFAR-10, VGG-19 -> VGG-11 |
| `fig6` | CIFAR-100 at 16x16 |
| `fig7` | 25, 50, 75 and 100 % of the training images |

Each cell is a stage of `configs/ekd/` and has one folder per seed, `seed_5/CELL` in the workdir. A
cell that several tables share is trained once, and so is a fixed teacher. The tables compare EKD
with the student alone and with KD. The same command resumes after an interruption, and more tables
and seeds may be added later. The numbers of the figures are printed where the paper's text gives
them. `python -m experiments.benchmarks.method_cost` compares the cost of EKD and KD.

A row of Table V with T_G but without ET has a teacher that was trained before, without modules. Its
modules are trained here, on the frozen network.

The paper's recipe needs an accelerator. On a CPU, thin networks and few epochs show that everything
runs: `--smoke --dtype=float32`.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.commands import Parser, exit_code
from kd_jax.core.files import absolute_path
from kd_jax.core.text import markdown
from kd_jax.experiment import tables
from kd_jax.experiment.config_files import load_config

NUMBERS = ("accuracy [%]", "teacher [%]", "paper [%]", "difference", "images/s", "s/epoch")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        teacher: network of the teacher.
        student: network of the student.
        stage: stage of the config: `ekd`, `kd` or `student_alone`.
        arguments: arguments of the config.
        method: options of the method that differ from the config's.
        config: name of the config in `configs/ekd/`.
    """

    teacher: str
    student: str
    stage: str = "ekd"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: str = "cifar100"

    @property
    def name(self) -> str:
        """Returns the name of the folder; equal runs of two tables have the same name."""
        alone = self.stage == "student_alone"
        networks = [self.student] if alone else [self.teacher, self.student]
        options = {**self.arguments, **self.method}
        parts = [f"{key}_{value}" for key, value in sorted(options.items())]
        return "-".join([self.config, self.stage.split("_")[-1], *networks, *parts])

    @property
    def fixed_teacher(self) -> "Cell | None":
        """Returns the cell that trains the teacher of this cell before it."""
        if self.stage != "kd" and not (self.stage == "ekd" and self.arguments.get("fixed")):
            return None
        kept = {key: self.arguments[key] for key in ("resolution",) if key in self.arguments}
        return Cell(self.teacher, self.teacher, "student_alone", kept, config=self.config)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: name of the row.
        paper: the paper's accuracy in percent; None if it gives none.
        cell: the run.
    """

    label: str
    paper: float | None
    cell: Cell


def _pairs(*rows: tuple[str, str, *tuple[float | None, ...]], **options: Any) -> list[Row]:
    """Returns the rows student alone, KD and EKD of each pair of networks."""
    found = []
    for teacher, student, *papers in rows:
        names = (("alone", "student_alone"), ("KD", "kd"), ("EKD", "ekd"))
        for (label, stage), paper in zip(names, papers, strict=True):
            cell = Cell(teacher, student, stage, **options)
            found.append(Row(f"{teacher} -> {student}, {label}", paper, cell))
    return found


def _ablation(label: str, paper: float | None, evolving: bool, teacher: int, student: int) -> Row:
    """Returns a row of Table V; -1 modules are all, the default of the config as in Table I."""
    arguments: dict[str, Any] = {} if evolving else {"fixed": True}
    for name, count in (("teacher_modules", teacher), ("student_modules", student)):
        if count >= 0:
            arguments[name] = count
    return Row(label, paper, Cell("resnet50", "resnet18", "ekd", arguments))


def _modules(count: int) -> Row:
    """Returns a row of Fig. 4; four modules are all, as in Table I."""
    names = ("teacher_modules", "student_modules")
    cell = Cell("vgg11", "vgg11", "ekd", dict.fromkeys(names, count) if count < 4 else {})
    return Row(f"{count} guided modules", 74.52 if count == 4 else None, cell)


def _terms(label: str, *without: str) -> Row:
    """Returns a row of Fig. 5 with some weights of 0."""
    method = {f"{name}_weight": 0.0 for name in without}
    return Row(label, None, Cell("vgg19", "vgg11", "ekd", method=method, config="cifar10"))


def _fractions(fraction: float) -> list[Row]:
    """Returns the rows of Fig. 7 for one fraction of the training images."""
    arguments = {"fraction": fraction} if fraction < 1 else {}
    return [
        Row(
            f"{100 * fraction:g} % of the images, {label}",
            None,
            Cell("resnet50", "resnet18", stage, arguments),
        )
        for label, stage in (("alone", "student_alone"), ("KD", "kd"), ("EKD", "ekd"))
    ]


TABLES: dict[str, list[Row]] = {
    "1": _pairs(
        ("vgg19", "vgg11", 70.76, 73.28, 74.12),
        ("vgg11", "vgg11", 70.76, 72.12, 74.52),
        ("resnet50", "resnet18", 76.61, 77.57, 82.05),
        ("resnet18", "resnet18", 76.61, 78.97, 80.74),
        ("resnet101", "resnet50", 78.71, 79.16, 81.91),
        ("resnet50", "resnet50", 78.71, 79.54, 82.48),
        ("wrn_50_2", "wrn_50_2", 80.24, 80.41, 82.53),
    ),
    "2": _pairs(
        ("resnet18", "vgg8", 69.21, 71.17, 73.82),
        ("vgg11", "shufflenet_v1", 66.18, 72.40, 73.18),
        ("resnet18", "shufflenet_v2", 70.48, 75.03, 75.26),
        ("wrn_50_2", "shufflenet_v1", 66.18, 71.78, 73.61),
        ("wrn_50_2", "vgg8", 69.21, 70.31, 74.05),
    ),
    "3": _pairs(
        ("vgg16", "vgg16", 73.81, None, 76.86), ("resnet110", "resnet110", 75.88, None, 79.28)
    ),
    "4": _pairs(("resnet34", "resnet18", 65.30, 68.18, 69.46), config="tiny_imagenet"),
    "5": [
        Row("KD", 77.57, Cell("resnet50", "resnet18", "kd")),
        _ablation("KD, weights of EKD", None, False, 0, 0),
        _ablation("KD + ET", 79.71, True, 0, 0),
        _ablation("KD + S_G", 78.85, False, 0, -1),
        _ablation("KD + S_G + ET", 81.34, True, 0, -1),
        _ablation("KD + T_G + S_G", 80.01, False, -1, -1),
        _ablation("KD + T_G + S_G + ET (EKD)", 82.05, True, -1, -1),
    ],
    "fig3": _pairs(("resnet50", "resnet18", None, None, None), config="tiny_imagenet"),
    "fig4": [_modules(count) for count in range(5)],
    "fig5": [
        _terms("L_L", "soft", "feature", "cross", "cross_feature"),
        _terms("L_L + L_D + L_F", "cross", "cross_feature"),
        _terms("L_L + L_G", "soft", "feature"),
        _terms("L_L + L_D + L_G", "feature"),
        _terms("L_L + L_F + L_G", "soft"),
        _terms("L_L + L_D + L_F + L_G"),
    ],
    "fig6": _pairs(
        # The paper's text: 1.31 above HORKD's 74.65.
        ("resnet50", "resnet18", None, None, 75.96),
        arguments={"resolution": 16},
    ),
    "fig7": [row for fraction in (0.25, 0.5, 0.75, 1.0) for row in _fractions(fraction)],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "", "python experiments/ekd_tables.py --workdir=runs/ekd")
    parser.add_argument("--workdir", help="folder of the runs and of table.md")
    parser.add_argument("--tables", default="5", help=f"of {','.join(TABLES)} (default: 5)")
    parser.add_argument("--rows", help="only rows whose label contains this text, such as EKD")
    parser.add_argument("--data_dir", help="TFDS folder of CIFAR (default: TFDS' default)")
    parser.add_argument("--path", help="folder of Tiny-ImageNet, or .npz path with {split}")
    tables.add_recipe(parser)
    parser.add_argument("--train_split", help="such as train[:20%%] (default: train)")
    parser.add_argument("--seeds", default="5", help="seeds (default: 5)")
    args = parser.parse(argv)
    parser.require(args, "workdir")
    wanted = tables.names(args.tables, TABLES, "--tables")
    results: dict[str, dict[int, tables.Result]] = {}

    def train(cell: Cell, seed: int) -> tables.Result:
        found = results.setdefault(cell.name, {})
        if seed not in found:
            before = cell.fixed_teacher
            teacher = train(before, seed).folder if before else None
            values = tables.one_stage(_config(cell, seed, args), cell.stage, teacher=teacher)
            folder = absolute_path(args.workdir) / f"seed_{seed}" / cell.name
            found[seed] = tables.run(values, folder)
            tables.write(text(wanted, results, args), args.workdir)  # for an interrupted run
        return found[seed]

    for seed in tables.seeds(args.seeds):
        for row in (row for name in wanted for row in TABLES[name]):
            if not args.rows or args.rows in row.label:
                train(row.cell, seed)
    print(text(wanted, results, args))


def _config(cell: Cell, seed: int, args: argparse.Namespace) -> Any:
    arguments = {"teacher": cell.teacher, "student": cell.student, "baselines": True}
    arguments |= cell.arguments
    if cell.config == "tiny_imagenet" and (args.path or "").endswith(".npz"):
        arguments["npz"] = args.path
    words = [*(f"{key}={value}" for key, value in arguments.items()), *tables.recipe(args)]
    config = load_config(f"ekd/{cell.config}:{','.join(words)}")
    config.experiment, config.seed = cell.name, seed
    if config.data.source.name == "tfds":
        config.data.source.data_dir = args.data_dir
    elif args.path:
        config.data.source.path = args.path
    if args.train_split:
        config.data.train_split = args.train_split
    if cell.method:
        config.stages[cell.stage].method.update(cell.method)
    return config


def text(
    wanted: Sequence[str],
    results: Mapping[str, Mapping[int, tables.Result]],
    args: argparse.Namespace,
) -> str:
    """Returns the tables as Markdown, with their recipe and devices.

    Args:
        wanted: names of the tables.
        results: results by cell and seed.
        args: options of the command line.
    """
    parts = []
    for name in wanted:
        rows = [_cells(row, list(results.get(row.cell.name, {}).values())) for row in TABLES[name]]
        title = f"Table {name}" if name.isdigit() else f"Fig. {name.removeprefix('fig')}"
        parts.append(f"## {title}\n\n{markdown(('run', 'n', *NUMBERS), rows)}")
    devices = {found.device for seeds in results.values() for found in seeds.values()}
    recipe = ", ".join(tables.recipe(args)) or "that of the config"
    note = (
        "Top-1 on the test images after the last epoch, mean ± standard deviation over n of the"
        f" seeds {args.seeds}; `teacher` is the evolving teacher. s/epoch includes compilation and"
        f" evaluations; images/s is training alone. {', '.join(sorted(devices))}; recipe: {recipe}."
    )
    return "\n\n".join([*parts, note])


def _cells(row: Row, found: Sequence[tables.Result]) -> list[str]:
    """Returns a row of a table; a dash is a number that has not been measured."""
    paper = "-" if row.paper is None else f"{row.paper:.2f}"
    if not found:
        return [row.label, "-", "-", "-", paper, "-", "-", "-"]
    accuracies = [each.accuracy for each in found]
    teachers = [x.metrics["accuracy/teacher"] for x in found if "accuracy/teacher" in x.metrics]
    difference = "-"
    if row.paper is not None:
        difference = f"{100 * statistics.mean(accuracies) - row.paper:+.2f}"
    return [
        row.label,
        str(len(found)),
        tables.mean_and_std(accuracies),
        tables.mean_and_std(teachers) if len(teachers) == len(found) else "-",
        paper,
        difference,
        f"{statistics.mean(each.metrics['images_per_second'] for each in found):,.0f}",
        f"{statistics.mean(each.seconds / each.metrics['epoch'] for each in found):.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
