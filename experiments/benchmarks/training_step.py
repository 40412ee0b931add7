"""Cost of the training loop beyond its networks, part by part.

    python -m experiments.benchmarks.training_step            # 4 minutes on 2 CPU cores
    python -m experiments.benchmarks.training_step --torch    # compares with a PyTorch loop
    python -m experiments.benchmarks.training_step --method=ekd --teacher=resnet50

It measures one stage of a CIFAR-100 config. HORKD's is a student at low resolution with its frozen
assistant at 32x32. EKD's is a student and its evolving teacher, with their guided modules. The
images are random, of CIFAR-100's size and number; nothing is downloaded. Each line of the table
adds one part to the line before, up to the loop that `kd-jax train` runs (without evaluation and
saving, once per epoch). The programs run in turn, round after round. A cost is the median over the
rounds of a difference within a round, so that other programs on the machine slow all lines alike.
The parts therefore add up only approximately. On accelerators, the last two lines run many steps
per call and the others one: a loop that is faster than its networks is then correct.

The fraction of the peak of the chip counts only the operations of the networks, in the time of the
whole loop. PyTorch is optional: `pip install torch`.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

if not __package__:
    raise SystemExit(
        "error: run `python -m experiments.benchmarks.training_step` in the repository root."
    )

from experiments.benchmarks import peaks, random_runs, step_parts, timing
from kd_jax.commands import Parser, exit_code
from kd_jax.core.errors import UsageError
from kd_jax.core.text import markdown
from kd_jax.experiment.run import Run

HAS_TORCH = importlib.util.find_spec("torch") is not None
TORCH = "PyTorch"
COLUMNS = ("part", "ms per step", "quartiles", "least", "images/s", "adds")


class Subject(NamedTuple):
    """A method whose stage is measured.

    Attributes:
        config: name of the config.
        words: text for the report.
        target: greatest extra cost of the loop, in percent of the networks.
    """

    config: str
    words: str
    target: float


SUBJECTS = {
    "horkd": Subject(
        "horkd/cifar100", "{network} at {resolution}x{resolution}, frozen assistant at 32x32", 5
    ),
    "ekd": Subject(
        "ekd/cifar100",
        "{network} and its evolving teacher {teacher} at {resolution}x{resolution}",
        15,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    args = _parse(argv)
    torch_training = _torch_training(args) if args.torch else None
    subject = SUBJECTS[args.method]
    with tempfile.TemporaryDirectory() as folder:
        run = random_runs.random_run(args, Path(folder), subject.config)
        name = run.spec.pipeline[-1]
        programs, flops = step_parts.parts(run, name, args.steps)
        if torch_training:
            programs[TORCH] = _torch_program(torch_training, run, name, args)
        times = timing.in_rounds(programs, args.steps, args.rounds)
    kind = run.mesh.devices.flat[0].device_kind
    print(
        f"{subject.words.format(**vars(args))}, width {args.width:g}, {args.dtype},"
        f" batch {args.batch}; {run.mesh.size} x {kind}, jax {jax.__version__}\n"
    )
    print(report(times, args.batch, flops, kind, subject.target))
    print(timing.load())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__ or "")
    random_runs.add_options(parser)
    parser.add_argument("--method", choices=list(SUBJECTS), default="horkd")
    parser.add_argument("--torch", action="store_true", help="compare with PyTorch")
    args = parser.parse(argv)
    if args.torch:  # otherwise JAX takes most of a GPU's memory at once
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return random_runs.settle(args, network="resnet18", resolution=16, images=50_000)


# ------------------------------------------------------------------------------------ report


def extra(times: Mapping[str, Sequence[float]], name: str, before: str) -> timing.Spread:
    """Returns the cost of a program beyond another one, in percent of the networks."""
    each = zip(times[name], times[before], times["networks"], strict=True)
    return timing.spread([100 * (a - b) / networks for a, b, networks in each])


def report(
    times: Mapping[str, Sequence[float]],
    batch: int,
    flops: float | None,
    kind: str,
    target: float = 5,
) -> str:
    """Returns the table and its conclusions.

    Args:
        times: milliseconds per step, by program and round.
        batch: number of images per step.
        flops: number of operations of the networks per step, on one device.
        kind: kind of the device.
        target: greatest extra cost of the loop, in percent.
    """
    names = [name for name in times if name != TORCH]
    rows = []
    for i, name in enumerate(times):
        each, adds = timing.spread(times[name]), ""
        if 0 < i < len(names):
            adds = f"{extra(times, name, names[i - 1]).median:+.1f} %"
        rows.append(
            [
                name if i in (0, len(names)) else f"+ {name}",
                f"{each.median:.2f}",
                f"{each.low:.2f} - {each.high:.2f}",
                f"{min(times[name]):.2f}",
                f"{1e3 * batch / each.median:,.0f}",
                adds,
            ]
        )
    total = extra(times, names[-1], names[0])
    least = 100 * (min(times[names[-1]]) / min(times[names[0]]) - 1)
    lines = [
        markdown(COLUMNS, rows),
        "",
        f"The whole loop costs {total.median:+.1f} % more than its networks (quartiles"
        f" {total.low:+.1f} to {total.high:+.1f} %; by the fastest rounds {least:+.1f} %; target:"
        f" at most {target:g} %).",
    ]
    seconds = timing.spread(times[names[-1]]).median / 1e3
    if flops is not None:
        top = peaks.peak(kind, peaks.BFLOAT16)
        fraction = f"{flops / seconds / top:.1%}" if top else "unknown"
        lines.append(
            f"Networks: {flops / 1e9:.1f} GFLOP per step and device,"
            f" {flops / seconds / 1e12:.3g} TFLOP/s in the loop; fraction of the chip's bfloat16"
            f" peak: {fraction}."
        )
    if TORCH in times:
        pairs = zip(times[names[-1]], times[TORCH], strict=True)
        ratio = timing.spread([b / a for a, b in pairs])
        lines.append(
            f"kd_jax's loop runs {ratio.median:.2f} times as many images/s as PyTorch's (quartiles"
            f" {ratio.low:.2f} to {ratio.high:.2f})."
        )
    return "\n".join(lines)


# ----------------------------------------------------------------------------------- PyTorch


def _torch_training(args: argparse.Namespace) -> Any:
    """Returns the module with the PyTorch loop; a missing PyTorch is an error at once."""
    if not HAS_TORCH:
        raise UsageError("--torch needs PyTorch: run `pip install torch`, or leave --torch out.")
    plain = args.network == args.teacher == "resnet18" and args.method == "horkd"
    if not plain or (args.devices or len(jax.devices())) > 1:
        raise UsageError(
            "--torch compares HORKD with resnet18 on one device: add --devices=1 or leave it out."
        )
    from experiments.benchmarks import torch_training

    return torch_training


def _torch_program(
    torch_training: Any, run: Run, name: str, args: argparse.Namespace
) -> step_parts.Program:
    method: Any = run.plan.stages[name].method
    images = step_parts.train_images(run)
    return torch_training.training(
        images.images,
        images.labels,
        run.plan.order,
        {
            "feature": method.feature_weight,
            "pair": method.pair_weight,
            "triplet": method.triplet_weight,
            "center": method.center_weight,
        },
        width=args.width,
        resolution=args.resolution,
        bfloat16=args.dtype == "bfloat16",
        steps=args.steps,
    )


if __name__ == "__main__":
    sys.exit(main())
