"""HORKD's Table 1 (Ge et al., AAAI 2020): top-1 accuracy on CIFAR-100, beside the paper's.

    python experiments/horkd_table1.py --workdir=runs/horkd_table1

Every cell is a stage of `configs/horkd/cifar100.py` and has its folder in the workdir. The teacher
(ResNet-50, 32x32) is trained once for all cells; OUR-32-R and OUR-32-V are the assistants of
OUR-16-R and OUR-16-V. The same command goes on where a killed one stood, and more cells may be
added later. FitNet, Attention and RKD are RepDistiller's. Not in the paper, but needed to judge it:
the students alone at 16x16 (ALONE-16-*), and distilled without the assistant (DIRECT-16-*).

The paper's recipe, 200 epochs of each of thirteen networks, is work for an accelerator (not yet
timed on one). On a CPU, thin networks and few epochs show that everything runs:

    python experiments/horkd_table1.py --workdir=runs/smoke --smoke --dtype=float32

Smoke takes half a minute a cell on two shared cores, most of it compiling. CIFAR-100 must have been
prepared for TFDS; where it has not, the command to do so is printed.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tables

from kd_jax import cli, report
from kd_jax.files import folder

TEACHER = "resnet50"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        paper: its accuracy there, in per cent; None if it is not in the paper.
        student: network of the cell.
        resolution: height of what the network sees.
        stage: of the config, that trains it.
        teacher: the cell that is its frozen teacher.
        method: where it is not the stage's own.
    """

    paper: float | None
    student: str
    resolution: int = 32
    stage: str = "assistant"
    teacher: str | None = None
    method: Mapping[str, Any] | None = None


def _baseline(paper: float, method: Mapping[str, Any]) -> Cell:
    return Cell(paper, "resnet18", 32, "assistant", "Teacher", method)


CELLS = {
    "FitNet": _baseline(70.08, {"name": "transfer", "loss": "fitnet"}),
    "Attention": _baseline(72.68, {"name": "transfer", "loss": "attention_transfer"}),
    "RKD": _baseline(72.97, {"name": "transfer", "loss": "rkd"}),
    "KD": _baseline(74.26, {"name": "soft_targets"}),
    "OUR-32-V": Cell(73.54, "vgg11", 32, "assistant", "Teacher"),
    "OUR-16-V": Cell(69.87, "vgg11", 16, "student", "OUR-32-V"),
    "OUR-32-R": Cell(76.68, "resnet18", 32, "assistant", "Teacher"),
    "OUR-16-R": Cell(74.65, "resnet18", 16, "student", "OUR-32-R"),
    "Teacher": Cell(77.76, "resnet18", 32, "teacher"),
    "ALONE-16-V": Cell(None, "vgg11", 16, "student_alone"),
    "DIRECT-16-V": Cell(None, "vgg11", 16, "student_direct", "Teacher"),
    "ALONE-16-R": Cell(None, "resnet18", 16, "student_alone"),
    "DIRECT-16-R": Cell(None, "resnet18", 16, "student_direct", "Teacher"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = tables.Parser(__doc__)
    parser.add_argument("--data_dir", help="where TFDS keeps CIFAR-100 (default: its own place)")
    parser.add_argument("--width", type=float, help="of all networks (default: the paper's)")
    parser.add_argument("--epochs", type=int, help="of every stage (default: 200)")
    parser.add_argument("--dtype", help="of the computation (default: bfloat16)")
    parser.add_argument("--l1", type=float, help="weight of eq. 2 (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--cells", default=",".join(CELLS), help="of %(default)s")
    parser.add_argument("--smoke", action="store_true", help="as short as possible, to try it out")
    args = parser.parse_args(argv)
    wanted, results = tables.choices(args.cells, CELLS, "--cells"), {}

    def train(name: str) -> tables.Result:
        if name not in results:
            cell = CELLS[name]
            teacher = train(cell.teacher).folder if cell.teacher else None
            config = tables.one_stage(
                _config(name, args), cell.stage, teacher=teacher, method=cell.method
            )
            results[name] = tables.run(config, folder(args.workdir) / name)
            tables.write(table(results, args), args.workdir)  # a killed run leaves what it has
        return results[name]

    for name in wanted:
        train(name)
    print(table(results, args))


def _options(args: argparse.Namespace) -> list[str]:
    """What of the recipe is not the config's own, as its argument has it."""
    chosen = {key: getattr(args, key) for key in ("width", "epochs", "dtype", "l1")}
    options = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    return [*options, "smoke"] if args.smoke else options


def _config(name: str, args: argparse.Namespace):
    cell = CELLS[name]
    options = [f"student={cell.student}", f"resolution={cell.resolution}", f"teacher={TEACHER}"]
    argument = ",".join([*options, "baselines=true", *_options(args)])
    config = tables.load_config(f"{tables.ROOT}/configs/horkd/cifar100.py:{argument}")
    config.experiment = f"horkd_table1_{name}"
    config.seed = args.seed
    config.data.source.data_dir = args.data_dir
    return config


def table(results: Mapping[str, tables.Result], args: argparse.Namespace) -> str:
    """The table as Markdown, with what it was measured on."""
    rows = []
    for name, cell in CELLS.items():
        paper = "not in the paper" if cell.paper is None else f"{cell.paper:.2f}"
        ours = ["-"] * 5
        if name in results:
            found = results[name]
            accuracy = 100 * found.accuracy
            above = "-" if cell.paper is None else f"{accuracy - cell.paper:+.2f}"
            size = f"{found.resolution}x{found.resolution}"
            ours = [found.network, size, f"{accuracy:.2f}", above, f"{found.seconds:.0f}"]
        network, size, accuracy, above, seconds = ours
        rows.append([name, network, size, accuracy, paper, above, seconds])
    columns = ("cell", "network", "resolution", "accuracy [%]", "paper [%]", "difference")
    devices = ", ".join(sorted({found.device for found in results.values()}))
    recipe = ", ".join(_options(args)) or "the config's own"
    return (
        f"{report.markdown((*columns, 'seconds'), rows, left=2)}\n\n"
        f"CIFAR-100 top-1 on the test images after the last epoch. Seed {args.seed}, {devices};"
        f" recipe: {recipe}.\nSeconds are a cell's own: its teacher and assistant count in theirs."
    )


if __name__ == "__main__":
    sys.exit(main())
