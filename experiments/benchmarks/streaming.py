r"""Whether reading faces from the disk keeps the device busy.

    python experiments/benchmarks/streaming.py --path=lfw
    python experiments/benchmarks/streaming.py --path=faces_webface_112x112 --source=face_records

KDim's stage on a folder of faces (or a pack of insightface): images a second of the reader alone,
of the training step alone on images that lie on the device, and of both together in the loop. The
reader should be at least twice as fast as the step. Medians of rounds in turn, after one that warms
up. Defaults are KDim's networks, batch 64.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from kd_jax import cli
from kd_jax.data import BatchOrder, Feed, Resident, Streamed
from kd_jax.devices import replicated
from kd_jax.pipeline import Run
from kd_jax.report import markdown
from kd_jax.training import EXECUTIONS, init_network, init_state

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
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up")
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
    few = run.plan.train.keep(order(0)).in_memory()
    feeds = {"step alone": Resident(few, run.mesh), "both": Streamed(run.plan.train, run.mesh)}
    orders = {"step alone": dataclasses.replace(order, num_examples=len(few)), "both": order}
    reader, train = Streamed(run.plan.train, run.mesh), _Steps(run)
    done = 0  # every round goes on where the one before ended, so that nothing is opened anew

    def reading() -> None:
        for step in range(done, done + args.steps):
            reader.steps(order, step, 1)

    runs = {"reader alone": reading}
    for name in feeds:
        runs[name] = functools.partial(
            lambda name: train(feeds[name], orders[name], done, args.steps), name
        )
    times = {name: [] for name in runs}
    for round in range(1 + args.rounds):
        for name, go in runs.items():
            start = time.perf_counter()
            go()
            if round:
                times[name].append(time.perf_counter() - start)
        done += args.steps
    reader.close()
    feeds["both"].close()
    rates = {name: args.steps * batch / statistics.median(each) for name, each in times.items()}
    rows = [
        [name, f"{rate:,.0f}", f"{rate / rates['step alone']:.2f}"] for name, rate in rates.items()
    ]
    device = run.mesh.devices.flat[0].device_kind
    return (
        f"{args.teacher} -> {args.student}, width {args.width:g}, {args.size[0]}x{args.size[1]},"
        f" batch {batch}, {args.dtype}; {run.mesh.size} x {device}, jax {jax.__version__}\n\n"
        f"{markdown(('what', 'images/s', 'times the step'), rows)}"
    )


class _Steps:
    """Steps of KDim's stage, on whatever feed."""

    def __init__(self, run: Run):
        stage, whole, example = run.plan.stages["kdim"], replicated(run.mesh), run.plan.example()

        def fresh():
            variables = {
                role: init_network(stage, role, example["image"]) for role in stage.networks
            }
            frozen = {role: variables[role] for role in stage.frozen}
            return init_state(stage, variables, example, {}), frozen

        self._state, self._frozen = jax.jit(fresh, out_shardings=whole)()
        self._run = EXECUTIONS["jit"](stage, run.mesh)

    def __call__(self, feed: Feed, order: BatchOrder, first: int, steps: int) -> None:
        for step in range(first, first + steps):
            rows = feed.steps(order, step, 1)
            self._state, metrics = self._run(self._state, self._frozen, feed.images, rows)
            if jax.default_backend() == "cpu":  # where calls would pile up
                jax.block_until_ready(metrics)
        jax.block_until_ready(self._state)


if __name__ == "__main__":
    sys.exit(main())
