r"""Speed of reading faces from the disk, compared with the training step.

    python -m experiments.benchmarks.face_reading --path=lfw
    python -m experiments.benchmarks.face_reading --path=faces_webface_112x112 --source=face_records

It measures KDim's stage on a folder of faces, or a pack of insightface: images per second of the
reader alone, of the training step alone with images that are on the device, and of both together in
the loop. The reader should be at least twice as fast as the step. The numbers are medians of rounds
in turn, without the images that a reader has decoded in advance. The defaults are KDim's networks
and batches of 64.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax

if not __package__:
    raise SystemExit(
        "error: run `python -m experiments.benchmarks.face_reading` in the repository root."
    )

from experiments.benchmarks import step_parts
from kd_jax.commands import Parser, exit_code
from kd_jax.core.text import markdown
from kd_jax.data import BatchOrder, Loader, ResidentLoader, StoredImages, StreamedLoader
from kd_jax.experiment.config_files import load_config
from kd_jax.experiment.run import Run
from kd_jax.training.execution import EXECUTIONS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "", "python -m experiments.benchmarks.face_reading --path=lfw")
    add = parser.add_argument
    add("--path", help="path of the images")
    add("--source", default="face_folder", help="source of the images (default: %(default)s)")
    add("--size", type=int, nargs=2, default=[112, 96], help="height and width of their center")
    add("--teacher", default="sphereface64", help="default: %(default)s")
    add("--student", default="sphereface36_thin", help="default: %(default)s")
    add("--width", type=float, default=1.0, help="width of both networks (default: %(default)s)")
    add("--dtype", default="bfloat16", help="default: %(default)s")
    add("--batch", type=int, default=64, help="default: %(default)s")
    add("--steps", type=int, default=10, help="steps per round (default: %(default)s)")
    add("--reads", type=int, default=60, help="batches of the reader alone per round")
    add("--ahead", type=int, default=8, help="steps before a measurement (default: %(default)s)")
    add("--rounds", type=int, default=3, help="default: %(default)s")
    args = parser.parse(argv)
    parser.require(args, "path")
    with tempfile.TemporaryDirectory() as folder:
        print(table(Run(config(args), folder), args))


def config(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the config with KDim's stage on these images."""
    networks = f"teacher={args.teacher},student={args.student}"
    widths = f"width={args.width},teacher_width={args.width}"
    numbers = f"dtype={args.dtype},batch={args.batch},resolution={args.size[0]}"
    values = load_config(f"kdim/vggface2:{networks},{widths},{numbers}").to_dict()
    source = {"name": args.source, "path": args.path, "size": tuple(args.size)}
    values["data"]["source"] = source
    return values


def table(run: Run, args: argparse.Namespace) -> str:
    """Measures the reader and the step, and returns the table."""
    order, stored = run.plan.order, cast(StoredImages, run.plan.images["train"])
    few = ResidentLoader(stored.keep(order(0)).in_memory(), run.mesh)
    same = dataclasses.replace(order, num_examples=len(few))
    stage = run.plan.stages["kdim"]
    fresh, frozen = step_parts.start(stage, run, few)
    run_steps, state = EXECUTIONS["jit"](stage, run.mesh, 1), fresh()

    def read(loader: Loader, order: BatchOrder, step: int) -> None:
        loader.steps(order, step, 1)

    def train(loader: Loader, order: BatchOrder, step: int) -> None:
        nonlocal state
        rows = loader.steps(order, step, 1)
        state, metrics = run_steps(state, frozen, loader.images, rows)
        if jax.default_backend() == "cpu":  # otherwise too many calls would wait
            jax.block_until_ready(metrics)

    def rate(
        do: Callable[[Loader, BatchOrder, int], None], loader: Loader, order: BatchOrder, steps: int
    ) -> float:
        """Returns images per second, after the images that were decoded in advance."""
        for step in range(args.ahead):
            do(loader, order, step)
        jax.block_until_ready(state)
        start = time.perf_counter()
        for step in range(args.ahead, args.ahead + steps):
            do(loader, order, step)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - start
        loader.close()  # otherwise it would read during the next measurement
        return steps * order.batch_size / seconds

    rates: dict[str, list[float]] = {"reader alone": [], "step alone": [], "both": []}
    for _ in range(args.rounds):
        reader = StreamedLoader(stored, run.mesh)
        rates["reader alone"].append(rate(read, reader, order, args.reads))
        rates["step alone"].append(rate(train, few, same, args.steps))
        rates["both"].append(rate(train, StreamedLoader(stored, run.mesh), order, args.steps))
    found = {name: statistics.median(each) for name, each in rates.items()}
    rows = [
        [name, f"{one:,.0f}", f"{one / found['step alone']:.2f}"] for name, one in found.items()
    ]
    device = run.mesh.devices.flat[0].device_kind
    return (
        f"{args.teacher} -> {args.student}, width {args.width:g}, {args.size[0]}x{args.size[1]},"
        f" batch {order.batch_size}, {args.dtype}; {run.mesh.size} x {device},"
        f" jax {jax.__version__}\n\n{markdown(('measured', 'images/s', 'times the step'), rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())
