r"""EKD's tables and figures (Ge et al., IEEE TCSVT 2021), beside the paper's numbers.

    python experiments/ekd_tables.py --workdir=runs/ekd --tables=5 --seeds=5,6,7

| `--tables` | what |
|---|---|
| `1`, `2`, `3` | CIFAR-100: peer architectures, cross architectures, one architecture twice |
| `4` | Tiny-ImageNet, `--path=tiny-imagenet-200` or `--path=tiny_imagenet_{split}.npz` |
| `5` | with and without evolving teacher (ET) and guided modules of teacher (T_G), student (S_G) |
| `fig3` | the students of Fig. 3, Tiny-ImageNet; `experiments/tsne.py` draws them |
| `fig4` | number of guided modules, VGG-11 |
| `fig5` | terms of the loss, CIFAR-10, VGG-19 -> VGG-11 |
| `fig6` | CIFAR-100 at 16x16 |
| `fig7` | 25, 50, 75 and 100 % of the training images |

Every cell is a stage of `configs/ekd/`, with a folder of its own for each seed: `seed_5/CELL` in
the workdir. A cell that several tables share is trained once, and so is a fixed teacher. Beside the
paper's EKD stand the student alone and KD. The same command goes on where a killed one stood, and
more tables and seeds may be added later. The figures' numbers are printed where the paper's text
has them. What EKD costs beside KD's two stages: `experiments/benchmarks/schemes.py`.

A row of Table V with T_G but without ET has a teacher that was trained beforehand, without modules;
its modules are trained here, on the frozen network.

The paper's recipe is work for an accelerator. On a CPU, thin networks and few epochs show that all
of it runs: `--smoke --dtype=float32`.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tables

from kd_jax import cli, report
from kd_jax.files import folder

COLUMNS = (
    "run",
    "n",
    "accuracy [%]",
    "teacher [%]",
    "paper [%]",
    "difference",
    "images/s",
    "s/epoch",
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        teacher: network.
        student: network.
        stage: of the config: `ekd`, `kd` or `student_alone`.
        arguments: of the config.
        method: values of the method that differ from the config's.
        config: file in `configs/ekd/`.
    """

    teacher: str
    student: str
    stage: str = "ekd"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: str = "cifar100"

    @property
    def name(self) -> str:
        """Its folder: what is the same in two tables is one cell."""
        alone = self.stage == "student_alone"
        networks = [self.student] if alone else [self.teacher, self.student]
        options = {**self.arguments, **self.method}
        parts = [f"{key}_{value}" for key, value in sorted(options.items())]
        return "-".join([self.config, self.stage.split("_")[-1], *networks, *parts])

    @property
    def fixed_teacher(self) -> "Cell | None":
        """The cell that trains its teacher beforehand."""
        if self.stage != "kd" and not (self.stage == "ekd" and self.arguments.get("fixed")):
            return None
        kept = {key: self.arguments[key] for key in ("resolution",) if key in self.arguments}
        return Cell(self.teacher, self.teacher, "student_alone", kept, config=self.config)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: what it is called there, the paper's per cent, and the run."""

    label: str
    paper: float | None
    cell: Cell


def _pairs(*rows: tuple[str, str, *tuple[float | None, ...]], **options) -> list[Row]:
    """Student alone, KD and EKD of each pair of networks."""
    found = []
    for teacher, student, alone, kd, ekd in rows:
        for label, stage, paper in (
            ("alone", "student_alone", alone),
            ("KD", "kd", kd),
            ("EKD", "ekd", ekd),
        ):
            cell = Cell(teacher, student, stage, **options)
            found.append(Row(f"{teacher} -> {student}, {label}", paper, cell))
    return found


def _ablation(label: str, paper: float | None, evolving: bool, teacher: int, student: int) -> Row:
    """A row of Table V; -1 modules are all, which is the config's own, as in Table I."""
    arguments = {} if evolving else {"fixed": True}
    for name, count in (("teacher_modules", teacher), ("student_modules", student)):
        if count >= 0:
            arguments[name] = count
    return Row(label, paper, Cell("resnet50", "resnet18", "ekd", arguments))


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
    "fig4": [
        Row(
            f"{count} guided modules",
            74.52 if count == 4 else None,
            Cell(
                "vgg11",
                "vgg11",
                "ekd",
                {"teacher_modules": count, "student_modules": count} if count < 4 else {},
            ),
        )
        for count in range(5)
    ],
    "fig5": [
        Row(label, None, Cell("vgg19", "vgg11", "ekd", method=dict(without), config="cifar10"))
        for label, without in {
            "L_L": {
                "soft_weight": 0.0,
                "feature_weight": 0.0,
                "cross_weight": 0.0,
                "cross_feature_weight": 0.0,
            },
            "L_L + L_D + L_F": {"cross_weight": 0.0, "cross_feature_weight": 0.0},
            "L_L + L_G": {"soft_weight": 0.0, "feature_weight": 0.0},
            "L_L + L_D + L_G": {"feature_weight": 0.0},
            "L_L + L_F + L_G": {"soft_weight": 0.0},
            "L_L + L_D + L_F + L_G": {},
        }.items()
    ],
    "fig6": _pairs(
        # the text: 1.31 above HORKD's 74.65
        ("resnet50", "resnet18", None, None, 75.96),
        arguments={"resolution": 16},
    ),
    "fig7": [
        Row(f"{100 * share:g} % of the images, {label}", None, cell)
        for share in (0.25, 0.5, 0.75, 1.0)
        for label, cell in (
            (label, Cell("resnet50", "resnet18", stage, {"fraction": share} if share < 1 else {}))
            for label, stage in (("alone", "student_alone"), ("KD", "kd"), ("EKD", "ekd"))
        )
    ],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = tables.Parser(__doc__)
    parser.add_argument("--tables", default="5", help=f"of {','.join(TABLES)} (default: 5)")
    parser.add_argument("--rows", help="only rows whose label holds this text, such as EKD")
    parser.add_argument("--data_dir", help="where TFDS keeps CIFAR (default: its own place)")
    parser.add_argument("--path", help="of Tiny-ImageNet: its folder, or .npz with {split}")
    parser.add_argument("--width", type=float, help="of all networks (default: the paper's)")
    parser.add_argument("--epochs", type=int, help="of every stage (default: 200)")
    parser.add_argument("--dtype", help="of the computation (default: bfloat16)")
    parser.add_argument("--train_split", help="such as train[:20%%] (default: train)")
    parser.add_argument("--seeds", default="5", help="of everything random (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="as short as possible, to try it out")
    args = parser.parse_args(argv)
    wanted = tables.choices(args.tables, TABLES, "--tables")
    results: dict[str, dict[int, tables.Result]] = {}

    def train(cell: Cell, seed: int) -> tables.Result:
        found = results.setdefault(cell.name, {})
        if seed not in found:
            before = cell.fixed_teacher
            teacher = train(before, seed).folder if before else None
            values = tables.one_stage(_config(cell, seed, args), cell.stage, teacher=teacher)
            place = folder(args.workdir) / f"seed_{seed}" / cell.name
            found[seed] = tables.run(values, place)
            tables.write(text(wanted, results, args), args.workdir)  # what a killed run leaves
        return found[seed]

    for seed in tables.seeds(args.seeds):
        for row in (row for name in wanted for row in TABLES[name]):
            if not args.rows or args.rows in row.label:
                train(row.cell, seed)
    print(text(wanted, results, args))


def _options(args: argparse.Namespace) -> list[str]:
    """What of the recipe is not the config's own, as its argument has it."""
    chosen = {key: getattr(args, key) for key in ("width", "epochs", "dtype")}
    options = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    return [*options, "smoke"] if args.smoke else options


def _config(cell: Cell, seed: int, args: argparse.Namespace):
    arguments = {"teacher": cell.teacher, "student": cell.student, "baselines": True}
    arguments |= cell.arguments
    if cell.config == "tiny_imagenet" and (args.path or "").endswith(".npz"):
        arguments["npz"] = args.path
    words = [*(f"{key}={value}" for key, value in arguments.items()), *_options(args)]
    config = tables.load_config(f"{tables.ROOT}/configs/ekd/{cell.config}.py:{','.join(words)}")
    config.experiment, config.seed = cell.name, seed
    if config.data.source.name == "tfds":
        config.data.source.data_dir = args.data_dir
    else:
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
    """The tables as Markdown, with what they were measured on."""
    parts = []
    for name in wanted:
        rows = [_cells(row, list(results.get(row.cell.name, {}).values())) for row in TABLES[name]]
        title = f"Table {name}" if name.isdigit() else f"Fig. {name.removeprefix('fig')}"
        parts.append(f"## {title}\n\n{report.markdown(COLUMNS, rows)}")
    devices = {found.device for seeds in results.values() for found in seeds.values()}
    recipe = ", ".join(_options(args)) or "the config's own"
    note = (
        "Top-1 on the test images after the last epoch, mean ± standard deviation over n of the"
        f" seeds {args.seeds}; the teacher is that which learned beside the student. s/epoch holds"
        " all that a run does, compiling and evaluating too; images/s is training alone."
        f" {', '.join(sorted(devices))}; recipe: {recipe}."
    )
    return "\n\n".join([*parts, note])


def _cells(row: Row, found: Sequence[tables.Result]) -> list[str]:
    """A row of a table; what has not been measured is a dash."""
    paper = "-" if row.paper is None else f"{row.paper:.2f}"
    if not found:
        return [row.label, "-", "-", "-", paper, "-", "-", "-"]
    accuracies = [each.accuracy for each in found]
    teachers = [each.metrics.get("accuracy/teacher") for each in found]
    above = "-" if row.paper is None else f"{100 * statistics.mean(accuracies) - row.paper:+.2f}"
    return [
        row.label,
        str(len(found)),
        tables.mean_and_deviation(accuracies),
        "-" if None in teachers else tables.mean_and_deviation(teachers),
        paper,
        above,
        f"{statistics.mean(each.metrics['images_per_second'] for each in found):,.0f}",
        f"{statistics.mean(each.seconds / each.metrics['epoch'] for each in found):.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
