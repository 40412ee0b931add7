"""`flax.linen.Conv`, faster on the CPU where XLA is slow.

Where a feature map has fewer pixels than the window, XLA's CPU backend computes a convolution in a
naive loop, a hundred times slower than a matrix product: the forward pass of 3x3 windows on 2x2
maps, and the gradient from a 2x2 result back to a 4x4 map. Its kernel gradients of 1x1 convolutions
are up to ten times slower too, more with groups. Here those convolutions and their gradients are
matrix products. Depthwise convolutions, which XLA computes five to forty times slower, are sums of
shifted maps. XLA computes all others, and all convolutions on accelerators.
`experiments/benchmarks/convolution_speed.py` measures both ways.

In a bfloat16 network kernels and biases are float32, and so are their gradients, except on GPUs.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from kd_jax.models.wide_gradients import with_wide_gradient

CONVOLUTION = "convolution"
"""Name that marks the result of a convolution for `jax.checkpoint`."""


def _promoted(
    inputs: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, dtype: Any = None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Converts to the dtype of the computation, except wider parameters, which are used later."""
    inputs, *low = promote_dtype(inputs, kernel, bias, dtype=dtype)
    wider = kernel.dtype.itemsize > low[0].dtype.itemsize
    return (inputs, kernel, bias) if wider else (inputs, *low)


class Conv(nn.Conv):
    """`flax.linen.Conv`: the same parameters, options and numbers, fast on small maps too."""

    promote_dtype: Any = _promoted
    conv_general_dilated_cls: Callable[[], Any] | None = lambda: convolve

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Computes the convolution; a bias is added in float32, in which its gradient is summed."""
        flax_call = inspect.unwrap(nn.Conv.__call__)  # else it would count as two calls of modules
        with jax.numpy_dtype_promotion("standard"):  # for a wider bias
            y = cast(jax.Array, flax_call(self, inputs))
        return y if self.dtype is None else y.astype(self.dtype)


def convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Computes `lax.conv_general_dilated`, by `windows_product` or `shifted_sum` where faster.

    The platform for which the program is lowered decides.

    Args:
        lhs: feature maps, `[N, H, W, C]` in two dimensions.
        rhs: kernel, `[h, w, C, F]` in two dimensions. It may be wider than `lhs`, float32 for
            bfloat16; its gradient then is float32 too.
        window_strides: strides of the window.
        padding: zeros before and after along each axis, or the name of a rule.
        lhs_dilation: as in `lax`.
        rhs_dilation: as in `lax`.
        dimension_numbers: as in `lax`; the channels are last.
        feature_group_count: as in `lax`.
        precision: as in `lax`.

    Returns:
        `[N, H', W', F]`.
    """
    conv = functools.partial(
        _convolve,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    same = lhs.dtype == rhs.dtype
    product = conv(lhs, rhs) if same else with_wide_gradient(conv, lhs, rhs)
    return cast(jax.Array, checkpoint_name(product, CONVOLUTION))


def _convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    dimension_numbers: Any,
    feature_group_count: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Computes `convolve` for two arrays of one dtype."""
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if lhs.ndim == 4 and not dilated:
        axes = lhs.shape[1:3], rhs.shape[:2], window_strides
        pads = lax.padtype_to_pads(*axes, padding) if isinstance(padding, str) else padding
        depthwise = feature_group_count == lhs.shape[3] == rhs.shape[3]
        by_sum = depthwise and sum_is_faster(*axes, pads)
        if by_sum or (feature_group_count <= 16 and product_is_faster(*axes, pads)):
            result: jax.Array = _by_platform(
                lhs,
                rhs,
                strides=tuple(window_strides),
                padding=tuple((int(low), int(high)) for low, high in pads),
                precision=precision,
                groups=feature_group_count,
                by_sum=by_sum,
            )
            return result
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )


# Compiled by itself, so that layers of equal shapes are traced once.
@functools.partial(jax.jit, static_argnames=("strides", "padding", "precision", "groups", "by_sum"))
def _by_platform(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    precision: lax.PrecisionLike,
    groups: int,
    by_sum: bool,
) -> jax.Array:
    """Computes a convolution in the faster way of the platform that it is lowered for."""
    options: dict[str, Any] = {"strides": strides, "padding": padding}
    product = functools.partial(windows_product, precision=precision, groups=groups, **options)
    by_xla = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )
    on_cpu = functools.partial(shifted_sum, **options) if by_sum else product
    result: jax.Array = lax.platform_dependent(x, kernel, cpu=on_cpu, default=by_xla)
    return result


def product_is_faster(
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    """Returns true if `windows_product` is faster than XLA on the CPU, gradients included.

    It is for windows of one pixel, and for feature maps or results of fewer pixels than the window,
    with any number of channels. Elsewhere XLA is as fast or faster, on 32x32 maps two or three
    times.

    Args:
        size: size of the feature map.
        window: size of the window.
        strides: strides of the window.
        padding: zeros before and after along each axis.
    """
    result = _result(size, window, strides, padding)
    pixels = min(math.prod(size), math.prod(result))
    few = max(window) == 1 or pixels < math.prod(window)
    return few and _ordinary(size, result, padding)


def sum_is_faster(
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    """Returns true if `shifted_sum` is faster than XLA on the CPU, gradients included.

    It is for feature maps of any size with any number of channels. Windows larger than 5x5 would
    give programs that take long to compile. The arguments are those of `product_is_faster`.
    """
    result = _result(size, window, strides, padding)
    return math.prod(window) <= 25 and _ordinary(size, result, padding)


def _result(
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> list[int]:
    """Returns the size of a convolution's result."""
    axes = zip(size, window, strides, padding, strict=True)
    return [(n + sum(p) - w) // s + 1 for n, w, s, p in axes]


def _ordinary(
    size: Sequence[int], result: Sequence[int], padding: Sequence[tuple[int, int]]
) -> bool:
    """Returns true if no feature map is empty and no padding is negative."""
    return min(*size, *result) > 0 and all(p >= 0 for pads in padding for p in pads)


def windows_product(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    precision: lax.PrecisionLike = None,
    groups: int = 1,
) -> jax.Array:
    """Computes a convolution as a product: all windows `[N, H', W', h w C]` times `[h w C, F]`.

    Args:
        x: feature maps `[N, H, W, C]`.
        kernel: `[h, w, C / groups, F]`.
        strides: strides of the window.
        padding: zeros before and after along each axis.
        precision: precision of the product.
        groups: number of groups of channels. Each group gives `F / groups` features, by a separate
            product.

    Returns:
        `[N, H', W', F]`.
    """
    if groups > 1:
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        products = [windows_product(a, b, strides, padding, precision) for a, b in parts]
        return jnp.concatenate(products, axis=-1)
    axes = zip(x.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    rows, columns = (_taps(*axis) for axis in axes)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    windows = jnp.concatenate([x[:, r, c] for r in rows.values() for c in columns.values()], -1)
    kernel = kernel[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1]
    return jnp.dot(windows, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


def shifted_sum(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Computes a depthwise convolution as a sum over the window: shifted maps times weights.

    Args:
        x: feature maps `[N, H, W, C]`.
        kernel: `[h, w, 1, C]`.
        strides: strides of the window.
        padding: zeros before and after along each axis.

    Returns:
        `[N, H', W', C]`, summed in float32 or better.
    """
    axes = zip(x.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    rows, columns = (_taps(*axis) for axis in axes)
    wide = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
    kernel = kernel.astype(wide)[:, :, None, None]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(wide)
    terms = (padded[:, r, c] * kernel[i, j] for i, r in rows.items() for j, c in columns.items())
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def _taps(size: int, window: int, stride: int, padding: tuple[int, int]) -> dict[int, slice]:
    """Returns the slice of the padded feature map for each tap of the window, along one axis.

    Taps at the ends of the window are left out if their slice contains padding only. Of a 3x3
    window on a 1x1 map, one tap in nine remains.
    """
    low, high = padding
    last = (size + low + high - window) // stride * stride
    slices = {tap: slice(tap, tap + last + 1, stride) for tap in range(window)}
    inside = range(low, low + size)
    used = [t for t in slices if any(i in inside for i in range(t, t + last + 1, stride))] or [0]
    return {tap: slices[tap] for tap in range(used[0], used[-1] + 1)}
