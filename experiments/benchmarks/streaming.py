r"""Whether reading faces from the disk keeps the device busy.

    python experiments/benchmarks/streaming.py --path=lfw
    python experiments/benchmarks/streaming.py --path=faces_webface_112x112 --source=face_records

KDim's stage on a folder of faces (or a pack of insightface): images a second of the reader alone,
of the training step alone on images that lie on the device, and of both together in the loop. The
reader should be at least twice as fast as the step. Medians of rounds in turn; what a reader has
decoded ahead does not count. Defaults are KDim's networks, batch 64.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import ladder

from kd_jax import cli
from kd_jax.data import BatchOrder, Feed, Resident, Streamed
from kd_jax.pipeline import Run
from kd_jax.report import markdown
from kd_jax.training import EXECUTIONS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import tables  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", required=True, help="of the images")
    parser.add_argument("--source", default="face_folder", help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=[112, 96], help="middle of the images")
    parser.add_argument("--teacher", default="sphereface64", help="default: %(default)s")
    parser.add_argument("--student", default="sphereface36_thin", help="default: %(default)s")
    parser.add_argument("--width", type=float, default=1.0, help="of both (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=10, help="in a round (default: %(default)s)")
    parser.add_argument("--reads", type=int, default=60, help="batches of the reader in a round")
    parser.add_argument("--ahead", type=int, default=8, help="steps before, not measured")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        print(table(Run(config(args), folder), args))


def config(args: argparse.Namespace) -> dict:
    """KDim's stage on these images."""
    networks = f"teacher={args.teacher},student={args.student}"
    widths = f"width={args.width},teacher_width={args.width}"
    argument = (
        f"{networks},{widths},dtype={args.dtype},batch={args.batch},resolution={args.size[0]}"
    )
    values = tables.load_config(f"{ROOT}/configs/kdim/vggface2.py:{argument}").to_dict()
    source = {"name": args.source, "path": args.path, "size": tuple(args.size)}
    values["data"]["source"] |= source
    return values


def table(run: Run, args: argparse.Namespace) -> str:
    """Measures, and writes the table."""
    order, batch = run.plan.order, run.plan.order.batch_size
    few = Resident(run.plan.train.keep(order(0)).in_memory(), run.mesh)
    same = dataclasses.replace(order, num_examples=len(few))
    stage = run.plan.stages["kdim"]
    fresh, frozen = ladder.start(stage, run, few)
    run_steps, state = EXECUTIONS["jit"](stage, run.mesh), fresh()

    def read(feed: Feed, order: BatchOrder, step: int) -> None:
        feed.steps(order, step, 1)

    def train(feed: Feed, order: BatchOrder, step: int) -> None:
        nonlocal state
        rows = feed.steps(order, step, 1)
        state, metrics = run_steps(state, frozen, feed.images, rows)
        if jax.default_backend() == "cpu":  # where calls would pile up
            jax.block_until_ready(metrics)

    def rate(do, feed: Feed, order: BatchOrder, steps: int) -> float:
        """Images a second, after what a reader has decoded ahead is used up."""
        for step in range(args.ahead):
            do(feed, order, step)
        jax.block_until_ready(state)
        start = time.perf_counter()
        for step in range(args.ahead, args.ahead + steps):
            do(feed, order, step)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - start
        feed.close()  # or it would read on while others are measured
        return steps * batch / seconds

    rates = {"reader alone": [], "step alone": [], "both": []}
    for _ in range(args.rounds):
        rates["reader alone"].append(
            rate(read, Streamed(run.plan.train, run.mesh), order, args.reads)
        )
        rates["step alone"].append(rate(train, few, same, args.steps))
        rates["both"].append(rate(train, Streamed(run.plan.train, run.mesh), order, args.steps))
    found = {name: statistics.median(each) for name, each in rates.items()}
    rows = [
        [name, f"{one:,.0f}", f"{one / found['step alone']:.2f}"] for name, one in found.items()
    ]
    device = run.mesh.devices.flat[0].device_kind
    return (
        f"{args.teacher} -> {args.student}, width {args.width:g}, {args.size[0]}x{args.size[1]},"
        f" batch {batch}, {args.dtype}; {run.mesh.size} x {device}, jax {jax.__version__}\n\n"
        f"{markdown(('what', 'images/s', 'times the step'), rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())
