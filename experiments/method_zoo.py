r"""All methods on one student: accuracy, paired gain, time and memory.

    python -m experiments.method_zoo --workdir=runs/zoo --teacher=runs/resnet20 \
        --npz='cifar10_{split}.npz' --resolutions=16,32

The config is `baselines/cifar10`: its docstring has the images, the recipe and the command that
imports the teacher. The weights of the methods are the published ones, for all methods alike. The
first row is the student alone; the gains of the others are paired with it by seed.

The time of an epoch, and the memory, are those of the last stage. The memory is what a compiled
step holds on a device at once, by XLA's analysis. Both are given relative to KD. The time is that
of the runs: compare it only if the machine did nothing else.

The same command resumes after an interruption, and reads what is finished. A run whose loss is not
finite is shown as `diverged`.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

if not __package__:
    raise SystemExit("error: run `python -m experiments.method_zoo` in the repository root.")

from experiments.benchmarks import ahead_programs
from kd_jax.commands import Parser, exit_code
from kd_jax.core.devices import data_mesh
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path, read_json, write_atomically
from kd_jax.core.text import markdown
from kd_jax.experiment import report, tables
from kd_jax.experiment.config_files import load_config

EXAMPLE = "python -m experiments.method_zoo --workdir=runs/zoo --teacher=runs/resnet20"
ALONE, REFERENCE = "supervised", "kd"
METHODS = (
    *(ALONE, REFERENCE, "horkd", "kdim", "rkd", "fitnet", "fitnet_stages", "at", "sp", "cc", "vid"),
    *(
        "pkt",
        "nst",
        "crd",
        "info_nce",
        "ft",
        "ab",
        "fsp",
        "dkd",
        "dist",
        "afd",
        "reviewkd",
        "reskd",
    ),
    *("takd", "born_again", "dml", "cl_ilr", "one", "okddip", "byot", "snapshot"),
)
COLUMNS = ("method", "test [%]", "gain", "validation [%]", "gain", "s/epoch", "memory [MiB]")
_DIVERGED = re.compile(r" became (nan|-?inf) at step \d+ of \d+: ")  # not by a frozen network


class Run(NamedTuple):
    """A finished run of a method.

    Attributes:
        test: accuracy on the test images, 0 to 1; NaN if the loss was not finite.
        validation: accuracy on the validation images.
        seconds: time of an epoch of the last stage.
    """

    test: float
    validation: float
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "", EXAMPLE)
    add = parser.add_argument
    add("--workdir", help="folder of the runs and of table.md")
    add("--teacher", help="folder of the network that teaches")
    add("--npz", help="files of the images (default: TFDS)")
    add("--student", default="resnet20", help="network of the student (default: %(default)s)")
    add("--resolutions", default="16", help="heights of its images (default: %(default)s)")
    add("--methods", default=",".join(METHODS), help="methods and sums such as kd+crd")
    add("--seeds", default="0,1,2", help="seeds (default: %(default)s)")
    add("--epochs", type=int, help="epochs (default: the config's)")
    add("--smoke", action="store_true", help="run as short as possible")
    args = parser.parse(argv)
    parser.require(args, "workdir", "teacher")
    known = {*METHODS, *(word for word in args.methods.split(",") if "+" in word)}
    methods, seeds = tables.names(args.methods, known, "--methods"), tables.seeds(args.seeds)
    folder, parts = absolute_path(args.workdir), []
    configs = {
        (resolution, method): _config(args, resolution, method)
        for resolution in args.resolutions.split(",")
        for method in methods
    }  # all of them are checked before anything is trained
    found: dict[tuple[str, str], dict[int, Run]] = {key: {} for key in configs}
    memory: dict[tuple[str, str], float] = {}
    for seed in seeds:
        for key, values in configs.items():
            place = folder / key[0] / key[1]
            found[key][seed] = _trained({**values, "seed": seed}, place / f"seed{seed}")
            memory[key] = memory.get(key) or _memory(values, place / "memory.json")
            parts = [table(found, memory, args, text) for text in args.resolutions.split(",")]
            tables.write("\n\n".join(parts), folder)
    print("\n\n".join(parts))


def _config(args: argparse.Namespace, resolution: str, method: str) -> dict[str, Any]:
    options = {"npz": args.npz, "epochs": args.epochs, "teacher": args.teacher}
    words = [f"{key}={value}" for key, value in options.items() if value is not None]
    words += [f"method={method}", f"resolution={resolution}", f"student={args.student}"]
    words += ["smoke"] * args.smoke
    values: dict[str, Any] = load_config(f"baselines/cifar10:{','.join(words)}").to_dict()
    return values


def _trained(values: Mapping[str, Any], workdir: epath.Path) -> Run:
    """Runs a method with one seed, or reads what it has found."""
    lost = workdir / "diverged.txt"
    if lost.exists():
        return Run(math.nan, math.nan, math.nan)
    try:
        stage = tables.summary(values, workdir)["stages"][-1]
    except UsageError as error:
        if not _DIVERGED.search(str(error)):
            raise
        write_atomically(lost, f"{error}\n")
        return Run(math.nan, math.nan, math.nan)
    per_epoch = stage["seconds"] / values["stages"][stage["name"]]["epochs"]
    validation = stage["last"].get("validation/accuracy", math.nan)
    return Run(report.result(stage), validation, per_epoch)


def _memory(values: Mapping[str, Any], path: epath.Path) -> float:
    """Returns the MiB that a compiled step of the last stage holds, or reads them."""
    if path.exists():
        return float(read_json(path)["mebibytes"])
    subject = ahead_programs.step(values, None, data_mesh(1), math.inf, None, 1)
    found = subject.function.lower(*subject.arguments).compile().memory_analysis()
    held = found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes
    mebibytes = (held - found.alias_size_in_bytes) / 2**20
    write_atomically(path, json.dumps({"mebibytes": mebibytes}) + "\n")
    return mebibytes


def table(
    found: Mapping[tuple[str, str], Mapping[int, Run]],
    memory: Mapping[tuple[str, str], float],
    args: argparse.Namespace,
    resolution: str,
) -> str:
    """Returns the table of one resolution as Markdown.

    Args:
        found: runs by resolution and method, then by seed.
        memory: MiB by resolution and method.
        args: options of the command line.
        resolution: height of the student's images.
    """
    alone = found.get((resolution, ALONE), {})
    reference = found.get((resolution, REFERENCE), {})
    rows = []
    for (height, method), runs in found.items():
        if height != resolution or not runs:
            continue
        cells = ["the student alone" if method == ALONE else method]
        for field in ("test", "validation"):
            own = {seed: getattr(run, field) for seed, run in runs.items()}
            lost = any(map(math.isnan, own.values()))
            cells.append("diverged" if lost else tables.mean_and_std(list(own.values())))
            both = [seed for seed in own if seed in alone]
            base = [getattr(alone[seed], field) for seed in both]
            compared = method != ALONE and both and not lost
            cells.append(tables.gain([own[seed] for seed in both], base) if compared else "-")
        cells.append(_relative(_seconds(runs), _seconds(reference)))
        kd = memory.get((resolution, REFERENCE), math.nan)
        rows.append([*cells, _relative(memory.get((height, method), math.nan), kd)])
    return (
        f"{args.student} at {resolution}x{resolution}\n\n{markdown(COLUMNS, rows)}\n\n"
        f"Percent after the last epoch, seeds {args.seeds}: mean ± standard deviation; gain over"
        " the student alone, paired by seed, ± standard error. Time and memory of the last stage,"
        " in parentheses relative to KD."
    )


def _seconds(runs: Mapping[int, Run]) -> float:
    return statistics.fmean(run.seconds for run in runs.values()) if runs else math.nan


def _relative(value: float, reference: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if math.isnan(reference) else f"{value:.1f} ({value / reference:.2f})"


if __name__ == "__main__":
    sys.exit(main())
