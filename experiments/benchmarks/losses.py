"""What the losses cost: value and gradient of each kernel of kd_jax, and of plain PyTorch.

    python experiments/benchmarks/losses.py                    # all of them
    python experiments/benchmarks/losses.py --only mk_mmd rkd_distance --rows 64x512 512x2048
    python experiments/benchmarks/losses.py --only rkd_angle --angles 2048x512  # kd_jax alone
    OMP_WAIT_POLICY=PASSIVE python ...                         # on CPU cores with other work

On what device JAX has. The gradient is that of what is trained: the student's features, and in CRD
the teacher's embeddings, in VID the variances too. Values and gradients must agree with PyTorch's
(torch_losses.py), which computes in float32 without TensorFloat-32 as kd_jax does. Times are the
least of several runs taken in turn; only their ratio means anything. PyTorch's threads spin while
they wait for each other: where other programs take a core, that makes it up to 100 times slower,
unless OMP_WAIT_POLICY tells them to sleep, which costs it little.

For losses of a batch's Gram matrix, `products` is the time of its bare matrix products, those for
the value and one or two for the gradient: the floor. For losses of angles, `bound` is the time of
their arithmetic at the chip's float32 peak. `temporary` is kd_jax's memory beside inputs and
outputs. PyTorch forms N^3 angles, so beyond `--cubes` images kd_jax runs alone.

PyTorch is optional: `pip install torch` (on a CPU with
`--index-url https://download.pytorch.org/whl/cpu`).
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax.report import markdown

try:
    import torch
    import torch_losses
except ImportError:
    torch = None

SIZES = {
    "rows": ("NxD", [(512, 2048)], "embeddings"),
    "angles": ("NxD", [(64, 512), (256, 512)], "embeddings for losses of triplets"),
    "logits": ("NxC", [(512, 1000)], "logits"),
    "maps": ("NxHxCxC'", [(64, 8, 256, 512)], "maps; the teacher's C' is C where it must be"),
    "memory": ("NxDxnxK", [(64, 128, 50_000, 16_384)], "embeddings, memory and negatives of CRD"),
}
"""Form, default and meaning of each kind of input."""

PEAKS = {
    "NVIDIA A100": 19.5e12,
    "NVIDIA H100": 67e12,
    "NVIDIA H100 NVL": 60e12,
    "NVIDIA H100 PCIe": 51e12,
    "NVIDIA H200": 67e12,
    "NVIDIA H200 NVL": 60e12,
}
"""Float32 operations a second outside tensor cores, by the beginning of JAX' `device_kind`."""

# Of one distinct triplet, by `_triplets.py`: each network's angle 2 and cosine 2; gap 1, clip 2,
# loss 3 and its sum 1; by each of the student's two sides at j 3 and a sum, by the third 1 and a
# sum. The kernel does twice as much, because it forms every triplet twice (i and k exchanged).
OPERATIONS = 2 * (2 + 2) + 1 + 2 + 3 + 1 + 2 * (3 + 1) + (1 + 1)

TOLERANCE = 1e-3
"""Greatest distance of value and gradient from PyTorch's, relative to their norm."""


class Case(NamedTuple):
    """A loss as it is measured.

    Attributes:
        loss: scalar or one an image, of `inputs`' arrays; the first, or its leaves, are trained.
        sizes: names in SIZES.
        inputs: makes the arrays, from a function that draws normal numbers and one of the sizes.
        products: the bare matrix products of the loss, of `inputs`' arrays.
        angles: whether it is of all triplets.
    """

    loss: Callable[..., jax.Array]
    sizes: Sequence[str]
    inputs: Callable[..., tuple]
    products: Callable[..., Any] | None = None
    angles: bool = False


# ------------------------------------------------------------------------------------ inputs


def _pair(normal, *size):
    return normal(*size), normal(*size)


def _centered(normal, n, width):
    return *_pair(normal, n, width), normal(100, width)


def _labels(n, classes):
    return (np.arange(n) % classes).astype(np.int32)


def _cosines(normal, n, classes):
    return np.tanh(normal(n, classes)), _labels(n, classes)


def _cosines_and_norms(normal, n, classes):
    return np.tanh(normal(n, classes)), 10 + normal(n), _labels(n, classes)


def _maps(normal, n, side, channels, wider):
    return normal(n, side, side, channels), normal(n, side, side, wider)


def _equal_maps(normal, n, side, channels, _):
    return _maps(normal, n, side, channels, channels)


def _successive_maps(normal, *size):
    return _maps(normal, *size), _maps(normal, *size)


def _means_and_scales(normal, *size):
    mean, teacher = _equal_maps(normal, *size)
    return (mean, np.full(mean.shape[-1], 4.99323, np.float32)), teacher


def _remembered(normal, n, width, images, negatives):
    def rows(count):
        x = normal(count, width)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    index = np.arange(n, dtype=np.int32)
    shifts = 1 + np.arange(negatives) * 7919 % (images - 1)  # all over the memory, never 0
    others = ((index[:, None] + shifts) % images).astype(np.int32)
    # Z as it is for rows that have nothing to do with each other
    partition = np.full(2, images * np.exp(0.5 / (width * 0.07**2)), np.float32)
    memory = losses.ContrastMemory(rows(images), rows(images), partition)
    return (rows(n), rows(n)), memory, index, others


# ---------------------------------------------------------------------------- matrix products


def _product(x, y):
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _grams(x, y, *_):
    gram = _product(x, x.T)
    return _product(gram, x), _product(y, y.T)


def _cross(x, y, *_):
    cross = _product(x, y.T)
    return _product(cross, y)


def _grams_and_cross(x, y):
    return _grams(x, y), _cross(x, y)


def _center_products(x, y, centers):
    return _cross(x, centers), _product(y, centers.T)


# ------------------------------------------------------------------------------------ losses


def _variational_information(trained, teacher):
    return losses.variational_information(trained[0], teacher, trained[1])


def _contrastive_representation(trained, memory, index, negatives):
    loss, _ = losses.contrastive_representation(*trained, memory, index=index, negatives=negatives)
    return loss  # the new memory is left out, in PyTorch too


def _correlation_congruence_paper(student, teacher):
    return losses.correlation_congruence(student, teacher, variant="paper")


CASES = {
    "cross_entropy": Case(
        losses.cross_entropy, ["logits"], lambda normal, n, c: (normal(n, c), _labels(n, c))
    ),
    "soft_target_kl": Case(losses.soft_target_kl, ["logits"], _pair),
    "soft_target_cross_entropy": Case(losses.soft_target_cross_entropy, ["logits"], _pair),
    "decoupled_kd": Case(
        losses.decoupled_kd, ["logits"], lambda normal, n, c: (*_pair(normal, n, c), _labels(n, c))
    ),
    "normalized_softmax": Case(losses.normalized_softmax, ["logits"], _cosines),
    "cosface": Case(losses.cosface, ["logits"], _cosines),
    "arcface": Case(losses.arcface, ["logits"], _cosines),
    "sphereface_r": Case(losses.sphereface_r, ["logits"], _cosines),
    "a_softmax": Case(losses.a_softmax, ["logits"], _cosines_and_norms),
    "feature_l1": Case(losses.feature_l1, ["rows"], _pair),
    "feature_mse": Case(losses.feature_mse, ["maps"], _equal_maps),
    "normalized_feature_l2": Case(losses.normalized_feature_l2, ["rows"], _pair),
    "attention_transfer": Case(losses.attention_transfer, ["maps"], _maps),
    "factor_transfer": Case(losses.factor_transfer, ["maps"], _maps),
    "activation_boundary": Case(losses.activation_boundary, ["maps"], _equal_maps),
    "neuron_selectivity": Case(losses.neuron_selectivity, ["maps"], _maps),
    "flow_of_solution": Case(losses.flow_of_solution, ["maps"], _successive_maps),
    "variational_information": Case(_variational_information, ["maps"], _means_and_scales),
    "similarity_preserving": Case(losses.similarity_preserving, ["rows"], _pair, _grams),
    "probabilistic_transfer": Case(losses.probabilistic_transfer, ["rows"], _pair, _grams),
    "correlation_congruence": Case(losses.correlation_congruence, ["rows"], _pair),
    "correlation_congruence_paper": Case(_correlation_congruence_paper, ["rows"], _pair, _grams),
    "mk_mmd": Case(losses.mk_mmd, ["rows"], _pair, _grams_and_cross),
    "info_nce": Case(losses.info_nce, ["rows"], _pair, _cross),
    "contrastive_representation": Case(_contrastive_representation, ["memory"], _remembered),
    "center_relation": Case(losses.center_relation, ["rows"], _centered, _center_products),
    "rkd_distance": Case(losses.rkd_distance, ["rows"], _pair, _grams),
    "pair_relation": Case(losses.pair_relation, ["rows"], _pair, _grams),
    "rkd_angle": Case(losses.rkd_angle, ["angles"], _pair, _grams, angles=True),
    "triplet_relation": Case(losses.triplet_relation, ["angles"], _pair, _grams, angles=True),
    "hybrid_order": Case(losses.hybrid_order, ["angles", "rows"], _centered, _grams, angles=True),
}
"""The losses of `kd_jax.losses`; torch_losses.py has their formulas by the same names."""


# ------------------------------------------------------------------------------- measurement


class Compiled(NamedTuple):
    """Value and gradient of a loss on its inputs, ready to run."""

    run: Callable[[], Any]
    seconds: float
    temporary: int | None


def compiled(loss: Callable[..., Any], inputs: tuple) -> Compiled:
    """Compiles a function for JAX' default device, which gets the inputs."""
    inputs = jax.block_until_ready(jax.device_put(inputs))
    start = time.perf_counter()
    program = jax.jit(loss).lower(*inputs).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    temporary = getattr(memory, "temp_size_in_bytes", None)
    return Compiled(lambda: jax.block_until_ready(program(*inputs)), seconds, temporary)


def of_torch(formula: Callable[..., Any], inputs: tuple) -> Callable[[], Any]:
    """Value and gradient of a formula in PyTorch, on the device that JAX has."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"

    def tensor(x: np.ndarray):
        x = x.astype(np.int64) if x.dtype == np.int32 else x
        x = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
        return torch.from_numpy(np.ascontiguousarray(x)).to(device)

    inputs = jax.tree.map(tensor, inputs)
    trained = [x.requires_grad_() for x in jax.tree.leaves(inputs[0])]

    def run():
        value = formula(*inputs)
        gradients = torch.autograd.grad(value, trained)
        if device == "cuda":
            torch.cuda.synchronize()
        return value.detach(), gradients

    return run


def disagreement(ours: Any, theirs: Any) -> float:
    """Greatest distance of value and gradients from PyTorch's, relative to the latter's norm."""

    def distance(a: jax.Array, b) -> float:
        b = b.permute(0, 2, 3, 1) if b.ndim == 4 else b
        a, b = np.asarray(a, np.float64), np.asarray(b.cpu(), np.float64)
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(distance(a, b) for a, b in pairs)


def least(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each run, the least of `repeats` turns after one that warms up.

    In a turn each runs twice: the first may have to wait for PyTorch's threads, which go on turning
    for some milliseconds after its work, and for its data to come back into the cache.
    """
    times = {name: [] for name in runs}
    for _ in range(1 + repeats):
        for name, run in runs.items():
            for _ in range(2):
                start = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(each[2:]) for name, each in times.items()}


def measured(
    name: str, size: Sequence[int], cubes: int, repeats: int
) -> tuple[list[float | None], float | None]:
    """A line of numbers, and the disagreement with PyTorch if that is there."""
    case, rng = CASES[name], np.random.default_rng(0)
    inputs = case.inputs(lambda *shape: rng.standard_normal(shape, np.float32), *size)
    kernel = compiled(jax.value_and_grad(lambda *arrays: case.loss(*arrays).mean()), inputs)
    runs, gap = {"kd_jax": kernel.run}, None
    if torch and not (case.angles and size[0] > cubes):
        runs["torch"] = of_torch(getattr(torch_losses, name), inputs)
        gap = disagreement(kernel.run(), runs["torch"]())
    if case.products:
        runs["products"] = compiled(case.products, inputs).run
    ms = least(runs, repeats)
    if (turns := min(100, int(1000 / sum(ms.values())))) > repeats:  # two seconds' worth
        ms = least(runs, turns)
    top = peak(jax.devices()[0].device_kind)
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


def peak(kind: str) -> float | None:
    """Float32 operations a second of a device kind, by the longest name that fits."""
    fits = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(fits, key=len)] if fits else None


# -------------------------------------------------------------------------------- command line

COLUMNS = {
    "kd_jax [ms]": ".2f",
    "PyTorch [ms]": ".2f",
    "kd_jax / PyTorch": ".2f",
    "compile [s]": ".2f",
    "temporary [MiB]": ".1f",
    "products [ms]": ".2f",
    "bound [ms]": ".3f",
}
"""Heads of the numbers, and their formats."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if a loss is not PyTorch's."""
    args = _parse(argv)
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
            if not gap <= TOLERANCE:  # nor if it is NaN
                wrong += 1
                print(f"error: this is not PyTorch's, they differ by {gap:.1e}", file=sys.stderr)

    with_torch = f"PyTorch {torch.__version__}" if torch else "no PyTorch: pip install torch"
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {with_torch}; float32.", end="")
    if hasattr(os, "getloadavg"):
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        print(f" Load of {os.cpu_count()} cores: {load} (1, 5, 15 minutes).", end="")
    print("\n\n" + markdown(["loss", "size", *COLUMNS], rows, left=2))
    if gaps and not wrong:
        print(f"\nValues and gradients are PyTorch's to {max(gaps):.0e} of their norms.")
    return int(wrong > 0)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="LOSS")
    parser.add_argument("--repeats", type=int, default=3, help="least number of turns")
    parser.add_argument("--cubes", type=int, help="PyTorch's greatest N for angles (256; GPU: 512)")
    for name, (form, default, meaning) in SIZES.items():
        text = ", ".join("x".join(map(str, size)) for size in default)
        parser.add_argument(
            f"--{name}", type=_size(form), nargs="+", metavar=form, help=f"{meaning} ({text})"
        )
    args = parser.parse_args(argv)
    # otherwise JAX takes most of a GPU's memory at once
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    on_gpu = jax.default_backend() == "gpu"
    if torch:
        if jax.default_backend() != "cpu" and not (on_gpu and torch.cuda.is_available()):
            parser.error("PyTorch cannot use JAX' device: install one that can, or none")
        torch.set_float32_matmul_precision("highest")
    args.cubes = args.cubes or (512 if on_gpu else 256)
    if on_gpu and not args.angles:
        args.angles = [*SIZES["angles"][1], (512, 512)]
    for name, (_, default, _) in SIZES.items():
        setattr(args, name, getattr(args, name) or default)
    return args


def _size(form: str) -> Callable[[str], tuple[int, ...]]:
    def size(text: str) -> tuple[int, ...]:
        numbers = tuple(map(int, text.split("x")))
        if len(numbers) != form.count("x") + 1 or min(numbers) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
        return numbers

    return size


if __name__ == "__main__":
    sys.exit(main())
