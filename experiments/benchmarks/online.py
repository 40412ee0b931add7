r"""What a teacher that learns beside its student costs: EKD against KD's two stages.

    python experiments/benchmarks/online.py                      # the paper's pair, on accelerators
    python experiments/benchmarks/online.py --width=0.125        # 3 minutes on 2 CPU cores

KD trains the teacher alone and then the student against it; EKD trains both at once, with their
guided modules. All three stages are those of `configs/ekd/cifar100.py`, on random images of
CIFAR-100's size and number, for as many steps each, in turn, round after round, in the loop that
`python -m kd_jax.train` runs (without evaluation and saving); nothing is downloaded.

The memory is what a compiled step holds on each device at once, the training set included, by
XLA's own analysis, so that it is the same however the stages are ordered. What two stages need is
that of the larger one.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import ladder
import training

from kd_jax import cli
from kd_jax.report import markdown

TEACHER, KD, BOTH, EKD = "teacher alone", "KD", "KD's two stages", "EKD"
STAGES = {TEACHER: "teacher", KD: "kd", EKD: "ekd"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = training.parser(__doc__)
    parser.set_defaults(teacher="resnet50", resolution=32)
    args = training.settle(parser.parse_args(argv))
    with tempfile.TemporaryDirectory() as folder:
        run = training.experiment(args, Path(folder), "ekd/cifar100.py", "baselines=true")
        loops = {label: ladder.loop(run, name, args.steps) for label, name in STAGES.items()}
        rungs = {label: rung for label, (rung, _) in loops.items()}
        times = training.measure(rungs, args.steps, args.rounds)
    memory = {label: needs for label, (_, needs) in loops.items()}
    print(
        f"{args.teacher} -> {args.network} at {args.resolution}x{args.resolution}, width"
        f" {args.width:g}, {args.dtype}, batch {args.batch}; {run.mesh.size} x"
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
    both = [a + b for a, b in zip(times[TEACHER], times[KD], strict=True)]
    times = {TEACHER: times[TEACHER], KD: times[KD], BOTH: both, EKD: times[EKD]}
    memory = {**memory, BOTH: max(memory[TEACHER], memory[KD])}
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
    ratio = training.spread([a / b for a, b in zip(times[EKD], both, strict=True)])
    return (
        f"{markdown(columns, rows)}\n\n"
        f"EKD takes {ratio.median:.2f} times as long as KD's two stages (quartiles {ratio.low:.2f}"
        f" to {ratio.high:.2f}), and {memory[EKD] / memory[BOTH]:.2f} times their memory."
    )


if __name__ == "__main__":
    sys.exit(main())
