"""What the kernels share: dtypes, checks, masks, and distances that are safe to differentiate."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

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


def as_labels(labels: ArrayLike, rows: jax.Array) -> jax.Array:
    """The labels [N] of the rows [N, D], as int32."""
    labels = jnp.asarray(labels)
    fits = rows.ndim == 2 and labels.shape == rows.shape[:1]
    expect(fits, "rows [N, D] need labels [N]", rows=rows, labels=labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers; got {labels.dtype}")
    return labels.astype(jnp.int32)


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


def keep_rows(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Zeroes the other rows, whatever (NaN too) stands in them; they get no gradient."""
    return jnp.where(mask[:, None], x, jnp.zeros_like(x))


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean row [1, D] of the masked rows, zero if there is none."""
    count = jnp.maximum(mask.sum(), 1).astype(x.dtype)
    return keep_rows(x, mask).sum(0, keepdims=True) / count


def safe_root(x: jax.Array) -> jax.Array:
    """Square root whose gradient at 0 is 0."""
    positive = x > 0
    # The inner `where` keeps the infinite slope out of the backward pass, where it meets a zero.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_reciprocal(x: jax.Array) -> jax.Array:
    """1 / x for positive x, else 0 with gradient 0."""
    positive = x > 0
    return jnp.where(positive, 1 / jnp.where(positive, x, 1), 0)


def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Squared distances [N, M] between the rows of x [N, D] and y [M, D], 0 where they coincide.

    From the product x y^T, without [N, M, D] differences: subtract a common centre first. What
    does not rise above the rounding errors of |x|^2 + |y|^2 is 0: in float32, distances below
    0.3 % of the rows' length.
    """
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1)[None]
    distances = squares - 2 * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    info = jnp.finfo(x.dtype)
    return jnp.where(distances > jnp.maximum(_NOISE * info.eps * squares, info.tiny), distances, 0)


def reduce_tuples(total: jax.Array, count: jax.Array, reduction: str) -> jax.Array:
    """The sum over the tuples or their mean; the mean over no tuples is 0."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum'; got {reduction!r}")
    return total if reduction == "sum" else total / jnp.maximum(count, 1).astype(total.dtype)
