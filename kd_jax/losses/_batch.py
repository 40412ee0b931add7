"""Sums and matrices over the images of the global batch.

With `axis_name`, each device has N of the M images of the global batch. It computes its own N rows
of a matrix [M, M] over all images, and a sum over the devices joins the results. Without
`axis_name`, M is N.
"""

import functools

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import HIGHEST, keep_rows, one_of

REDUCTIONS = ("mean", "batchmean", "sum")
"""Reductions of losses over tuples of images. "batchmean" is the sum over all tuples divided by the
number of images, as in PyTorch."""

# The measured error of a squared distance is below 10 roundings of the squared norms (widths up to
# 4096, heavy tails). A squared distance of up to 32 roundings is too inexact to divide by, so such
# rows count as equal.
_NOISE = 32


def gather_rows(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the rows of the global batch, in the order of the devices along `axis_name`."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def sum_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the sum of the values of all devices along `axis_name`."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def replicated(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Marks a value that every device has computed from gathered rows as equal on all devices.

    `shard_map` sums the gradients of the devices for a value that it does not know to be equal on
    all of them. The mark makes the gradient correct there too. A result of `sum_devices` needs no
    mark.
    """
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def masked_mean(x: jax.Array, mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns the mean [1, D] of the rows in the mask, or zeros if the mask is empty."""
    count = sum_devices(mask.sum(), axis_name)
    total = sum_devices(keep_rows(x, mask).sum(0, keepdims=True), axis_name)
    return total / jnp.maximum(count, 1).astype(x.dtype)


def centered(x: jax.Array, mask: jax.Array, shift: jax.Array) -> jax.Array:
    """Subtracts a common shift, such as the mean, from the rows in the mask; others become 0.

    A common shift changes no distance, so it needs no gradient.
    """
    return keep_rows(x - jax.lax.stop_gradient(shift), mask)


def reduce_images(
    values: jax.Array, mask: jax.Array, axis_name: str | None, reduction: str = "mean"
) -> jax.Array:
    """Returns the sum or the mean, over the global batch, of the values [N] in the mask."""
    total = sum_devices(jnp.where(mask, values, 0).sum(), axis_name)
    return reduce_tuples(total, sum_devices(mask.sum(), axis_name), reduction)


def reduce_tuples(
    total: jax.Array, count: jax.Array, reduction: str, *, images: jax.Array | None = None
) -> jax.Array:
    """Returns a sum over tuples of images, reduced as one of `REDUCTIONS`.

    Args:
        total: the sum over the tuples.
        count: number of tuples; "mean" divides by it. The mean over no tuples is 0.
        reduction: one of `REDUCTIONS`.
        images: number of images of the batch; "batchmean" divides by it. None is `count`.
    """
    one_of("reduction", reduction, REDUCTIONS)
    if reduction == "sum":
        return total
    divisor = count if reduction == "mean" or images is None else images
    return total / jnp.maximum(divisor, 1).astype(total.dtype)


def same_image(x: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns the own rows [N, M] of the identity matrix over the images, for x [N, ...]."""
    n = x.shape[0]
    if axis_name is None:
        return jnp.eye(n, dtype=bool)
    first = jax.lax.axis_index(axis_name) * n
    return jnp.eye(n, n * jax.lax.axis_size(axis_name), first, dtype=bool)


def pairs(mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns the mask [N, M] of the pairs of an own row and a row of the global batch."""
    return mask[:, None] & gather_rows(mask, axis_name)[None]


def distinct_pairs(mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns the mask [N, M] of the pairs of two different rows in the mask [N]."""
    return pairs(mask, axis_name) & ~same_image(mask, axis_name)


def diagonal(matrix: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns the own part [N] of the diagonal of a matrix, from its own rows [N, M]."""
    n = matrix.shape[0]
    if axis_name is not None:
        first = jax.lax.axis_index(axis_name) * n
        matrix = jax.lax.dynamic_slice_in_dim(matrix, first, n, axis=1)
    return jnp.diagonal(matrix)


def transposed(matrix: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns the own rows [N, M] of the transpose of a matrix, from its own rows [N, M]."""
    if axis_name is not None:
        matrix = jax.lax.all_to_all(matrix, axis_name, split_axis=1, concat_axis=0, tiled=True)
    return matrix.T


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gram(x: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Computes the own rows [N, M] of x x^T for x [N, D].

    The gradient needs one product instead of two.
    """
    return _gram_forward(x, axis_name)[0]


def _gram_forward(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    rows = gather_rows(x, axis_name)
    return jnp.matmul(x, rows.T, precision=HIGHEST), rows


def _gram_backward(
    axis_name: str | None, rows: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array]:
    both = cotangent + transposed(cotangent, axis_name)
    return (jnp.matmul(both, rows, precision=HIGHEST),)


gram.defvjp(_gram_forward, _gram_backward)


def squared_distances(
    x: jax.Array, y: jax.Array | None = None, axis_name: str | None = None
) -> jax.Array:
    """Computes squared distances between the own rows of x [N, D] and all rows of y.

    Without y, the distances are those between the rows of x. They come from the product x y^T, not
    from differences: subtract a common center from x and y first. A squared distance within the
    rounding error of |x|^2 + |y|^2 becomes 0. In float32, these are distances below 0.3 % of the
    length of the rows. Distances from a row whose squared length is not finite are infinite or NaN.

    Args:
        x: own rows, [N, D].
        y: own rows of the other set, or None for x.
        axis_name: name of the mapped axis over which the rows of x and y are split.

    Returns:
        The distances to all rows of y on all devices, one row per own row of x.
    """
    if y is None:
        y, products = x, gram(x, axis_name)
    else:
        products = jnp.matmul(x, gather_rows(y, axis_name).T, precision=HIGHEST)
    squares = (x * x).sum(1)[:, None] + gather_rows((y * y).sum(1), axis_name)[None]
    distances = squares - 2 * products
    info = jnp.finfo(x.dtype)
    # An infinite distance is above each finite bound.
    noise = jnp.clip(_NOISE * info.eps * squares, info.tiny, info.max)
    return jnp.where(distances <= noise, 0, distances)
