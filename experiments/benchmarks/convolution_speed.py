"""Speed of convolutions on this CPU: `kd_jax.models.Conv`, XLA's convolution, and PyTorch.

    python -m experiments.benchmarks.convolution_speed             # ResNet-18, forward and backward
    python -m experiments.benchmarks.convolution_speed --layers    # also single layers

The times are the least of several runs in turn. Run it on a quiet machine: PyTorch's threads wait
for each other, so that other programs slow it more than XLA. PyTorch is optional:
`pip install torch --index-url https://download.pytorch.org/whl/cpu`.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

if not __package__:
    raise SystemExit(
        "error: run `python -m experiments.benchmarks.convolution_speed` in the repository root."
    )

from experiments.benchmarks.timing import fastest
from kd_jax import models
from kd_jax.commands import Parser, exit_code
from kd_jax.core.errors import UsageError
from kd_jax.core.text import markdown
from kd_jax.models import convolution

HAS_TORCH = importlib.util.find_spec("torch") is not None
Pair = tuple[int, int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = Parser(__doc__ or "")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32], help="image sizes")
    parser.add_argument("--batch", type=int, default=64, help="images per batch")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--layers", action="store_true", help="also measure single layers")
    args = parser.parse(argv)
    if jax.default_backend() != "cpu":
        raise UsageError("This benchmark is for CPUs: run it with JAX_PLATFORMS=cpu.")
    if not HAS_TORCH:
        print("PyTorch is not installed, so its column is missing: run `pip install torch`.\n")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {args.batch}\n")
    print(networks(args.sizes, args.batch, args.repeats))
    if args.layers:
        print()
        layers(args.batch, args.repeats)


# ---------------------------------------------------------------------------------- networks


def networks(sizes: Sequence[int], batch: int, repeats: int) -> str:
    """Measures forward and backward pass of a ResNet-18 with the CIFAR stem; returns the table."""
    rows = []
    for size in sizes:
        programs = {"kd_jax": _resnet18(size, batch)}
        with mock.patch.object(convolution, "product_is_faster", lambda *_: False):
            programs["XLA"] = _resnet18(size, batch)
        if HAS_TORCH:
            programs["PyTorch"] = _torch_resnet18(size, batch)
        ms = fastest(programs, repeats)
        ratio = f"{ms['kd_jax'] / ms['PyTorch']:.2f}" if HAS_TORCH else "-"
        numbers = [
            f"{ms[name]:.1f}" if name in ms else "-" for name in ("kd_jax", "XLA", "PyTorch")
        ]
        rows.append([f"{size}x{size}", *numbers, ratio])
    columns = ("images", "kd_jax [ms]", "XLA [ms]", "PyTorch [ms]", "kd_jax / PyTorch")
    return f"ResNet-18, forward and backward:\n\n{markdown(columns, rows)}"


def _resnet18(size: int, batch: int) -> Callable[[], object]:
    network = models.create("resnet18", num_classes=100)
    images = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    variables = jax.jit(functools.partial(network.init, train=False))(jax.random.key(1), images)

    @jax.jit
    def step(params, images):
        def loss(params):
            outputs, state = network.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return -jax.nn.log_softmax(outputs.logits)[:, 0].mean(), state

        return jax.value_and_grad(loss, has_aux=True)(params)

    compiled = step.lower(variables["params"], images).compile()
    return lambda: jax.block_until_ready(compiled(variables["params"], images))


def _torch_resnet18(size: int, batch: int) -> Callable[[], object]:
    import torch

    from experiments.benchmarks.torch_training import ResNet18

    network = ResNet18()
    images, labels = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(images)[0], labels).backward()

    return step


# ------------------------------------------------------------------------------------ layers


def layers(batch: int, repeats: int, most_gflop: float = 5.0) -> None:
    """Measures single layers, forward and both gradients, as a convolution and as a product.

    Args:
        batch: number of images per batch.
        repeats: number of runs, of which the fastest counts.
        most_gflop: largest layer to measure.
    """
    print("One layer, forward and backward [ms]; `Conv` uses the way that is marked by *")
    print("  window  stride    map  channels        XLA     product")
    for window, stride in [(3, 1), (3, 2), (1, 1), (1, 2)]:
        for size in (1, 2, 4, 8, 16, 32):
            for channels in (16, 64, 128, 256, 512):
                pixels = (-(-size // stride)) ** 2
                if 2e-9 * batch * pixels * (window * channels) ** 2 > most_gflop:
                    continue
                pads = ((window // 2, window // 2), (window // 2, window // 2))
                geometry = ((size, size), (window, window), (stride, stride), pads)
                product = convolution.product_is_faster(*geometry)
                ms = fastest(_layer(batch, channels, *geometry), repeats)
                print(
                    f"  {window}x{window} {stride:10}  {size:2}x{size:2} {channels:9}"
                    f"{ms['xla']:10.1f}{' ' if product else '*'}"
                    f"{ms['product']:11.1f}{'*' if product else ' '}",
                    flush=True,
                )


def _layer(
    batch: int, channels: int, size: Pair, window: Pair, strides: Pair, pads: tuple[Pair, Pair]
) -> dict[str, Callable[[], object]]:
    def xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=numbers)

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolution.windows_product(x, kernel, strides, pads)

    key_x, key_kernel = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (batch, *size, channels))
    kernel = jax.random.normal(key_kernel, (*window, channels, channels)) / channels
    cotangent = jnp.ones(jax.eval_shape(xla, x, kernel).shape)

    def passes(way: Callable[..., jax.Array]) -> Callable[[], object]:
        @jax.jit
        def forward_and_backward(x, kernel, cotangent):
            y, backward = jax.vjp(way, x, kernel)
            return y, backward(cotangent)

        compiled = forward_and_backward.lower(x, kernel, cotangent).compile()
        return lambda: jax.block_until_ready(compiled(x, kernel, cotangent))

    return {"xla": passes(xla), "product": passes(product)}


if __name__ == "__main__":
    sys.exit(main())
