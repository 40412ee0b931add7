"""What the kernels share: dtypes, checks, masks, and distances that are safe to differentiate."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# TensorFloat-32 and bfloat16 products would lose the small differences that these losses live on.
HIGHEST = jax.lax.Precision.HIGHEST

# The error of a squared distance stays below 10 roundings of the squared norms (measured, widths
# to 4096, heavy tails), so up to 32 it says too little to divide by: such rows coincide.
_NOISE = 32


def upcast(*arrays: ArrayLike) -> list[jax.Array]:
    """Arrays in one dtype: float64 if one of them is, else float32."""
    arrays = [jnp.asarray(x) for x in arrays]
    double = any(x.dtype == jnp.float64 for x in arrays)
    return [x.astype(jnp.float64 if double else jnp.float32) for x in arrays]


def expect(holds: bool, rule: str, **arrays: jax.Array) -> None:
    """Raises a ValueError with the rule and the shape of every array where it does not hold."""
    if not holds:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"{rule}; got {shapes}")


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a ValueError with the choices where the value is none of them."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}; got {value!r}")


def as_rows(
    student: ArrayLike, teacher: ArrayLike, *, same_width: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Features of the same images, [N, D] each or, unless `same_width`, [N, D] and [N, E]."""
    student, teacher = upcast(student, teacher)
    fits = student.ndim == teacher.ndim == 2 and len(student) == len(teacher)
    fits = fits and (student.shape == teacher.shape or not same_width)
    rule = "student and teacher must both be [N, D]"
    if not same_width:
        rule = "student [N, D] and teacher [N, E] must hold the same images"
    expect(fits, rule, student=student, teacher=teacher)
    return student, teacher


def as_maps(
    student: ArrayLike, teacher: ArrayLike, *, same_channels: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Maps [N, H, W, C] of the same images, brought to one height and width.

    Each axis is average-pooled to the smaller size of the two, by PyTorch's adaptive rule where
    they do not divide. The channels may differ unless `same_channels`.
    """
    student, teacher = upcast(student, teacher)
    fits = student.ndim == teacher.ndim == 4 and len(student) == len(teacher)
    fits = fits and (student.shape[3] == teacher.shape[3] or not same_channels)
    rule = "maps must be [N, H, W, C] of the same images" + same_channels * ", with equal channels"
    expect(fits, rule, student=student, teacher=teacher)
    size = tuple(map(min, student.shape[1:3], teacher.shape[1:3]))
    return _pool(student, size), _pool(teacher, size)


def _pool(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages of windows from floor(i old / new) to ceil((i + 1) old / new)."""
    for axis, new in enumerate(size, start=1):
        old = maps.shape[axis]
        if old != new:
            matrix = np.zeros((new, old))
            for i in range(new):
                window = slice(i * old // new, -(-(i + 1) * old // new))
                matrix[i, window] = 1 / (window.stop - window.start)
            matrix = jnp.asarray(matrix, maps.dtype)
            maps = jnp.moveaxis(jnp.tensordot(matrix, maps, (1, axis), precision=HIGHEST), 0, axis)
    return maps


def as_labels(labels: ArrayLike, rows: jax.Array) -> jax.Array:
    """The labels [N] of the rows [N, D], as int32."""
    labels = jnp.asarray(labels)
    fits = rows.ndim == 2 and labels.shape == rows.shape[:1]
    expect(fits, "rows [N, D] need labels [N]", rows=rows, labels=labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers; got {labels.dtype}")
    return labels.astype(jnp.int32)


def of_class(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """The score [N, 1] of each row's label; NaN where the label is none of the C classes."""
    # A negative label would count from the end.
    labels = jnp.where(labels < 0, scores.shape[1], labels)
    return jnp.take_along_axis(scores, labels[:, None], axis=1)


def as_scalar(x: ArrayLike, like: jax.Array, name: str) -> jax.Array:
    """A scalar in the dtype of another array."""
    x = jnp.asarray(x, like.dtype)
    expect(x.ndim == 0, f"{name} must be a scalar", **{name: x})
    return x


def as_mask(where: ArrayLike | None, rows: jax.Array, name: str = "where") -> jax.Array:
    """The boolean mask [N] of the rows that count; every row if there is none."""
    if where is None:
        return jnp.ones(rows.shape[:1], bool)
    where = jnp.asarray(where)
    if where.dtype != bool:
        raise ValueError(f"{name} must be boolean; got {where.dtype}")
    expect(where.shape == rows.shape[:1], f"{name} must hold one flag a row", mask=where, rows=rows)
    return where


def gather_rows(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The rows of the global batch, in the order of the devices along `axis_name`."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def replicated(x: jax.Array, axis_name: str | None) -> jax.Array:
    """What every device has computed alike from gathered rows, marked as equal on all of them.

    With it the gradient is right in `shard_map` too, which sums the devices' gradients of what it
    does not know to be one value.
    """
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def keep_rows(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Zeroes the other rows, whatever (NaN too) stands in them; they get no gradient."""
    return jnp.where(mask[:, None], x, jnp.zeros_like(x))


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean row [1, D] of the masked rows, zero if there is none."""
    count = jnp.maximum(mask.sum(), 1).astype(x.dtype)
    return keep_rows(x, mask).sum(0, keepdims=True) / count


def reduce_images(
    values: jax.Array, mask: jax.Array, axis_name: str | None, reduction: str = "mean"
) -> jax.Array:
    """The sum or the mean of the values [N] that count, over the global batch."""
    total, count = jnp.where(mask, values, 0).sum(), mask.sum()
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return reduce_tuples(total, count, reduction)


def centred(x: jax.Array, mask: jax.Array, shift: jax.Array | None = None) -> jax.Array:
    """The masked rows less a common shift, by default their mean; the other rows are 0.

    A common shift changes no distance, hence no gradient.
    """
    shift = masked_mean(x, mask) if shift is None else shift
    return keep_rows(x - jax.lax.stop_gradient(shift), mask)


def distinct_pairs(mask: jax.Array) -> jax.Array:
    """Which pairs [N, N] are of two different rows that count."""
    return mask[:, None] & mask[None] & ~jnp.eye(len(mask), dtype=bool)


def safe_root(x: jax.Array) -> jax.Array:
    """Square root whose gradient at 0 is 0."""
    positive = x > 0
    # The inner `where` keeps the infinite slope out of the backward pass, where it meets a zero.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_reciprocal(x: jax.Array) -> jax.Array:
    """1 / x for positive x, else 0 with gradient 0; 0 too where 1 / x would overflow."""
    positive = x >= 2 * jnp.finfo(x.dtype).tiny
    return jnp.where(positive, 1 / jnp.where(positive, x, 1), 0)


def difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """The difference x - y, 0 with gradient 0 where it is no more than rounding errors.

    For what has no slope at 0 of its own: of two equal results the compiler may round one only.
    """
    gap = x - y
    noise = 8 * jnp.finfo(x.dtype).eps * jnp.maximum(jnp.abs(x), jnp.abs(y))
    return jnp.where(jnp.abs(gap) > jax.lax.stop_gradient(noise), gap, 0)


def absolute(x: jax.Array) -> jax.Array:
    """Absolute value whose gradient at 0 is 0, where that of `jnp.abs` is 1."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def huber(gap: jax.Array, delta: ArrayLike = 1.0) -> jax.Array:
    """gap^2 / 2 up to |gap| = delta, then delta (|gap| - delta / 2)."""
    bound = jnp.asarray(delta, gap.dtype)
    inside = jnp.clip(gap, -bound, bound)
    return inside * (gap - inside / 2)


def unit_rows(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """Rows of unit length, x / ||x||_2 along the axes; 0 with gradient 0 where x is 0.

    In float32 for entries from 1e-37 to 1e37 in size.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True, initial=0))
    x = x * safe_reciprocal(largest)  # else the squares of tiny and huge x leave float32's range
    return x * safe_reciprocal(safe_root((x * x).sum(axis, keepdims=True)))


@jax.custom_vjp
def gram(x: jax.Array) -> jax.Array:
    """X x^T [N, N] of the rows of x [N, D]; its gradient takes one product instead of two."""
    return jnp.matmul(x, x.T, precision=HIGHEST)


def _gram_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (jnp.matmul(cotangent + cotangent.T, x, precision=HIGHEST),)


gram.defvjp(lambda x: (gram(x), x), _gram_backward)


def squared_distances(x: jax.Array, y: jax.Array | None = None) -> jax.Array:
    """Squared distances [N, M] between the rows of x [N, D] and y [M, D], 0 where they coincide.

    From the product x y^T, without [N, M, D] differences: subtract a common centre first. What
    does not rise above the rounding errors of |x|^2 + |y|^2 is 0: in float32, distances below
    0.3 % of the rows' length. Without y, those of x among themselves.
    """
    if y is None:
        y, products = x, gram(x)
    else:
        products = jnp.matmul(x, y.T, precision=HIGHEST)
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1)[None]
    distances = squares - 2 * products
    info = jnp.finfo(x.dtype)
    return jnp.where(distances > jnp.maximum(_NOISE * info.eps * squares, info.tiny), distances, 0)


def reduce_tuples(
    total: jax.Array, count: jax.Array, reduction: str, axis_name: str | None = None
) -> jax.Array:
    """The sum over the tuples or their mean; the mean over no tuples is 0.

    `axis_name` is that over which the rows were gathered.
    """
    one_of("reduction", reduction, ("mean", "sum"))
    if reduction == "mean":
        total = total / jnp.maximum(count, 1).astype(total.dtype)
    return replicated(total, axis_name)
