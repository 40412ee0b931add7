"""HORKD's Table 1 (Ge et al., AAAI 2020): top-1 accuracy on CIFAR-100, next to the paper's.

    python experiments/horkd_table1.py --workdir=runs/horkd_table1

Each cell is a stage of the config `horkd/cifar100` and has a folder in the workdir. The teacher
(ResNet-50, 32x32) is trained once for all cells. OUR-32-R and OUR-32-V are the assistants of
OUR-16-R and OUR-16-V. The same command resumes after an interruption, and more cells may be added
later. Six cells are not in the paper, but are needed to judge it: the students alone (ALONE-*), and
distilled without the assistant (DIRECT-16-*).

The paper's numbers of FitNet, Attention, RKD and KD are those of RKD's paper (Park et al., CVPR
2019, Table 4), whose student is a VGG-11 with batch norm; there FitNet has 70.81. These cells
therefore train VGG-11, and OUR-32-R is not comparable with them. ResNet-18 with the same baselines
is in EKD's Table I, `experiments/ekd_tables.py --tables=1`. The last column has the numbers of
other papers.

The four baselines are as in RepDistiller. `--recipe=rkd` is the recipe of RKD's code,
`run_distill_classification.py` of lenscloth/RKD, for all cells: SGD from 0.1, weight decay 5e-4,
batch 128, times 0.2 at epochs 60, 120 and 160 of 200. RKD and KD then have the losses of that code:
CE + 25 RKD-D + 50 RKD-A on L2-normalized embeddings, and CE + 16 KL at temperature 4. Three things
still differ: that code has no FitNet and no Attention, prints the accuracy of the best epoch on the
test images, and its VGG-11 pools five times, ours three times before it averages.

200 epochs of each of 15 networks need an accelerator (they have not been timed on one). On a CPU,
thin networks and few epochs show that everything runs:

    python experiments/horkd_table1.py --workdir=runs/smoke --smoke --dtype=float32

This takes half a minute per cell on two shared cores, most of it for compilation. CIFAR-100 must be
prepared for TFDS; if it is not, the error names the command that prepares it.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.commands import Parser, exit_code
from kd_jax.core.files import absolute_path
from kd_jax.core.text import markdown
from kd_jax.experiment import tables
from kd_jax.experiment.config_files import load_config

EXAMPLE = "python experiments/horkd_table1.py --workdir=runs/horkd_table1"
TEACHER = "resnet50"
COLUMNS = (
    *("cell", "network", "resolution", "accuracy [%]"),
    *("paper [%]", "difference", "seconds", "other papers [%]"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        paper: accuracy in the paper, in percent; None if the cell is not in the paper.
        student: network of the cell.
        resolution: height of the images that the network sees.
        stage: stage of the config that trains it.
        teacher: cell whose network is the frozen teacher.
        method: method of the stage, if it is not the one of the config.
        elsewhere: accuracies in other papers, in percent.
    """

    paper: float | None
    student: str
    resolution: int = 32
    stage: str = "assistant"
    teacher: str | None = None
    method: Mapping[str, Any] | None = None
    elsewhere: str = "-"


def _baseline(paper: float, method: str, elsewhere: str = "-") -> Cell:
    return Cell(paper, "vgg11", 32, "assistant", "Teacher", {"name": method}, elsewhere)


CELLS = {
    "FitNet": _baseline(70.08, "fitnet", "70.81 (RKD)"),
    "Attention": _baseline(72.68, "at"),
    "RKD": _baseline(72.97, "rkd"),
    "KD": _baseline(74.26, "kd"),
    "OUR-32-V": Cell(73.54, "vgg11", 32, "assistant", "Teacher"),
    "OUR-16-V": Cell(69.87, "vgg11", 16, "student", "OUR-32-V"),
    "OUR-32-R": Cell(76.68, "resnet18", 32, "assistant", "Teacher"),
    "OUR-16-R": Cell(74.65, "resnet18", 16, "student", "OUR-32-R"),
    "Teacher": Cell(77.76, "resnet18", 32, "teacher"),
    "ALONE-32-V": Cell(None, "vgg11", 32, "student_alone", elsewhere="70.76 (EKD)"),
    "ALONE-16-V": Cell(None, "vgg11", 16, "student_alone"),
    "DIRECT-16-V": Cell(None, "vgg11", 16, "student_direct", "Teacher"),
    "ALONE-32-R": Cell(None, "resnet18", 32, "student_alone", elsewhere="76.61 (EKD)"),
    "ALONE-16-R": Cell(None, "resnet18", 16, "student_alone"),
    "DIRECT-16-R": Cell(None, "resnet18", 16, "student_direct", "Teacher"),
}

RKD_LOSSES: dict[str, Mapping[str, Any]] = {
    "RKD": {"name": "rkd", "variant": "paper"},
    "KD": {"name": "kd", "hard_weight": 1.0, "soft_weight": 1.0},  # weighted by T^2 = 16
}
"""Methods of the cells with `--recipe=rkd`, where they differ."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "", EXAMPLE)
    parser.add_argument("--workdir", help="folder of the runs and of table.md")
    parser.add_argument("--data_dir", help="TFDS folder of CIFAR-100 (default: TFDS' default)")
    tables.add_recipe(parser)
    parser.add_argument("--recipe", help="ekd, rkd, repdistiller or okddip (default: ekd)")
    parser.add_argument("--l1", type=float, help="weight of eq. 2 (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--cells", default=",".join(CELLS), help="cells (default: %(default)s)")
    args = parser.parse(argv)
    parser.require(args, "workdir")
    wanted = tables.names(args.cells, CELLS, "--cells")
    results: dict[str, tables.Result] = {}

    def train(name: str) -> tables.Result:
        if name not in results:
            cell = CELLS[name]
            teacher = train(cell.teacher).folder if cell.teacher else None
            method = RKD_LOSSES.get(name, cell.method) if args.recipe == "rkd" else cell.method
            config = tables.one_stage(
                _config(name, args), cell.stage, teacher=teacher, method=method
            )
            results[name] = tables.run(config, absolute_path(args.workdir) / name)
            tables.write(table(results, args), args.workdir)  # an interrupted run keeps its cells
        return results[name]

    for name in wanted:
        train(name)
    print(table(results, args))


def _config(name: str, args: argparse.Namespace) -> Any:
    cell = CELLS[name]
    options = [f"student={cell.student}", f"resolution={cell.resolution}", f"teacher={TEACHER}"]
    argument = ",".join([*options, "baselines=true", *tables.recipe(args, "l1", "recipe")])
    config = load_config(f"horkd/cifar100:{argument}")
    config.experiment = f"horkd_table1_{name}"
    config.seed = args.seed
    if args.data_dir:
        config.data.source.data_dir = args.data_dir
    return config


def table(results: Mapping[str, tables.Result], args: argparse.Namespace) -> str:
    """Returns the table as Markdown, with its recipe and devices."""
    rows = [_row(name, cell, results.get(name)) for name, cell in CELLS.items()]
    devices = ", ".join(sorted({found.device for found in results.values()}))
    recipe = ", ".join(tables.recipe(args, "l1", "recipe")) or "that of the config"
    return (
        f"{markdown(COLUMNS, rows, left=2)}\n\n"
        f"CIFAR-100 top-1 on the test images after the last epoch. Seed {args.seed}, {devices};"
        f" recipe: {recipe}.\nThe student of FitNet, Attention, RKD and KD is VGG-11, as in RKD's"
        " paper, the source of these numbers; `--recipe=rkd` is the recipe of its code. The seconds"
        " of a cell do not include its teacher and its assistant."
    )


def _row(name: str, cell: Cell, found: tables.Result | None) -> list[str]:
    paper = "not in the paper" if cell.paper is None else f"{cell.paper:.2f}"
    if found is None:
        return [name, "-", "-", "-", paper, "-", "-", cell.elsewhere]
    accuracy = 100 * found.accuracy
    difference = "-" if cell.paper is None else f"{accuracy - cell.paper:+.2f}"
    size = f"{found.resolution}x{found.resolution}"
    row = [name, found.network, size, f"{accuracy:.2f}", paper, difference]
    return [*row, f"{found.seconds:.0f}", cell.elsewhere]


if __name__ == "__main__":
    sys.exit(main())
