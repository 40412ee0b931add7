r"""What a scheme of training costs, beside the two stages of plain distillation.

    python experiments/benchmarks/schemes.py                     # EKD's pair, on accelerators
    python experiments/benchmarks/schemes.py --width=0.125       # 3 minutes on 2 CPU cores
    python experiments/benchmarks/schemes.py --scheme=kdim       # KDim's, on accelerators
    python experiments/benchmarks/schemes.py --scheme=kdim --width=0.25 --resolution=56

EKD trains teacher and student at once, with their guided modules, where KD trains the teacher alone
and then the student against it. KDim trains the student only, where KD first trains the teacher
anew on degraded faces; the paper claims 5 times (Table 3). The stages are those of the configs, on
random images of the set's size, for as many steps each, in turn, round after round, in the loop
that `python -m kd_jax.train` runs (without evaluation and saving); nothing is downloaded.

The memory is what a compiled step holds on each device at once, the training set included, by
XLA's own analysis, so that it is the same however the stages are ordered. What two stages need is
that of the larger one.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import ladder
import training

from kd_jax import cli
from kd_jax.report import markdown

BOTH = "KD's two stages"


class Scheme(NamedTuple):
    """What is compared.

    Attributes:
        config: file in `configs/`.
        size: height and width of its images.
        arguments: of the config, beside the options; `{width}` is theirs.
        stages: by what the table calls them: KD's two, and the scheme's one.
        defaults: of the command line.
    """

    config: str
    size: tuple[int, int]
    arguments: str
    stages: Mapping[str, str]
    defaults: Mapping[str, object]


SCHEMES = {
    "ekd": Scheme(
        "ekd/cifar100.py",
        (32, 32),
        "baselines=true",
        {"teacher alone": "teacher", "KD": "kd", "EKD": "ekd"},
        {"teacher": "resnet50", "network": "resnet18", "resolution": 32, "images": 50_000},
    ),
    "kdim": Scheme(
        "kdim/casia.py",
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
    return cli.command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--scheme", choices=list(SCHEMES), default="ekd")
    scheme = SCHEMES[chosen.parse_known_args(argv)[0].scheme]
    parser = training.parser(__doc__, parents=[chosen])
    parser.set_defaults(**scheme.defaults)
    args = training.settle(parser.parse_args(argv))
    with tempfile.TemporaryDirectory() as folder:
        arguments = scheme.arguments.format(width=args.width)
        run = training.experiment(args, Path(folder), scheme.config, arguments, size=scheme.size)
        loops = {label: ladder.loop(run, name, args.steps) for label, name in scheme.stages.items()}
        rungs = {label: rung for label, (rung, _) in loops.items()}
        times = training.measure(rungs, args.steps, args.rounds)
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
    """The table, and what follows from it.

    Args:
        times: milliseconds a step, by stage and round.
        memory: bytes on each device, by stage.
        args: of the command line.
        steps_per_epoch: of all stages.
    """
    first, second, scheme = times
    both = [a + b for a, b in zip(times[first], times[second], strict=True)]
    times = {first: times[first], second: times[second], BOTH: both, scheme: times[scheme]}
    memory = {**memory, BOTH: max(memory[first], memory[second])}
    rows = []
    for label, each in times.items():
        found = training.spread(each)
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
    columns = ("stage", "ms a step", "quartiles", "images/s", "s/epoch", "memory [MiB]")
    ratio = training.spread([a / b for a, b in zip(times[scheme], both, strict=True)])
    return (
        f"{markdown(columns, rows)}\n\n"
        f"{scheme} takes {ratio.median:.2f} times as long as KD's two stages (quartiles"
        f" {ratio.low:.2f} to {ratio.high:.2f}), and {memory[scheme] / memory[BOTH]:.2f} times"
        " their memory."
    )


if __name__ == "__main__":
    sys.exit(main())
