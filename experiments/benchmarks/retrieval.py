"""Time and memory of Recall@K in large galleries, compared with faiss's exact search.

    python -m experiments.benchmarks.retrieval
    python -m experiments.benchmarks.retrieval --sizes 1000000 --queries=4000

Random embeddings of classes of 10 images; each image queries all others. A run with few queries is
subtracted from a run with `--queries` of them, and the time of all queries is in proportion; the
rest is the time to set up the gallery. The times are those of the clock and those of all threads
(CPU), which depend less on other programs. Each measurement is in a process of its own. Its memory
is the peak of the process minus the one before the measurement, when the process holds the
embeddings. faiss is optional: `pip install faiss-cpu`.
"""

import argparse
import gc
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

if not __package__:
    raise SystemExit(
        "error: run `python -m experiments.benchmarks.retrieval` in the repository root."
    )

from experiments.benchmarks.timing import load
from kd_jax.commands import Parser, exit_code
from kd_jax.core.errors import UsageError
from kd_jax.core.text import markdown
from kd_jax.evaluation._embeddings import as_directions
from kd_jax.evaluation.mate_ranks import LabeledSet, mate_ranks

PER_CLASS = 10
_BLOCK = 10**4
NOISE = 1.6
"""Standard deviation of the images of a class, for class centers of standard deviation 1."""
FEW = 1024
"""Number of queries of the shorter run."""
COLUMNS = (
    *("images", "queries run", "by", "set up [s]", "all queries [s]", "CPU [s]"),
    *("CPU per score [ns]", "memory [MiB]", "R@1"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "")
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="numbers of images")
    add("--dim", type=int, default=128, help="columns of the embeddings (default: %(default)s)")
    add("--queries", type=int, default=10**4, help="most queries (default: %(default)s)")
    add("--ks", type=int, nargs="+", default=[1, 2, 4, 8], help="values of K (default: 1 2 4 8)")
    add("--only", choices=("kd_jax", "faiss"), help="measure one library in this process")
    args = parser.parse(argv)
    most = min([*args.sizes, args.queries])
    if most < 100 or args.dim < 1 or not all(1 <= k < most for k in args.ks):
        raise UsageError(
            "--sizes and --queries must be 100 or more, --dim 1 or more, and --ks 1 or more and"
            " less than these."
        )
    if args.only is not None:
        print(json.dumps(measured(args.only, args.sizes[0], args)))
        return
    libraries = ["kd_jax"] + ["faiss"] * (importlib.util.find_spec("faiss") is not None)
    print(f"{args.dim} columns, K = {args.ks}; {jax.devices()[0].device_kind}, {load()}\n")
    rows = []
    for size in args.sizes:
        for library in libraries:
            found = _in_process(library, size, args)
            rows.append(
                [
                    f"{size:,}",
                    f"{found['queries']:,}",
                    library,
                    f"{found['set_up']:.2f}",
                    f"{found['seconds']:.2f}",
                    f"{found['threads']:.2f}",
                    f"{1e9 * found['threads'] / size**2:.2f}",
                    f"{found['memory'] / 2**20:.0f}",
                    f"{100 * found['recall_at_1']:.2f}",
                ]
            )
    print(markdown(COLUMNS, rows))
    print(f"\n{load()}")


def _in_process(library: str, size: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measures in a process of its own, so that its memory is that of one measurement."""
    command = [sys.executable, "-m", "experiments.benchmarks.retrieval", f"--only={library}"]
    command += [f"--sizes={size}", f"--dim={args.dim}", f"--queries={args.queries}"]
    done = subprocess.run(
        [*command, "--ks", *map(str, args.ks)], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def images(size: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings, float32 `[size, dim]`, and their classes, made in blocks."""
    labels = np.arange(size) // PER_CLASS
    rows = np.empty((size, dim), np.float32)
    for start in range(0, size, _BLOCK):
        block = labels[start : start + _BLOCK]
        rng = np.random.default_rng(start)
        centers = rng.standard_normal((len(np.unique(block)), dim), np.float32)
        rows[start : start + len(block)] = centers[block - block[0]]
        rows[start : start + len(block)] += NOISE * rng.standard_normal((len(block), dim), "f4")
    return rows, labels


def measured(library: str, size: int, args: argparse.Namespace) -> dict[str, float]:
    """Returns seconds, bytes and Recall@1 of one library."""
    rows, labels = images(size, args.dim)
    run = by_faiss if library == "faiss" else by_kd_jax
    all_of_them = np.arange(min(size, args.queries))
    few = all_of_them[: min(FEW, len(all_of_them) // 2)]
    before = _peak()
    run(rows, labels, few, args.ks)  # compiles, and loads the library
    times, recall = [], 0.0
    for queries in (few, all_of_them):
        gc.collect()  # JAX frees the gallery of the run before
        start, start_of_threads = time.perf_counter(), time.process_time()
        recall = run(rows, labels, queries, args.ks)
        times.append((time.perf_counter() - start, time.process_time() - start_of_threads))
    (fixed, _), (clock, threads) = times[0], np.subtract(times[1], times[0])
    more = len(all_of_them) - len(few)
    return {
        "queries": len(all_of_them),
        "set_up": max(0.0, fixed - clock * len(few) / more),
        "seconds": clock * size / more,
        "threads": threads * size / more,
        "memory": _peak() - before,
        "recall_at_1": recall,
    }


def _peak() -> int:
    """Returns the greatest resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def by_kd_jax(
    rows: np.ndarray, labels: np.ndarray, queries: np.ndarray, ks: Sequence[int]
) -> float:
    """Returns Recall@1."""
    known = LabeledSet(as_directions(rows, "embeddings"), labels)
    asked = LabeledSet(known.directions.keep(queries), labels[queries])
    ranks = mate_ranks(asked, known, own=queries, ks=ks)
    return float(np.mean(ranks[:, 0] <= 1))


def by_faiss(rows: np.ndarray, labels: np.ndarray, queries: np.ndarray, ks: Sequence[int]) -> float:
    """Returns Recall@1 by faiss's exact search of the nearest images."""
    import faiss

    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(units)
    _, found = index.search(units[queries], max(ks) + 1)
    others = found != queries[:, np.newaxis]
    first = found[np.arange(len(found)), others.argmax(axis=1)]
    return float(np.mean(labels[first] == labels[queries]))


if __name__ == "__main__":
    sys.exit(main())
