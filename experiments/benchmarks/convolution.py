"""How fast convolutions are on this CPU: `kd_jax.models.Conv`, XLA's own, and PyTorch.

    python experiments/benchmarks/convolution.py             # ResNet-18 forward and backward
    python experiments/benchmarks/convolution.py --layers    # and single layers, map by map

Times are the least of several runs taken in turn. Run it on a quiet machine: PyTorch's threads wait
for each other, so that other programs slow it more than XLA. PyTorch is optional:
`pip install torch --index-url https://download.pytorch.org/whl/cpu`.
"""

import argparse
import functools
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax
from timing import fastest

from kd_jax import models
from kd_jax.models import convolution

try:
    import torch
    import torch_loop
except ImportError:
    torch = None


def main() -> None:
    """Prints the tables that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32], help="image sizes")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--layers", action="store_true", help="also time single layers")
    args = parser.parse_args()

    if jax.default_backend() != "cpu":
        parser.error("this is about the CPU: run it with JAX_PLATFORMS=cpu")
    if torch is None:
        print("PyTorch is not installed, so its column is missing: pip install torch\n")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {args.batch}\n")
    networks(args.sizes, args.batch, args.repeats)
    if args.layers:
        print()
        layers(args.batch, args.repeats)


# ---------------------------------------------------------------------------------- networks


def networks(sizes: list[int], batch: int, repeats: int) -> None:
    """ResNet-18 with the CIFAR stem: one forward and backward pass in milliseconds."""
    print("ResNet-18, forward and backward [ms]")
    print("  image     kd_jax        XLA" + ("    PyTorch   kd_jax / PyTorch" if torch else ""))
    for size in sizes:
        runs = {"kd_jax": _resnet18(size, batch)}
        with mock.patch.object(convolution, "product_is_faster", lambda *_: False):
            runs["xla"] = _resnet18(size, batch)
        if torch:
            runs["torch"] = _torch_resnet18(size, batch)
        ms = fastest(runs, repeats)
        row = "".join(f"{each:11.1f}" for each in ms.values())
        print(
            f"  {size:2}x{size:2}{row}" + (f"{ms['kd_jax'] / ms['torch']:13.2f}" if torch else "")
        )


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
    network = torch_loop.ResNet18()
    images, labels = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.long)

    def step():
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(images)[0], labels).backward()

    return step


# ------------------------------------------------------------------------------------ layers


def layers(batch: int, repeats: int, most_gflop: float = 5.0) -> None:
    """Single layers, forward and both gradients: XLA's convolution against one product."""
    print("One layer, forward and backward [ms]; * is what Conv takes")
    print("  window  stride    map  channels        XLA     product")
    for window, stride in [(3, 1), (3, 2), (1, 1), (1, 2)]:
        for size in (1, 2, 4, 8, 16, 32):
            for channels in (16, 64, 128, 256, 512):
                pixels = (-(-size // stride)) ** 2
                if 2e-9 * batch * pixels * (window * channels) ** 2 > most_gflop:
                    continue
                pads = ((window // 2, window // 2),) * 2
                geometry = (size, size), (window, window), (stride, stride), pads
                product = convolution.product_is_faster(*geometry)
                ms = fastest(_layer(batch, channels, *geometry), repeats)
                print(
                    f"  {window}x{window} {stride:10}  {size:2}x{size:2} {channels:9}"
                    f"{ms['xla']:10.1f}{' ' if product else '*'}"
                    f"{ms['product']:11.1f}{'*' if product else ' '}",
                    flush=True,
                )


def _layer(batch, channels, size, window, strides, pads) -> dict[str, Callable[[], object]]:
    def xla(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=numbers)

    def product(x, kernel):
        return convolution.windows_product(x, kernel, strides, pads)

    key_x, key_kernel = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (batch, *size, channels))
    kernel = jax.random.normal(key_kernel, (*window, channels, channels)) / channels
    cotangent = jnp.ones(jax.eval_shape(xla, x, kernel).shape)

    def passes(way):
        @jax.jit
        def forward_and_backward(x, kernel, cotangent):
            y, backward = jax.vjp(way, x, kernel)
            return y, backward(cotangent)

        compiled = forward_and_backward.lower(x, kernel, cotangent).compile()
        return lambda: jax.block_until_ready(compiled(x, kernel, cotangent))

    return {"xla": passes(xla), "product": passes(product)}


if __name__ == "__main__":
    main()
