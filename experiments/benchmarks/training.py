"""What the training loop costs beyond its networks: images a second, part by part.

    python experiments/benchmarks/training.py                # 4 minutes on 2 CPU cores
    python experiments/benchmarks/training.py --torch        # and a plain PyTorch loop beside it
    python experiments/benchmarks/training.py --method=evolutionary --teacher=resnet50

One stage of a CIFAR-100 config. HORKD's: a student at low resolution, and its assistant, frozen, at
32x32. EKD's: a student and a teacher that learns beside it, with their guided modules. Random
images of CIFAR-100's size and number; nothing is downloaded. Each line of the table adds one part
to the line before, down to the loop that `python -m kd_jax.train` runs (without evaluation and
saving, which come once an epoch). The lines run in turn, round after round, and a cost is the
median over the rounds of a difference within a round, so that other programs on the machine fall on
all lines alike; the parts therefore add up only nearly. On accelerators the last two lines run many
steps a call and the others one: a loop that is faster than its bare networks is then no mistake.

The share of the chip's peak counts the networks' operations only, in the time of the whole loop.
PyTorch is optional: `pip install torch`.
"""

import argparse
import os
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import ladder

from kd_jax import cli
from kd_jax.errors import UsageError
from kd_jax.pipeline import Run


class Method(NamedTuple):
    """What may be trained.

    Attributes:
        config: file in `configs/`.
        words: for the report.
        target: greatest extra cost of the loop, in per cent of the bare networks.
    """

    config: str
    words: str
    target: float


METHODS = {
    "hybrid_order": Method(
        "horkd/cifar100.py", "{network} at {resolution}x{resolution}, frozen assistant at 32x32", 5
    ),
    "evolutionary": Method(
        "ekd/cifar100.py",
        "{network} and its evolving teacher {teacher} at {resolution}x{resolution}",
        15,
    ),
}

PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
    "TPU v4": 275e12,
    "TPU v5": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}
"""Dense bfloat16 operations a second, by the beginning of JAX' `device_kind`; the makers' data."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.command(lambda: _run(_parse(argv)))


def parser(doc: str, **options) -> argparse.ArgumentParser:
    """The options of what measures whole stages."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )
    parser.add_argument("--network", default="resnet18", help="of the student")
    parser.add_argument("--teacher", help="of EKD (default: the student's network)")
    parser.add_argument("--width", type=float, default=1.0, help="of both")
    parser.add_argument("--resolution", type=int, default=16, help="of what the student sees")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch, on all devices")
    parser.add_argument("--steps", type=int, help="in a round (default: 3 on the CPU, else 100)")
    parser.add_argument("--rounds", type=int, default=9, help="after one that warms up")
    parser.add_argument("--dtype", help="default: float32 on the CPU, else bfloat16")
    parser.add_argument("--devices", type=int, help="default: all")
    parser.add_argument("--images", type=int, default=50_000, help="in the training set")
    return parser


def settle(args: argparse.Namespace) -> argparse.Namespace:
    """Fills in the defaults that depend on the device or on other options."""
    on_cpu = jax.default_backend() == "cpu"
    args.teacher = args.teacher or args.network
    args.steps = args.steps or (3 if on_cpu else 100)
    args.dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    return args


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--method", choices=list(METHODS), default="hybrid_order")
    options.add_argument("--torch", action="store_true", help="compare with PyTorch")
    args = options.parse_args(argv)
    if args.torch:  # otherwise JAX takes most of a GPU's memory at once
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return settle(args)


def _run(args: argparse.Namespace) -> None:
    torch_loop = _torch_loop(args) if args.torch else None
    with tempfile.TemporaryDirectory() as folder:
        run = experiment(args, Path(folder), METHODS[args.method].config)
        name = run.spec.pipeline[-1]
        rungs, flops = ladder.ladder(run, name, args.steps)
        if torch_loop:
            rungs["PyTorch"] = _torch_rung(torch_loop, run, name, args)
        times = measure(rungs, args.steps, args.rounds)
    kind = run.mesh.devices.flat[0].device_kind
    print(
        f"{METHODS[args.method].words.format(**vars(args))}, width {args.width:g}, {args.dtype},"
        f" batch {args.batch}; {run.mesh.size} x {kind}, jax {jax.__version__}\n"
    )
    print(report(times, args.batch, flops, kind, METHODS[args.method].target))
    if hasattr(os, "getloadavg"):
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        print(f"Load of the machine's {os.cpu_count()} cores: {load} (1, 5, 15 minutes).")


def experiment(
    args: argparse.Namespace,
    folder: Path,
    config: str,
    *more_arguments: str,
    size: tuple[int, int] = (32, 32),
) -> Run:
    """A config's stages on random images of a size, checked and made."""
    ladder.write_images(folder / "images.npz", args.images, size)
    path = Path(__file__).parents[2] / "configs" / config
    argument = (
        f"student={args.network},teacher={args.teacher},resolution={args.resolution}"
        f",width={args.width},dtype={args.dtype}"
    )
    argument = ",".join([argument, *more_arguments])
    values = runpy.run_path(str(path))["get_config"](argument).to_dict()
    values["data"] |= {
        "source": {"name": "npz", "path": str(folder / "images.npz")},
        "stream": False,
        "test_split": "train[:1]",
        "batch_size": args.batch,
        "eval_batch_size": args.batch,
    }
    values["num_devices"] = args.devices
    for stage in values["stages"].values():  # nothing can be learnt here, so nothing may diverge
        stage["optimizers"]["default"]["learning_rate"] = 1e-4
    return Run(values, folder / "run")


# ------------------------------------------------------------------------------- measurement


def measure(
    rungs: Mapping[str, Callable[[], None]], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds a step of each rung in each round; one more round warms up."""
    times = {name: [] for name in rungs}
    for i in range(1 + rounds):
        # forwards and backwards in turn, so that no rung always follows the same one
        for name in sorted(rungs, key=list(rungs).index, reverse=bool(i % 2)):
            start = time.perf_counter()
            rungs[name]()
            if i:
                times[name].append(1e3 * (time.perf_counter() - start) / steps)
    return times


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of some measurements."""
    if len(values) == 1:
        return Spread(*values * 3)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def extra(times: Mapping[str, Sequence[float]], name: str, before: str) -> Spread:
    """What a rung costs more than another, in per cent of the bare networks."""
    each = zip(times[name], times[before], times["networks"], strict=True)
    return spread([100 * (a - b) / bare for a, b, bare in each])


def peak(kind: str) -> float | None:
    """Operations a second of a device kind, by the longest name that fits."""
    fits = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(fits, key=len)] if fits else None


# ------------------------------------------------------------------------------------ report


def report(
    times: Mapping[str, Sequence[float]],
    batch: int,
    flops: float | None,
    kind: str,
    target: float = 5,
) -> str:
    """The table, and what follows from it.

    Args:
        times: milliseconds a step, by rung and round.
        batch: images a step.
        flops: operations of the networks in a step, on one device.
        kind: of the device.
        target: greatest extra cost of the loop, in per cent.
    """
    lines = [
        "| part             | ms a step | quartiles       |     least |   images/s |  it adds |",
        "| ---------------- | --------: | :-------------- | --------: | ---------: | -------: |",
    ]
    names = [name for name in times if name != "PyTorch"]
    for i, name in enumerate(times):
        each, adds = spread(times[name]), ""
        if 0 < i < len(names):
            adds = f"{extra(times, name, names[i - 1]).median:+.1f} %"
        label = name if i in (0, len(names)) else f"+ {name}"
        quartiles = f"{each.low:.2f} - {each.high:.2f}"
        speed = f"{1e3 * batch / each.median:,.0f}"
        lines.append(
            f"| {label:<16} | {each.median:9.2f} | {quartiles:<15} | {min(times[name]):9.2f}"
            f" | {speed:>10} | {adds:>8} |"
        )
    total = extra(times, names[-1], names[0])
    least = 100 * (min(times[names[-1]]) / min(times[names[0]]) - 1)
    lines += [
        "",
        f"The whole loop costs {total.median:+.1f} % more than its networks (quartiles"
        f" {total.low:+.1f} to {total.high:+.1f} %; by each one's fastest round {least:+.1f} %;"
        f" target: at most {target:g} %).",
    ]
    seconds = spread(times[names[-1]]).median / 1e3
    if flops is not None:
        top = peak(kind)
        share = f"{flops / seconds / top:.1%}" if top else "-"
        lines.append(
            f"Networks: {flops / 1e9:.1f} GFLOP a step and device,"
            f" {flops / seconds / 1e12:.3g} TFLOP/s in the loop; share of the chip's bfloat16"
            f" peak: {share}."
        )
    if "PyTorch" in times:
        ratio = spread([b / a for a, b in zip(times[names[-1]], times["PyTorch"], strict=True)])
        lines.append(
            f"kd_jax's loop runs {ratio.median:.2f} times as many images/s as PyTorch's (quartiles"
            f" {ratio.low:.2f} to {ratio.high:.2f})."
        )
    return "\n".join(lines)


# ----------------------------------------------------------------------------------- PyTorch


def _torch_loop(args: argparse.Namespace):
    """The module with the PyTorch loop; found missing before anything is measured."""
    try:
        import torch_loop
    except ImportError as error:
        raise UsageError(
            f"--torch needs PyTorch ({error}): pip install torch, or leave --torch out."
        ) from error
    plain = args.network == args.teacher == "resnet18" and args.method == "hybrid_order"
    if not plain or (args.devices or len(jax.devices())) > 1:
        raise UsageError(
            "--torch compares HORKD with resnet18 on one device: add --devices=1 or leave it out."
        )
    return torch_loop


def _torch_rung(torch_loop, run: Run, name: str, args: argparse.Namespace):
    method = run.plan.stages[name].method
    return torch_loop.training(
        run.plan.train.images,
        run.plan.train.labels,
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
