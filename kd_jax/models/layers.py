"""Layers that the networks share: convolution, pooling and linear maps of PyTorch."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.core.errors import UsageError
from kd_jax.models.convolution import Conv


def rematerialized(module: nn.Module, block: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of a block, whose results the backward pass computes again.

    Args:
        module: the network. If its field `remat` is False, the function stays as it is.
        block: computes a block from arrays, its first argument, and from plain values.
    """

    def again(arrays: Any, *values: Any) -> Any:
        @nn.remat
        @nn.compact
        def inner(module: nn.Module, arrays: Any) -> Any:
            return block(arrays, *values)

        return inner(module, arrays)

    return again if getattr(module, "remat", False) else block


def normal(key: jax.Array, shape: Sequence[int], scale: float) -> jax.Array:
    """Draws normal numbers with std `scale`.

    They are drawn along one axis. The numbers are the same as with the kernel's shape, but XLA
    takes ten times as long to compile a draw of that shape, seconds for one network.
    """
    return scale * jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def kaiming_normal(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws a kernel as PyTorch's `kaiming_normal_(mode="fan_out")` does.

    It is not truncated, unlike flax's `he_normal`.
    """
    fan_out = math.prod(shape) // shape[-2]
    return normal(key, shape, math.sqrt(2 / fan_out)).astype(dtype)


def uniform(key: jax.Array, shape: Sequence[int], bound: float) -> jax.Array:
    """Draws uniform numbers between -`bound` and `bound`, along one axis as in `normal`."""
    return jax.random.uniform(key, (math.prod(shape),), jnp.float32, -bound, bound).reshape(shape)


def kaiming_uniform(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws a kernel as PyTorch's `Conv2d`, `kaiming_uniform_(a=sqrt(5))`: +-1/sqrt(fan_in)."""
    return uniform(key, shape, 1.0 / math.sqrt(math.prod(shape[:-1]))).astype(dtype)


def scaled(channels: float, width: float) -> int:
    """Returns the number of channels of a layer at a given width multiplier, at least 1."""
    return max(1, round(channels * width))


def convolution(dtype: DTypeLike, **options: Any) -> Callable[..., Conv]:
    """Returns a factory of convolutions without bias, initialized as in the papers' PyTorch code.

    Args:
        dtype: dtype of the computation; the kernels stay float32.
        **options: fields of `Conv`, for all convolutions that the factory makes.

    Returns:
        A callable `(features, kernel_size, strides=1, name=None, groups=1)` that makes a `Conv`
        with PyTorch's padding, `kernel // 2` on both sides. ("SAME" pads a stride of 2 on one side
        only, which shifts every feature map by a pixel.)
    """
    fields: dict[str, Any] = {"use_bias": False, "kernel_init": kaiming_normal, **options}

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
            **fields,
        )

    return conv


class Stages(NamedTuple):
    """Results of the first stages of a network.

    Attributes:
        state: input of the next block.
        feature_maps: result of each stage's last block, `[N, H, W, C]`, after the activation.
        preactivations: the same before the activation.
        blocks: result of each block, after the activation.
    """

    state: Any
    feature_maps: tuple[jax.Array, ...] = ()
    preactivations: tuple[jax.Array, ...] = ()
    blocks: tuple[jax.Array, ...] = ()


BlockResult = tuple[Any, jax.Array, jax.Array]
"""State after a block and the block's feature map, after and before the activation."""

Block = Callable[[Any, int, int, str], BlockResult]
"""Computes a block from the state before it, its stage and place (from 0) and its name."""


def stages(before: Stages, counts: Sequence[int], block: Block, prefix: str = "") -> Stages:
    """Computes further stages of blocks.

    Args:
        before: results of the stages before, `Stages(x)` for the first.
        counts: number of blocks of each stage.
        block: computes one block.
        prefix: prefix of all names; the rest is `stage1_block1`, counted from 1.

    Returns:
        The results of all stages, those before included.
    """
    state, feature_maps, preactivations, blocks = before
    for stage, count in enumerate(counts, start=len(feature_maps)):
        for i in range(count):
            name = f"{prefix}stage{stage + 1}_block{i + 1}"
            state, feature_map, preactivation = block(state, stage, i, name)
            blocks += (feature_map,)
        feature_maps += (feature_map,)
        preactivations += (preactivation,)
    return Stages(state, feature_maps, preactivations, blocks)


def activated(preactivation: jax.Array) -> BlockResult:
    """Returns the result of a block that ends in a ReLU and has no other state."""
    x = nn.relu(preactivation)
    return x, x, preactivation


def padded_shortcut(x: jax.Array, channels: int, strides: int) -> jax.Array:
    """Reduces feature maps and adds channels of zeros; it has no parameters.

    This is shortcut A of He et al., CVPR 2016. As in akamaster/pytorch_resnet_cifar10, the first
    half of the zeros is before the channels of `x`, and the rest is after them.

    Args:
        x: feature maps `[N, H, W, C]`.
        channels: number of channels of the result, at least C.
        strides: distance of the pixels that are kept; the first one is kept.

    Returns:
        `[N, H', W', channels]`.

    Raises:
        UsageError: if the result has fewer channels than `x`.
    """
    added = channels - x.shape[-1]
    if added < 0:
        raise UsageError(
            f"shortcut = 'A' cannot reduce {x.shape[-1]} channels to {channels}: take shortcut ="
            " 'B', or channels that do not decrease."
        )
    before = added // 2
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, added - before)))


def global_average(x: jax.Array) -> jax.Array:
    """Averages feature maps `[N, H, W, C]` to embeddings `[N, C]` in float32."""
    return x.astype(jnp.float32).mean(axis=(1, 2))


def max_pool(x: jax.Array, size: int, *, strides: int, padding: int = 0) -> jax.Array:
    """Takes the maximum over windows of `[N, H, W, C]`, with PyTorch's padding on both sides.

    It combines slices, because the gradient of `nn.max_pool` is slow on the CPU (64 feature maps of
    32x32x64: 178 ms instead of 4). Equal maxima divide the gradient. In PyTorch, the first of them
    gets all of it.
    """
    return _pool(x, size, strides, padding, jnp.maximum, -jnp.inf)


def average_pool(x: jax.Array, size: int, *, strides: int, padding: int = 0) -> jax.Array:
    """Takes the mean over windows of `[N, H, W, C]`, computed in float32.

    The zeros of the padding count, which is PyTorch's default.
    """
    total = _pool(x.astype(jnp.float32), size, strides, padding, jnp.add, 0.0)
    return (total / size**2).astype(x.dtype)


def _pool(
    x: jax.Array,
    size: int,
    strides: int,
    padding: int,
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    empty: float,
) -> jax.Array:
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
    """PyTorch's `Linear`, initialization included, in float32.

    It is the networks' classifier, and the learned map between embeddings of different widths.

    Attributes:
        features: width of the result.
        kernel_init: initializer of the kernel; None is PyTorch's U(-1/sqrt(fan_in),
            1/sqrt(fan_in)).
        bias_init: initializer of the bias; None is the same.
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
    """Checks the input of a network.

    Args:
        network: name of the network, for the error.
        images: the network's input.
        least: smallest height and width at which no feature map of the network is empty.

    Raises:
        UsageError: if `images` is not `[N, H, W, C]`, not floating-point or too small.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise UsageError(
            f"{network} takes normalized floating-point images [N, H, W, C], not "
            f"{images.dtype} {list(images.shape)}: normalize them and add the missing axes."
        )
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise UsageError(
            f"{network} cannot see images of {height}x{width} pixels, because a feature map would"
            f" be empty: give it at least {least}x{least}, or take another network."
        )
