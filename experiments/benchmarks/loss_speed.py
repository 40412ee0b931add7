"""Time and memory of the losses: value and gradient of each loss, in kd_jax and in plain PyTorch.

    python -m experiments.benchmarks.loss_speed                # all losses
    python -m experiments.benchmarks.loss_speed --only mk_mmd rkd_distance --rows 64x512 512x2048
    python -m experiments.benchmarks.loss_speed --only rkd_angle --angles 2048x512  # kd_jax alone
    OMP_WAIT_POLICY=PASSIVE python -m ...                      # on CPU cores with other work

It runs on the device of JAX. The gradient is with respect to the trained inputs: the features of
the student, in CRD also the embeddings of the teacher, in VID also the variances. Values and
gradients must agree with those of PyTorch (`torch_losses`), which computes in float32 without
TensorFloat-32, as kd_jax does. The times are the least of several runs in turn; only their ratios
mean anything. PyTorch's threads wait for each other in busy loops. Where other programs use a core,
this makes PyTorch up to 100 times slower, unless OMP_WAIT_POLICY=PASSIVE lets the threads sleep,
which costs little.

For losses of the Gram matrix of a batch, `products` is the time of the matrix products alone, those
of the value and one or two for the gradient: a lower bound. For losses of angles, `bound` is the
time of their arithmetic at the float32 peak of the chip. `temporary` is the memory of kd_jax in
addition to inputs and outputs. PyTorch forms N^3 angles; kd_jax runs alone beyond `--cubes` images.

PyTorch is optional: `pip install torch` (on a CPU with
`--index-url https://download.pytorch.org/whl/cpu`).
"""

import argparse
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

if not __package__:
    raise SystemExit(
        "error: run `python -m experiments.benchmarks.loss_speed` in the repository root."
    )

from experiments.benchmarks import peaks, timing
from experiments.benchmarks.loss_cases import CASES, SIZES, Arrays
from kd_jax.commands import Parser, exit_code
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.text import markdown

HAS_TORCH = importlib.util.find_spec("torch") is not None

OPERATIONS = 2 * (2 + 2) + 1 + 2 + 3 + 1 + 2 * (3 + 1) + (1 + 1)
"""Number of operations per distinct triplet, by `kd_jax/losses/_triplets.py`.

Each network: 2 for an angle and 2 for a cosine. The gap 1, the clip 2, the loss 3, its sum 1. Each
of the student's two sides at j: 3 and a sum; the third side: 1 and a sum. The kernel does twice as
much, because it forms every triplet twice (with i and k exchanged).
"""

TOLERANCE = 1e-3
"""Greatest distance of value and gradient from PyTorch's, relative to their norm."""

COLUMNS = {
    "kd_jax [ms]": ".2f",
    "PyTorch [ms]": ".2f",
    "kd_jax / PyTorch": ".2f",
    "compile [s]": ".2f",
    "temporary [MiB]": ".1f",
    "products [ms]": ".2f",
    "bound [ms]": ".3f",
}
"""Columns of numbers, and their formats."""


# ------------------------------------------------------------------------------- measurement


class Compiled(NamedTuple):
    """A compiled function and its inputs.

    Attributes:
        run: runs it and returns its results.
        seconds: time of the compilation.
        temporary: bytes of memory in addition to inputs and outputs, if XLA knows them.
    """

    run: Callable[[], Any]
    seconds: float
    temporary: int | None


def compiled(function: Callable[..., Any], inputs: Arrays) -> Compiled:
    """Compiles a function for the default device of JAX, which gets the inputs."""
    inputs = jax.block_until_ready(jax.device_put(inputs))
    start = time.perf_counter()
    program = jax.jit(function).lower(*inputs).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    temporary = getattr(memory, "temp_size_in_bytes", None)
    return Compiled(lambda: jax.block_until_ready(program(*inputs)), seconds, temporary)


def in_torch(name: str, inputs: Arrays) -> Callable[[], Any]:
    """Returns a program for value and gradient of a loss in PyTorch, on the device of JAX."""
    import torch

    from experiments.benchmarks import torch_losses, torch_maps, torch_metrics

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"

    def tensor(x: np.ndarray) -> torch.Tensor:
        x = x.astype(np.int64) if x.dtype == np.int32 else x
        x = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
        return torch.from_numpy(np.ascontiguousarray(x)).to(device)

    modules = (torch_losses, torch_maps, torch_metrics)
    loss = next(getattr(module, name) for module in modules if hasattr(module, name))
    tensors = jax.tree.map(tensor, inputs)
    trained = [x.requires_grad_() for x in jax.tree.leaves(tensors[0])]

    def run() -> Any:
        value = loss(*tensors)
        gradients = torch.autograd.grad(value, trained)
        if device == "cuda":
            torch.cuda.synchronize()
        return value.detach(), gradients

    return run


def disagreement(ours: Any, theirs: Any) -> float:
    """Returns the greatest distance from PyTorch's results, relative to the norm of the latter."""

    def distance(a: Any, b: Any) -> float:
        b = b.permute(0, 2, 3, 1) if b.ndim == 4 else b
        a, b = np.asarray(a, np.float64), np.asarray(b.cpu(), np.float64)
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(distance(a, b) for a, b in pairs)


def least(programs: Mapping[str, timing.Program], repeats: int) -> dict[str, float]:
    """Returns the least milliseconds of each program over `repeats` turns, after a warm-up turn.

    In a turn each program runs twice. The first run may have to wait for PyTorch's threads, which
    are busy for some milliseconds after their work, and for its data to return into the cache.
    """
    twice = {f"{name} {i}": run for name, run in programs.items() for i in range(2)}
    times = timing.fastest(twice, repeats)
    return {name: min(times[f"{name} 0"], times[f"{name} 1"]) for name in programs}


def measured(
    name: str, size: Sequence[int], cubes: int, repeats: int
) -> tuple[list[float | None], float | None]:
    """Returns the numbers of a line, and the disagreement with PyTorch if that is installed."""
    case, rng = CASES[name], np.random.default_rng(0)
    inputs = case.inputs(lambda *shape: rng.standard_normal(shape, np.float32), *size)
    kernel = compiled(jax.value_and_grad(lambda *arrays: case.loss(*arrays).mean()), inputs)
    programs: dict[str, timing.Program] = {"kd_jax": kernel.run}
    gap = None
    if HAS_TORCH and not (case.angles and size[0] > cubes):
        programs["torch"] = in_torch(name, inputs)
        gap = disagreement(kernel.run(), programs["torch"]())
    if case.products:
        programs["products"] = compiled(case.products, inputs).run
    ms = least(programs, repeats)
    if (turns := min(100, int(1000 / sum(ms.values())))) > repeats:  # for about two seconds
        ms = least(programs, turns)
    top = peaks.peak(jax.devices()[0].device_kind, peaks.FLOAT32)
    numbers = [
        ms["kd_jax"],
        ms.get("torch"),
        ms["kd_jax"] / ms["torch"] if "torch" in ms else None,
        kernel.seconds,
        None if kernel.temporary is None else kernel.temporary / 2**20,
        ms.get("products"),
        1e3 * OPERATIONS * math.comb(size[0], 3) * 3 / top if top and case.angles else None,
    ]
    return numbers, gap


# ------------------------------------------------------------------------------ command line


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if a loss differs from PyTorch's, 2 for a wrong option."""
    wrong = 0

    def run() -> None:
        nonlocal wrong
        wrong = _run(_parse(argv))

    return exit_code(run) or int(wrong > 0)


def _run(args: argparse.Namespace) -> int:
    """Prints the table; returns the number of losses that differ from PyTorch's."""
    rows, gaps, wrong = [], [], 0
    for name in args.only:
        for size in [size for kind in CASES[name].sizes for size in getattr(args, kind)]:
            numbers, gap = measured(name, size, args.cubes, args.repeats)
            pairs = zip(numbers, COLUMNS.values(), strict=True)
            rows.append([name, "x".join(map(str, size))])
            rows[-1] += ["-" if x is None else format(x, form) for x, form in pairs]
            print(*rows[-1], file=sys.stderr, flush=True)
            if gap is None:
                continue
            gaps.append(gap)
            if not gap <= TOLERANCE:  # also if it is NaN
                wrong += 1
                print(f"error: {name} differs from PyTorch's by {gap:.1e}", file=sys.stderr)

    version = "no PyTorch: run `pip install torch`"
    if HAS_TORCH:
        import torch

        version = f"PyTorch {torch.__version__}"
    kind = jax.devices()[0].device_kind
    print(f"{kind}, jax {jax.__version__}, {version}; float32. {timing.load()}")
    print("\n" + markdown(["loss", "size", *COLUMNS], rows, left=2))
    if gaps and not wrong:
        print(f"\nValues and gradients are PyTorch's to {max(gaps):.0e} of their norms.")
    return wrong


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__ or "")
    parser.add_argument("--only", nargs="+", default=list(CASES), metavar="LOSS", help="losses")
    parser.add_argument("--repeats", type=int, default=3, help="least number of turns")
    parser.add_argument("--cubes", type=int, help="PyTorch's greatest N for angles (256; GPU: 512)")
    for name, (form, default, meaning) in SIZES.items():
        text = ", ".join("x".join(map(str, size)) for size in default)
        parser.add_argument(
            f"--{name}", type=_size(form), nargs="+", metavar=form, help=f"{meaning} ({text})"
        )
    args = parser.parse(argv)
    for name in args.only:
        check_choice(name, CASES, "--only")
    # Otherwise JAX takes most of a GPU's memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    on_gpu = jax.default_backend() == "gpu"
    if HAS_TORCH:
        import torch

        if jax.default_backend() != "cpu" and not (on_gpu and torch.cuda.is_available()):
            raise UsageError(
                "PyTorch cannot use the device of JAX: install a PyTorch that can, or uninstall it."
            )
        torch.set_float32_matmul_precision("highest")
    args.cubes = args.cubes or (512 if on_gpu else 256)
    if on_gpu and not args.angles:
        args.angles = [*SIZES["angles"][1], (512, 512)]
    for name, (_, sizes, _) in SIZES.items():
        setattr(args, name, getattr(args, name) or sizes)
    return args


def _size(form: str) -> Callable[[str], tuple[int, ...]]:
    def size(text: str) -> tuple[int, ...]:
        try:
            numbers = tuple(map(int, text.split("x")))
        except ValueError:
            numbers = ()
        if len(numbers) != form.count("x") + 1 or min(numbers) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
        return numbers

    return size


if __name__ == "__main__":
    sys.exit(main())
