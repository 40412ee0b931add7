"""What the networks share: convolution, batch norm, pooling and linear maps as PyTorch has them."""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.errors import UsageError
from kd_jax.models.convolution import Conv


def normal(key: jax.Array, shape: Sequence[int], scale: float) -> jax.Array:
    """Normal numbers with deviation `scale`.

    Drawn along one axis: the numbers are the same, but XLA takes ten times as long to compile a
    draw of a kernel's shape, seconds for one network.
    """
    return scale * jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def kaiming_normal(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """`nn.init.kaiming_normal_(mode="fan_out")`; not truncated, unlike flax's `he_normal`."""
    fan_out = math.prod(shape) // shape[-2]
    return normal(key, shape, math.sqrt(2 / fan_out)).astype(dtype)


def uniform(key: jax.Array, shape: Sequence[int], bound: float) -> jax.Array:
    """Uniform numbers between -`bound` and `bound`, drawn as in `normal`."""
    return jax.random.uniform(key, (math.prod(shape),), jnp.float32, -bound, bound).reshape(shape)


def kaiming_uniform(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """What PyTorch's `Conv2d` starts from: `kaiming_uniform_(a=sqrt(5))`, +-1/sqrt(fan_in)."""
    return uniform(key, shape, 1.0 / math.sqrt(math.prod(shape[:-1]))).astype(dtype)


def scaled(channels: float, width: float) -> int:
    """The number of channels of a layer at a given width multiplier, at least 1."""
    return max(1, round(channels * width))


def convolution(dtype: DTypeLike, **options):
    """A factory of convolutions without bias, initialised as the papers' PyTorch code does.

    Args:
      dtype: of the computation; the kernels stay float32.
      **options: fields of `Conv`, for all convolutions it makes.

    Returns:
      A callable `(features, kernel_size, strides=1, name=None, groups=1)` that makes a `Conv`
      padded as PyTorch pads, `kernel // 2` on both sides. ("SAME" pads a stride of 2 on one side
      only, which shifts every map by a pixel.)
    """

    def conv(
        features: int, kernel_size: int, strides: int = 1, name: str | None = None, groups: int = 1
    ) -> Conv:
        return Conv(
            features,
            (kernel_size, kernel_size),
            strides=(strides, strides),
            padding=kernel_size // 2,
            feature_group_count=groups,
            dtype=dtype,
            name=name,
            **{"use_bias": False, "kernel_init": kaiming_normal, **options},
        )

    return conv


class BatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm` that computes in float32 and returns the dtype it is given.

    Flax does so by implicit promotion, which `jax_numpy_dtype_promotion="strict"` forbids.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[N, H, W, C]`."""
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


def batch_norm(*, train: bool, axis_name: str | None):
    """A factory of batch norms with PyTorch's constants and float32 statistics.

    Flax's momentum 0.9 is PyTorch's 0.1. The running variance is the biased one, where PyTorch
    keeps the unbiased one: a factor n / (n - 1) of the batch's n pixels.

    Args:
      train: normalise by the batch, and update the running statistics.
      axis_name: average the batch's statistics over this axis, inside `pmap` and `shard_map`.

    Returns:
      `BatchNorm` with these fields set.
    """
    return functools.partial(
        BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=False,  # mean(x^2) - mean(x)^2 cancels where the mean is large
        dtype=jnp.float32,
        axis_name=axis_name,
    )


def stages(
    x: jax.Array, counts: Sequence[int], block: Callable[[jax.Array, int, int, str], jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Stages of blocks, each block's result activated.

    Args:
      x: what the first block sees, `[N, H, W, C]`.
      counts: blocks of each stage.
      block: from what it sees, its stage and place (from 0) and its name to its result before the
        activation.

    Returns:
      The last block's result, and those of each stage's last block, activated and before.
    """
    maps, preactivations = [], []
    for stage, count in enumerate(counts):
        for i in range(count):
            preactivation = block(x, stage, i, f"stage{stage + 1}_block{i + 1}")
            x = nn.relu(preactivation)
        maps.append(x)
        preactivations.append(preactivation)
    return x, tuple(maps), tuple(preactivations)


def global_average(x: jax.Array) -> jax.Array:
    """Pools maps `[N, H, W, C]` to embeddings `[N, C]` in float32."""
    return x.astype(jnp.float32).mean(axis=(1, 2))


def max_pool(x: jax.Array, size: int, *, strides: int, padding: int = 0) -> jax.Array:
    """Maximum over windows of maps `[N, H, W, C]`, with PyTorch's padding on both sides.

    Made of slices, because the gradient of `nn.max_pool` crawls on the CPU (64 maps of 32x32x64:
    178 ms against 4). Of equal maxima each gets a share of the gradient, in PyTorch the first all.
    """
    return _pool(x, size, strides, padding, jnp.maximum, -jnp.inf)


def average_pool(x: jax.Array, size: int, *, strides: int, padding: int = 0) -> jax.Array:
    """Mean over windows of maps `[N, H, W, C]`, computed in float32.

    As PyTorch has it by default, the padding's zeros count.
    """
    total = _pool(x.astype(jnp.float32), size, strides, padding, jnp.add, 0.0)
    return (total / size**2).astype(x.dtype)


def _pool(x, size, strides, padding, combine, empty):
    pad = (padding, padding)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=empty)
    for axis in (1, 2):
        last = (x.shape[axis] - size) // strides * strides
        x = functools.reduce(
            combine,
            (jax.lax.slice_in_dim(x, i, i + last + 1, strides, axis) for i in range(size)),
        )
    return x


class LinearMap(nn.Module):
    """PyTorch's `Linear`, initialisation included, in float32.

    The networks' classifier, and the learned map between embeddings of different widths.

    Attributes:
      features: width of the result.
      kernel_init: of the kernel; None is PyTorch's U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
      bias_init: of the bias; None is the same.
    """

    features: int
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., D]` to `[..., features]`."""
        init = functools.partial(uniform, bound=1.0 / math.sqrt(x.shape[-1]))
        kernel = self.param("kernel", self.kernel_init or init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init or init, (self.features,))
        # The default precision would multiply in bfloat16 on TPUs; this product costs nothing.
        product = jnp.dot(x.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)
        return product + jnp.expand_dims(bias, range(x.ndim - 1))


def check_images(network: str, images: jax.Array, *, least: int = 1) -> None:
    """Refuses images that a network cannot see.

    Args:
      network: name, for the message.
      images: the network's input.
      least: the least height and width at which no map of the network vanishes.

    Raises:
      UsageError: if `images` is not `[N, H, W, C]`, not floating or too small.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise UsageError(
            f"{network} takes normalised floating-point images [N, H, W, C], but was given "
            f"{images.dtype} {list(images.shape)}: normalise them and add the missing axes."
        )
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise UsageError(
            f"{network} cannot see images of {height}x{width} pixels, because a map would vanish: "
            f"give it at least {least}x{least}, or another network."
        )
