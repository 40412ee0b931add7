r"""Time and memory of EKD or KDim, compared with the two stages of KD.

    python -m experiments.benchmarks.method_cost                    # EKD, for accelerators
    python -m experiments.benchmarks.method_cost --width=0.125      # 3 minutes on 2 CPU cores
    python -m experiments.benchmarks.method_cost --method=kdim      # KDim, for accelerators
    python -m experiments.benchmarks.method_cost --method=kdim --width=0.25 --resolution=56

EKD trains teacher and student at once, with their guided modules. KD trains the teacher alone and
then the student with it. KDim trains the student only, where KD first trains the teacher again on
degraded faces; the paper claims a factor of 5 (Table 3). The stages are those of the configs, on
random images of the same size, for the same number of steps each. They run in turn, round after
round, in the loop that `kd-jax train` runs (without evaluation and saving). Nothing is downloaded.

The memory is the number of bytes that a compiled step holds on each device at once, with the
training set, by XLA's analysis. It does not depend on the order of the stages. Two stages need the
memory of the larger one.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

if not __package__:
    raise SystemExit(
        "error: run `python -m experiments.benchmarks.method_cost` in the repository root."
    )

from experiments.benchmarks import random_runs, step_parts, timing
from kd_jax.commands import Parser, exit_code
from kd_jax.core.text import markdown

BOTH = "KD's two stages"
COLUMNS = ("stage", "ms per step", "quartiles", "images/s", "s/epoch", "memory [MiB]")


class Comparison(NamedTuple):
    """A method and the two stages of KD that it replaces.

    Attributes:
        config: name of the config.
        size: height and width of the images.
        arguments: arguments of the config, in addition to the options; `{width}` is the option.
        stages: names of the stages in the config by their names in the table: the two stages of
            KD, then that of the method.
        defaults: defaults of the command line.
    """

    config: str
    size: tuple[int, int]
    arguments: str
    stages: Mapping[str, str]
    defaults: Mapping[str, object]


COMPARISONS = {
    "ekd": Comparison(
        "ekd/cifar100",
        (32, 32),
        "baselines=true",
        {"teacher alone": "teacher", "KD": "kd", "EKD": "ekd"},
        {"teacher": "resnet50", "network": "resnet18", "resolution": 32, "images": 50_000},
    ),
    "kdim": Comparison(
        "kdim/casia",
        (112, 96),
        "baselines=true,teacher_width={width}",
        {"teacher retrained": "teacher_lr", "KD": "kd", "KDim": "kdim"},
        {
            "teacher": "sphereface64",
            "network": "sphereface36_thin",
            "resolution": 112,
            "images": 1024,
        },
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "")
    parser.add_argument("--method", choices=list(COMPARISONS), default="ekd")
    random_runs.add_options(parser)
    args = parser.parse(argv)
    method = COMPARISONS[args.method]
    args = random_runs.settle(args, **method.defaults)
    with tempfile.TemporaryDirectory() as folder:
        arguments = method.arguments.format(width=args.width)
        run = random_runs.random_run(args, Path(folder), method.config, arguments, size=method.size)
        loops = {
            label: step_parts.loop(run, name, args.steps) for label, name in method.stages.items()
        }
        programs = {label: program for label, (program, _) in loops.items()}
        times = timing.in_rounds(programs, args.steps, args.rounds)
    memory = {label: needs for label, (_, needs) in loops.items()}
    print(
        f"{args.teacher} -> {args.network} at height {args.resolution}, width {args.width:g},"
        f" {args.dtype}, batch {args.batch}; {run.mesh.size} x"
        f" {run.mesh.devices.flat[0].device_kind}, jax {jax.__version__}\n"
    )
    print(report(times, memory, args, run.plan.order.steps_per_epoch))


def report(
    times: Mapping[str, Sequence[float]],
    memory: Mapping[str, int],
    args: argparse.Namespace,
    steps_per_epoch: int,
) -> str:
    """Returns the table and its conclusion.

    Args:
        times: milliseconds per step, by stage and round: the two stages of KD, then the method.
        memory: bytes on each device, by stage.
        args: options of the command line.
        steps_per_epoch: number of steps per epoch of all stages.
    """
    first, second, method = times
    both = [a + b for a, b in zip(times[first], times[second], strict=True)]
    times = {first: times[first], second: times[second], BOTH: both, method: times[method]}
    memory = {**memory, BOTH: max(memory[first], memory[second])}
    rows = []
    for label, each in times.items():
        found = timing.spread(each)
        rows.append(
            [
                label,
                f"{found.median:.2f}",
                f"{found.low:.2f} - {found.high:.2f}",
                f"{1e3 * args.batch / found.median:,.0f}",
                f"{found.median * steps_per_epoch / 1e3:.1f}",
                f"{memory[label] / 2**20:,.1f}",
            ]
        )
    ratio = timing.spread([a / b for a, b in zip(times[method], both, strict=True)])
    return (
        f"{markdown(COLUMNS, rows)}\n\n"
        f"{method} takes {ratio.median:.2f} times as long as KD's two stages (quartiles"
        f" {ratio.low:.2f} to {ratio.high:.2f}), and {memory[method] / memory[BOTH]:.2f} times"
        " their memory."
    )


if __name__ == "__main__":
    sys.exit(main())
