"""Shared helpers: dtypes, checks, masks, and functions of numbers with finite gradients.

Each comparison selects the special case (such as `x <= 0`), not the usual one (`x > 0`). NaN is in
no comparison, so it takes the usual path and reaches the loss.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# TensorFloat-32 and bfloat16 products would round away the small differences that losses measure.
HIGHEST = jax.lax.Precision.HIGHEST


def upcast(*arrays: ArrayLike) -> list[jax.Array]:
    """Converts arrays to one dtype: float64 if one of them has it, else float32."""
    converted = [jnp.asarray(x) for x in arrays]
    double = any(x.dtype == jnp.float64 for x in converted)
    return [x.astype(jnp.float64 if double else jnp.float32) for x in converted]


def expect(holds: bool, rule: str, **arrays: jax.Array) -> None:
    """Raises a ValueError with the rule and the shape of every array if the rule does not hold."""
    if not holds:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"{rule}; got {shapes}")


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a ValueError with the choices if the value is not one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}; got {value!r}")


def as_rows(
    student: ArrayLike, teacher: ArrayLike, *, same_width: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Checks features of the same images: both [N, D], or [N, D] and [N, E] if not `same_width`."""
    student, teacher = upcast(student, teacher)
    fits = student.ndim == teacher.ndim == 2 and student.shape[0] == teacher.shape[0]
    fits = fits and (student.shape == teacher.shape or not same_width)
    rule = "student and teacher must both be [N, D]"
    if not same_width:
        rule = "student [N, D] and teacher [N, E] must hold the same images"
    expect(fits, rule, student=student, teacher=teacher)
    return student, teacher


def as_maps(
    student: ArrayLike, teacher: ArrayLike, *, same_channels: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Checks maps [N, H, W, C] of the same images and pools them to one height and width.

    Each axis is average-pooled to the smaller of the two sizes. If the sizes do not divide, the
    windows follow the rule of PyTorch's adaptive pooling. The numbers of channels may differ unless
    `same_channels`.
    """
    student, teacher = upcast(student, teacher)
    fits = student.ndim == teacher.ndim == 4 and student.shape[0] == teacher.shape[0]
    fits = fits and (student.shape[3] == teacher.shape[3] or not same_channels)
    rule = "maps must be [N, H, W, C] of the same images" + same_channels * ", with equal channels"
    expect(fits, rule, student=student, teacher=teacher)
    (height, width), (other_height, other_width) = student.shape[1:3], teacher.shape[1:3]
    size = min(height, other_height), min(width, other_width)
    return pool(student, size), pool(teacher, size)


def pool(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages the windows from floor(i old / new) to ceil((i + 1) old / new) along each axis."""
    for axis, new in enumerate(size, start=1):
        old = maps.shape[axis]
        if old != new:
            weights = np.zeros((new, old))
            for i in range(new):
                window = slice(i * old // new, -(-(i + 1) * old // new))
                weights[i, window] = 1 / (window.stop - window.start)
            matrix = jnp.asarray(weights, maps.dtype)
            maps = jnp.moveaxis(jnp.tensordot(matrix, maps, (1, axis), precision=HIGHEST), 0, axis)
    return maps


def as_labels(labels: ArrayLike, rows: jax.Array) -> jax.Array:
    """Checks the integer labels [N] of rows [N, D] and returns them as int32."""
    labels = jnp.asarray(labels)
    fits = rows.ndim == 2 and labels.shape == rows.shape[:1]
    expect(fits, "rows [N, D] need labels [N]", rows=rows, labels=labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers; got {labels.dtype}")
    return labels.astype(jnp.int32)


def of_class(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the score [N, 1] of each row's label, or NaN if the label is not in [0, C)."""
    # A negative label would index from the end.
    labels = jnp.where(labels < 0, scores.shape[1], labels)
    return jnp.take_along_axis(scores, labels[:, None], axis=1)


def as_scalar(x: ArrayLike, like: jax.Array, name: str) -> jax.Array:
    """Converts a scalar to the dtype of another array."""
    x = jnp.asarray(x, like.dtype)
    expect(x.ndim == 0, f"{name} must be a scalar", **{name: x})
    return x


def as_mask(where: ArrayLike | None, rows: jax.Array, name: str = "where") -> jax.Array:
    """Checks the boolean mask [N] of the rows to use. Without a mask, all rows are used."""
    if where is None:
        return jnp.ones(rows.shape[:1], bool)
    where = jnp.asarray(where)
    if where.dtype != bool:
        raise ValueError(f"{name} must be boolean; got {where.dtype}")
    rule = f"{name} must hold one flag per row"
    expect(where.shape == rows.shape[:1], rule, mask=where, rows=rows)
    return where


def keep_rows(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Sets the rows outside the mask to 0, even if they contain NaN; they get no gradient."""
    return jnp.where(mask[:, None], x, jnp.zeros_like(x))


def safe_root(x: jax.Array) -> jax.Array:
    """Computes the square root, with gradient 0 at 0. Negative numbers, from rounding, become 0."""
    zero = x <= 0
    # The inner `where` keeps the infinite slope out of the backward pass: 0 * inf is NaN.
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def safe_reciprocal(x: jax.Array) -> jax.Array:
    """Computes 1 / x. Returns 0 with gradient 0 if x is not positive or if 1 / x overflows."""
    zero = x < 2 * jnp.finfo(x.dtype).tiny
    return jnp.where(zero, 0, 1 / jnp.where(zero, 1, x))


def nan_unless_finite(x: jax.Array) -> jax.Array:
    """Returns 0 for finite numbers, and NaN for NaN and infinity, without a gradient.

    Add it to a result that does not depend on the size of huge numbers, such as a sign.
    """
    return 0 * jax.lax.stop_gradient(x)


def difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes x - y; differences within the rounding error become 0 with gradient 0.

    Use it before a function that has no slope at 0, such as a norm. The compiler may round only one
    of two equal expressions, and their tiny difference would then get a large gradient.
    """
    gap, info = x - y, jnp.finfo(x.dtype)
    noise = 8 * info.eps * jnp.maximum(jnp.abs(x), jnp.abs(y))
    # An infinite gap is above each finite bound, so it is not within the rounding error.
    noise = jax.lax.stop_gradient(jnp.minimum(noise, info.max))
    return jnp.where(jnp.abs(gap) <= noise, 0, gap)


def absolute(x: jax.Array) -> jax.Array:
    """Computes the absolute value, with gradient 0 at 0 (that of `jnp.abs` is 1)."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def huber(gap: jax.Array, delta: ArrayLike = 1.0) -> jax.Array:
    """Computes gap^2 / 2 for |gap| <= delta, else delta (|gap| - delta / 2)."""
    bound = jnp.asarray(delta, gap.dtype)
    inside = jnp.clip(gap, -bound, bound)
    return inside * (gap - inside / 2)


def unit_rows(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """Normalizes to unit length, x / ||x||_2 along the axes; zeros stay 0 with gradient 0.

    In float32, the absolute values may range from 1e-37 to 1e37. A row with an infinite number has
    no direction: it becomes NaN, like a row with NaN.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True, initial=0))
    x = x * safe_reciprocal(largest)  # squares of tiny and huge x would leave the range of float32
    return x * safe_reciprocal(safe_root((x * x).sum(axis, keepdims=True)))
