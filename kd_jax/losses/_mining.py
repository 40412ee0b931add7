"""Selection of positive and negative images for metric learning, with memory of O(N^2).

An anchor and a positive are two images of one class; a negative is an image of another class. Each
device selects for its own anchors, among all images of the global batch. A triplet is never stored:
the negatives of an anchor are sorted once, and a binary search per pair does the rest.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _numerics

MINING = ("all", "batch_hard", "distance", "hard", "semihard")
"""Ways to select triplets, see `triplet_margin`."""

CUTOFF = 0.5
LARGEST_DISTANCE = 1.4
"""Both are the constants of RKD's `DistanceWeighted`, for embeddings of unit length."""

_MOST_LEVELS = 31  # of a binary search, for a batch size that is unknown


class Pairs(NamedTuple):
    """The pairs of N own anchors and all M images.

    Attributes:
        distances: Euclidean distances, [N, M].
        positive: boolean [N, M], the pairs of two images of one class.
        negative: boolean [N, M], the pairs of images of two classes.
    """

    distances: jax.Array
    positive: jax.Array
    negative: jax.Array


class Triplets(NamedTuple):
    """Up to K triplets of each own anchor.

    Attributes:
        positive: distances between anchor and positive, [N, K].
        negative: distances between anchor and negative, [N, K].
        mask: boolean [N, K], False for entries without a triplet.
    """

    positive: jax.Array
    negative: jax.Array
    mask: jax.Array


def as_embeddings(
    embeddings: ArrayLike, labels: ArrayLike, where: ArrayLike | None, normalize: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checks embeddings [N, D] and their labels; returns both, with masked rows 0, and the mask."""
    (x,) = _numerics.upcast(embeddings)
    labels = _numerics.as_labels(labels, x)
    mask = _numerics.as_mask(where, x)
    x = _numerics.keep_rows(x, mask)
    return _numerics.unit_rows(x) if normalize else x, labels, mask


def class_pairs(
    labels: jax.Array, mask: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """Returns the masks [N, M] of the positive and of the negative pairs."""
    same = labels[:, None] == _batch.gather_rows(labels, axis_name)[None]
    return _batch.distinct_pairs(mask, axis_name) & same, _batch.pairs(mask, axis_name) & ~same


def measured_pairs(
    x: jax.Array, labels: jax.Array, mask: jax.Array, axis_name: str | None
) -> Pairs:
    """Returns the pairs of a batch with their distances, from rows [N, D] that are 0 if masked."""
    positive, negative = class_pairs(labels, mask, axis_name)
    used = jnp.where(positive | negative, squares(x, mask, axis_name), 0)
    distances = _numerics.safe_root(used)
    return Pairs(distances, positive, negative)


def squares(x: jax.Array, mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns squared distances [N, M] of rows [N, D]; rows outside the mask must be 0."""
    rows = _batch.centered(x, mask, _batch.masked_mean(x, mask, axis_name))
    return _batch.squared_distances(rows, axis_name=axis_name)


def row_numbers(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the positions [N] of the own rows in the global batch."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * x.shape[0]
    return first + jnp.arange(x.shape[0], dtype=jnp.int32)


def select(
    pairs: Pairs,
    x: jax.Array,
    mask: jax.Array,
    mining: str,
    key: jax.Array | None,
    axis_name: str | None,
) -> Triplets:
    """Selects triplets in a way of `MINING` other than "all".

    Args:
        pairs: the pairs of the own anchors.
        x: rows [N, D]; only "distance" uses them.
        mask: boolean [N], the rows in use.
        mining: one of `MINING`.
        key: a key of `jax.random` for "distance", the same on all devices.
        axis_name: name of the mapped axis that splits the batch.
    """
    distances, positive, negative = pairs
    fixed = jax.lax.stop_gradient(distances)
    exists = negative.any(1, keepdims=True)
    if mining == "batch_hard":
        furthest = jnp.argmax(jnp.where(positive, fixed, -1), 1, keepdims=True)
        nearest = _nearest(fixed, negative)
        both = exists & positive.any(1, keepdims=True)
        return Triplets(_of(distances, furthest), _of(distances, nearest), both)
    if mining == "hard":
        nearest = jnp.broadcast_to(_nearest(fixed, negative), distances.shape)
    elif mining == "semihard":
        nearest = _semihard(fixed, negative)
    else:
        nearest = _drawn(x, mask, pairs, key, axis_name)
    return Triplets(distances, _of(distances, nearest), positive & exists)


def _of(matrix: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.take_along_axis(matrix, columns, 1)


def _nearest(distances: jax.Array, negative: jax.Array) -> jax.Array:
    """Returns the column [N, 1] of the nearest negative."""
    return jnp.argmin(jnp.where(negative, distances, jnp.inf), 1, keepdims=True)


def _semihard(distances: jax.Array, negative: jax.Array) -> jax.Array:
    """Returns the columns [N, M] of the negatives of all pairs of an anchor and a positive.

    It is the nearest negative that is further away than the positive, or the furthest negative if
    there is none.
    """
    candidates = jnp.where(negative, distances, jnp.inf)
    order = jnp.argsort(candidates, 1)
    place = count_below(_of(candidates, order), distances, equal=True)
    last = jnp.maximum(negative.sum(1, keepdims=True, dtype=jnp.int32) - 1, 0)
    return _of(order, jnp.minimum(place, last))


def count_below(ordered: jax.Array, values: jax.Array, *, equal: bool) -> jax.Array:
    """Counts the entries of each sorted row [N, M] that are below the values [N, K] of the row.

    Args:
        ordered: rows in ascending order.
        values: the bounds.
        equal: count entries that are equal to the bound too.

    Returns:
        Integers [N, K].
    """
    size = ordered.shape[1]
    levels = math.ceil(math.log2(size + 1)) if isinstance(size, int) else _MOST_LEVELS

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) // 2
        entry = _of(ordered, jnp.minimum(middle, size - 1))
        below = (entry <= values if equal else entry < values) & (low < high)
        return jnp.where(below, middle + 1, low), jnp.where(below | (low >= high), high, middle)

    # Under `shard_map` both bounds differ between devices from the start, like the values.
    low = jnp.zeros_like(values, jnp.int32)
    low, _ = jax.lax.fori_loop(0, levels, halve, (low, low + size))
    return low


def hinge(gap: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns max(0, gap) in the mask, with slope 0 at 0, and 0 elsewhere."""
    return jnp.where(mask & ~(gap <= 0), gap, 0)


def hinge_sum(pairs: Pairs, margin: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums max(0, d_ap - d_an + margin) over all triplets of the own anchors.

    The slope of the sum by a distance is the number of its triplets with a positive loss, so two
    sorted rows per anchor give the value and the gradient.

    Returns:
        The sum and the number of triplets with a positive loss.
    """
    distances, positive, negative = pairs
    bounds = distances + margin
    fixed, fixed_bounds = jax.lax.stop_gradient((distances, bounds))
    others = jnp.sort(jnp.where(negative, fixed, jnp.inf), 1)
    of_positive = jnp.where(positive, count_below(others, fixed_bounds, equal=False), 0)
    sides = jnp.sort(jnp.where(positive, fixed_bounds, jnp.inf), 1)
    passed = count_below(sides, fixed, equal=True)
    of_negative = jnp.where(negative, positive.sum(1, keepdims=True, dtype=jnp.int32) - passed, 0)
    # All distances are counted from that of the nearest negative: without it, two large sums would
    # cancel. It is infinite where an anchor has no negative.
    start = jnp.where(negative.any(1, keepdims=True), others[:, :1], 0)
    dtype = distances.dtype
    above = jnp.where(positive, of_positive.astype(dtype) * (bounds - start), 0)
    below = jnp.where(negative, of_negative.astype(dtype) * (distances - start), 0)
    return (above.sum(1) - below.sum(1)).sum(), of_positive.sum(1).astype(dtype).sum()


def _drawn(
    x: jax.Array, mask: jax.Array, pairs: Pairs, key: jax.Array | None, axis_name: str | None
) -> jax.Array:
    """Draws the columns [N, M] of a negative for each pair, see `negative_weights`.

    A row of random numbers depends on the key and on the position of the row in the global batch,
    so the number of devices does not change the draws.
    """
    if key is None:
        raise ValueError("mining 'distance' needs key, a key of jax.random")
    weights = negative_weights(x, mask, pairs.negative, axis_name)
    totals = jnp.cumsum(weights, 1)
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(row_numbers(x, axis_name))
    size = weights.shape[1]
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (size,), weights.dtype))(keys)
    # Rounding could otherwise reach the end, past the last negative.
    most = jnp.nextafter(totals[:, -1:], jnp.zeros_like(totals[:, -1:]))
    places = count_below(totals, jnp.minimum(uniform * totals[:, -1:], most), equal=True)
    places = jnp.minimum(places, size - 1)
    # A parallel cumulative sum may rise by its rounding error at an entry without a weight.
    likeliest = jnp.argmax(weights, 1, keepdims=True).astype(places.dtype)
    return jnp.where(_of(weights, places) > 0, places, likeliest)


def negative_weights(
    x: jax.Array, mask: jax.Array, negative: jax.Array, axis_name: str | None
) -> jax.Array:
    """Computes the relative probabilities [N, M] of the negatives of each own anchor, in float32.

    A distance d between random points on a sphere in D dimensions has the density
    q(d) ~ d^(D - 2) (1 - d^2 / 4)^((D - 3) / 2). A negative has the weight 1 / q(max(d, 0.5)), or 0
    from d = 1.4 on. Distances are those of the L2-normalized rows. Weights are relative to the
    largest of the row, those of the anchor (as if d = 1) and of its positives included, as in the
    code of RKD. If all weights of a row are 0, or too small for float32, all negatives have the
    weight 1.
    """
    x = _numerics.unit_rows(jax.lax.stop_gradient(x).astype(jnp.float32))
    itself = _batch.same_image(mask, axis_name)
    apart = jnp.where(itself, 1, squares(x, mask, axis_name))
    distances = jnp.maximum(_numerics.safe_root(apart), CUTOFF)
    width = x.shape[1]
    # Rows in opposite directions have d = 2.
    rest = jnp.maximum(1 - distances * distances / 4, jnp.finfo(x.dtype).eps)
    logs = (2.0 - width) * jnp.log(distances) - (width - 3.0) / 2 * jnp.log(rest)
    largest = jnp.max(jnp.where(_batch.pairs(mask, axis_name), logs, -jnp.inf), 1, keepdims=True)
    largest = jnp.where(mask[:, None], largest, 0)
    near = negative & (distances < LARGEST_DISTANCE)
    weights = jnp.where(near, jnp.exp(logs - largest), 0)
    empty = weights.sum(1, keepdims=True) == 0
    return jnp.where(empty & negative, 1, weights)
