r"""EKD's tables and figures (Zhang et al., IEEE TCSVT 2021), next to the paper's numbers.

    python experiments/ekd_tables.py --workdir=runs/ekd --tables=5 --seeds=5,6,7

| `--tables` | content |
|---|---|
| `1`, `2` | CIFAR-100: peer architectures, cross architectures; with the offline baselines |
| `3` | CIFAR-100: the same architecture twice; online methods and recipe of OKDDip's code |
| `4` | Tiny-ImageNet, `--path=tiny-imagenet-200` or `--path=tiny_imagenet_{split}.npz` |
| `5` | with and without evolving teacher (ET) and guided modules of teacher (T_G), student (S_G) |
| `fig3` | the students of Fig. 3, Tiny-ImageNet; `experiments/tsne.py` draws them |
| `fig4` | number of guided modules, VGG-11 |
| `fig5` | terms of the loss, CIFAR-10, VGG-19 -> VGG-11 |
| `fig6` | CIFAR-100 at 16x16, with HORKD and its assistant |
| `fig7` | 25, 50, 75 and 100 % of the training images |

The runs and the paper's numbers are in `experiments/ekd_cells.py`. Each cell is a stage of a config
and has one folder per seed, `seed_5/CELL` in the workdir. A cell that several tables share is
trained once, and so is a fixed teacher. The same command resumes after an interruption, and more
tables and seeds may be added later. The numbers of the figures are printed where the paper's text
gives them. `python -m experiments.benchmarks.method_cost` compares the cost of EKD and KD.

The paper trains the offline baselines of Tables I and II with RepDistiller's code and settings:
`--baseline_recipe=repdistiller` (240 epochs from a learning rate of 0.05, or 0.01 for ShuffleNets)
does so, for their fixed teachers too. Without it, all cells have EKD's recipe, which makes the
methods comparable. `--recipe` changes the recipe of the other cells. Table III always has OKDDip's.

A row of Table V with T_G but without ET has a teacher that was trained before, without modules. Its
modules are trained here, on the frozen network.

The paper's recipe needs an accelerator. On a CPU, thin networks and few epochs show that everything
runs: `--smoke --dtype=float32`.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.commands import Parser, exit_code
from kd_jax.core.files import PathLike, absolute_path
from kd_jax.core.text import markdown
from kd_jax.experiment import tables
from kd_jax.experiment.config_files import load_config

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for runs as a file
from experiments.ekd_cells import TABLES, Cell, Row

NUMBERS = (
    *("accuracy [%]", "teacher [%]", "paper [%]", "difference"),
    *("images/s", "s/epoch", "paper [s/epoch]"),
)

NOTES = {
    "2": "The paper's Abound has 74.28 for wrn_50_2 -> shufflenet_v1, more than EKD.",
    "3": (
        "Networks, recipe and online methods are those of OKDDip's code, in which the peers of"
        " OKDDip are branches. Snapshot-KD (73.51), a number of its own paper, is missing."
    ),
    "4": "Res-KD has no official code; its residual student has the student's architecture.",
    "5": (
        "The paper's text gives the gains of ET as 2.04 with S_G and 2.49 with T_G + S_G; its table"
        " gives 2.49 and 2.04."
    ),
    "fig6": "HORKD's number is that of its own paper, Table 1.",
}
"""Sentences that are printed below a table."""


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
    parser.add_argument("--recipe", help="recipe of the cells that name none (default: ekd)")
    parser.add_argument("--baseline_recipe", help="recipe of KD and the other offline baselines")
    parser.add_argument("--train_split", help="such as train[:20%%] (default: train)")
    parser.add_argument("--seeds", default="5", help="seeds (default: 5)")
    args = parser.parse(argv)
    parser.require(args, "workdir")
    wanted = tables.names(args.tables, TABLES, "--tables")
    results: dict[str, dict[int, tables.Result]] = {}

    def train(cell: Cell, seed: int) -> tables.Result:
        found = results.setdefault(cell.name, {})
        if seed not in found:
            teacher, first = (
                train(before, seed).folder if before else None
                for before in (cell.before, cell.first_cell)
            )
            values = _config(cell, seed, args, teacher, first)
            folder = absolute_path(args.workdir) / f"seed_{seed}" / cell.name
            found[seed] = tables.run(values, folder)
            tables.write(text(wanted, results, args), args.workdir)  # for an interrupted run
        return found[seed]

    for seed in tables.seeds(args.seeds):
        for row in (row for name in wanted for row in TABLES[name]):
            if not args.rows or args.rows in row.label:
                train(_with_recipe(row.cell, args), seed)
    print(text(wanted, results, args))


def _with_recipe(cell: Cell, args: argparse.Namespace) -> Cell:
    """Returns a cell with the recipe that the command line asks for."""
    recipe = args.recipe
    if (cell.stage == "kd" or cell.first) and args.baseline_recipe:
        recipe = args.baseline_recipe
    if "recipe" in cell.arguments or recipe in (None, "ekd"):
        return cell
    return dataclasses.replace(cell, arguments={**cell.arguments, "recipe": recipe})


def _config(
    cell: Cell,
    seed: int,
    args: argparse.Namespace,
    teacher: PathLike | None = None,
    first: PathLike | None = None,
) -> dict[str, Any]:
    """Returns the experiment of one cell.

    Args:
        cell: the cell.
        seed: seed of everything random.
        args: options of the command line.
        teacher: folder of the stage of `cell.before`.
        first: folder of the stage of `cell.first_cell`.
    """
    arguments = {"teacher": cell.teacher, "student": cell.student, "baselines": True}
    arguments |= cell.arguments
    if cell.config == "ekd/tiny_imagenet" and (args.path or "").endswith(".npz"):
        arguments["npz"] = args.path
    words = [*(f"{key}={value}" for key, value in arguments.items()), *tables.recipe(args)]
    config = load_config(f"{cell.config}:{','.join(words)}")
    config.experiment, config.seed = cell.name, seed
    if config.data.source.name == "tfds":
        config.data.source.data_dir = args.data_dir
    elif args.path:
        config.data.source.path = args.path
    if args.train_split:
        config.data.train_split = args.train_split
    values = tables.one_stage(config, cell.stage, teacher=teacher)
    stage = values["stages"][cell.stage]
    method, options = _online(cell)
    stage["method"] = {**stage["method"], **cell.method, **method}
    student = stage["networks"]["student"]
    student["options"] = {**student["options"], **options}
    stage["networks"] |= dict.fromkeys(method.get("peers", ()), student)
    if cell.method.get("name") in ("paraphraser", "ab"):  # RepDistiller's first stages
        for optimizer in stage["optimizers"].values():
            optimizer["schedule"] = {"name": "constant"}
    if cell.first == "paraphraser":
        stage["adapters_from"] = str(first)
    elif cell.first == "ab":
        stage["networks"]["student"] |= {"init_from": str(first), "init_head": False}
    elif cell.first == "kd":
        stage["networks"]["base"] = {"init_from": str(first)}
    return values


def _online(cell: Cell) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the options of an online method and its networks; OKDDip's code has four of each."""
    vgg, branches = cell.student.startswith("vgg"), {"branches": 4}
    code, peers = {"target_gradient": True, "temperature": 3.0}, ("peer2", "peer3", "peer4")
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "dml": ({"peers": ("student", *peers), "targets": "mean", **code}, {}),
        "cl_ilr": ({**branches, **code}, {**branches, "branch_rescale": True}),
        "one": ({**branches, **code}, branches),
        "byot": ({"modules": 4 if vgg else 2, "stem": vgg}, {}),
        "okddip": (branches, branches),
    }
    return found.get(cell.method.get("name", ""), ({}, {}))


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
        rows = [
            _cells(row, list(results.get(_with_recipe(row.cell, args).name, {}).values()))
            for row in TABLES[name]
        ]
        title = f"Table {name}" if name.isdigit() else f"Fig. {name.removeprefix('fig')}"
        parts.append(f"## {title}\n\n{markdown(('run', 'n', *NUMBERS), rows)}")
        if name in NOTES:
            parts.append(NOTES[name])
    devices = {found.device for seeds in results.values() for found in seeds.values()}
    recipe = ", ".join(tables.recipe(args, "recipe", "baseline_recipe")) or "that of the config"
    note = (
        "Top-1 on the test images after the last epoch, mean ± standard deviation over n of the"
        f" seeds {args.seeds}; `teacher` is the evolving teacher. s/epoch includes compilation and"
        " evaluations, the paper's is of an NVIDIA TITAN; images/s is training alone."
        f" {', '.join(sorted(devices))}; recipe: {recipe}."
    )
    return "\n\n".join([*parts, note])


def _cells(row: Row, found: Sequence[tables.Result]) -> list[str]:
    """Returns a row of a table; a dash is a number that has not been measured."""
    paper = "-" if row.paper is None else f"{row.paper:.2f}"
    seconds = "-" if row.seconds is None else f"{row.seconds:g}"
    if not found:
        return [row.label, "-", "-", "-", paper, "-", "-", "-", seconds]
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
        seconds,
    ]


if __name__ == "__main__":
    sys.exit(main())
