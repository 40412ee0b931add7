"""Time from a face to its embedding, of a teacher and its student: KDim's factor of 3 (Table 9).

    python -m experiments.benchmarks.face_latency     # SphereFace-64 and the thin network
    taskset --cpu-list 0 python -m experiments.benchmarks.face_latency     # on one core of a CPU

The time from uint8 faces to embeddings, at batch 1 and 64, by default for 112x96 pixels. The paper
measures 35 ms for the student on an Intel CPU at 2.5 GHz. The times are medians of several runs in
turn, after runs that warm up.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import models
from kd_jax.commands import Parser, exit_code
from kd_jax.core.errors import UsageError
from kd_jax.core.text import markdown
from kd_jax.data.preprocessing import Normalization, View, Views

WARM_UP = 3
COLUMNS = ("network", "params", "batch", "ms", "ms per image", "times as fast")
PAPER = "The paper: 35 ms for the student, 132 ms for DCR, on one CPU at 2.5 GHz; 3 times as fast."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "")
    parser.add_argument("--teacher", default="sphereface64", help="default: %(default)s")
    parser.add_argument("--student", default="sphereface36_thin", help="default: %(default)s")
    parser.add_argument("--width", type=float, default=1.0, help="width of both networks")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="batch sizes")
    parser.add_argument("--size", type=int, nargs=2, default=[112, 96], help="height and width")
    parser.add_argument("--dtype", default="float32", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=15, help="default: %(default)s")
    args = parser.parse(argv)
    if args.teacher == args.student:
        raise UsageError(f"--teacher and --student are both {args.teacher}: choose two networks.")
    print(
        f"{args.size[0]}x{args.size[1]} pixels, {args.dtype}, width {args.width:g};"
        f" {jax.devices()[0].device_kind}, jax {jax.__version__}\n"
    )
    print(f"{table(args)}\n\n{PAPER}")


def table(args: argparse.Namespace) -> str:
    """Measures both networks and returns the table."""
    networks = {name: _network(name, args) for name in (args.teacher, args.student)}
    rows, rng = [], np.random.default_rng(0)
    for batch in args.batches:
        images = rng.integers(0, 256, (batch, *args.size, 3), dtype=np.uint8)
        times: dict[str, list[float]] = {name: [] for name in networks}
        for i in range(WARM_UP + args.repeats):
            for name, (run, _) in networks.items():
                start = time.perf_counter()
                jax.block_until_ready(run(images))
                if i >= WARM_UP:
                    times[name].append(1e3 * (time.perf_counter() - start))
        ratios = [a / b for a, b in zip(times[args.teacher], times[args.student], strict=True)]
        for name, (_, params) in networks.items():
            ms = statistics.median(times[name])
            ratio = f"{statistics.median(ratios):.1f}" if name == args.student else "1"
            rows.append([name, f"{params:,}", str(batch), f"{ms:.2f}", f"{ms / batch:.2f}", ratio])
    return markdown(COLUMNS, rows)


def _network(name: str, args: argparse.Namespace) -> tuple[Callable[[np.ndarray], Any], int]:
    """Returns a program from uint8 images to embeddings, and the backbone's parameter count."""
    module = models.create(name, num_classes=1, width=args.width, dtype=args.dtype)
    views = Views({"student": View(tuple(args.size), Normalization((0.5,), (128 / 255,)))})
    example = jnp.zeros((1, *args.size, 3))
    variables = jax.jit(lambda: module.init(jax.random.key(0), example, train=False))()

    @jax.jit
    def run(variables: Any, images: jax.Array) -> jax.Array:
        outputs: Any = module.apply(variables, views.evaluation(images)["student"], train=False)
        return outputs.embedding

    backbone = {key: value for key, value in variables["params"].items() if key != "classifier"}
    params = sum(leaf.size for leaf in jax.tree.leaves(backbone))
    return (lambda images: run(variables, images)), params


if __name__ == "__main__":
    sys.exit(main())
