"""Noise-contrastive terms of `contrastive_representation`, without gradients by scatters.

Each image is compared with columns of scores: all rows of the memory, weighted by the number of
times that the image has drawn them, or the rows of a set that the batch shares. The gradient of a
weighted sum over columns is one product. The gradient of gathered scores would be a scatter, which
accelerators sort.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics

# RepDistiller adds it to avoid the logarithm of 0.
_EPSILON = 1e-7
_LANES = 128  # width of the vector units of TPUs


class Noise(NamedTuple):
    """The other rows of the memory with which the images are compared.

    Attributes:
        rows: positions in the memory, int32 [K], or None for all rows of the memory.
        weights: number of times that an image is compared with a row, [N, K] or [N, n].
        number: sum of the weights of each image, [N].
        known: scalar, 0, or NaN if an image that is used has a position outside the memory.
    """

    rows: jax.Array | None
    weights: jax.Array
    number: jax.Array
    known: jax.Array


class Scores(NamedTuple):
    """The scores v . m / T of one network's embeddings v with rows m of the other's memory.

    Attributes:
        own: scores of the images' own rows, [N].
        others: scores of the other rows, as the weights of `Noise`.
    """

    own: jax.Array
    others: jax.Array


def noise(
    negatives: jax.Array,
    valid: ArrayLike | None,
    mask: jax.Array,
    images: int,
    dtype: jax.typing.DTypeLike,
) -> Noise:
    """Returns the rows and weights for negatives [N, K], or [K] if the batch shares them.

    Args:
        negatives: positions in the memory, int32.
        valid: boolean [N, K]; negatives with False are left out. None is all True.
        mask: boolean [N]; images with False are left out.
        images: number of rows of the memory, n.
        dtype: dtype of the weights.
    """
    shape = mask.shape[0], negatives.shape[-1]
    used = jnp.broadcast_to(mask[:, None], shape)
    used = used if valid is None else used & jnp.asarray(valid)
    outside = jnp.broadcast_to((negatives < 0) | (negatives >= images), shape) & used
    known = jnp.where(outside.any(), jnp.nan, 0).astype(dtype)
    number = used.sum(1).astype(dtype)
    if negatives.ndim == 1:
        return Noise(jnp.clip(negatives, 0, images - 1), used.astype(dtype), number, known)
    negatives = jnp.where(used, negatives, images)
    counts = jax.lax.platform_dependent(
        negatives,
        tpu=lambda x: _counts_by_products(x, images).astype(dtype),
        default=lambda x: _counts(x, images).astype(dtype),
    )
    return Noise(None, counts, number, known)


def scores(
    x: jax.Array, bank: jax.Array, index: jax.Array, others: Noise, temperature: jax.Array
) -> Scores:
    """Computes the scores of the embeddings x [N, D]; no gradient flows into the bank [n, D]."""
    bank = jax.lax.stop_gradient(bank).astype(x.dtype)
    x += _numerics.nan_unless_finite(x) + others.known  # an infinite score may have the loss 0
    rows = bank.at[index].get(mode="fill", fill_value=jnp.nan)  # outside the memory
    own = (x * rows).sum(1) / temperature
    columns = bank if others.rows is None else bank[others.rows]
    products = jnp.matmul(x, columns.T, precision=_numerics.HIGHEST)
    return Scores(own, products / temperature)


def mean_exponential(scores: Scores, others: Noise) -> jax.Array:
    """Returns the mean [N] of exp(score) over the own row and the other rows of each image."""
    used = others.weights > 0
    total = (others.weights * jnp.exp(jnp.where(used, scores.others, 0))).sum(1)
    return (jnp.exp(scores.own) + total) / (others.number + 1)


def negative_log_likelihood(
    scores: Scores, others: Noise, log_partition: jax.Array, images: int
) -> jax.Array:
    """Computes -log P(own row is own) - sum log P(other rows are not), [N]."""
    density = others.number / images
    level = log_partition + jnp.log(density + _EPSILON)
    # The weight of an unused row is 0, but 0 * inf is NaN.
    excess = jnp.where(others.weights > 0, scores.others - level[:, None], 0)
    total = (others.weights * jax.nn.softplus(excess)).sum(1)
    # log(c + epsilon) - log(c), for each of the other rows. Without other rows, c is 0.
    guard = others.number * jnp.log1p(_EPSILON / jnp.maximum(density, 1 / images))
    return jax.nn.softplus(level - scores.own) + total + guard


def _counts(positions: jax.Array, images: int) -> jax.Array:
    """Counts each position [N, K] per row, int32 [N, n]; positions past the end are dropped."""
    rows = jnp.arange(positions.shape[0])[:, None]
    zeros = jnp.zeros((positions.shape[0], images), jnp.int32)
    return zeros.at[rows, positions].add(1, mode="drop")


def _counts_by_products(positions: jax.Array, images: int) -> jax.Array:
    """Computes `_counts` as products of indicators, which TPUs compute faster than a scatter."""
    blocks = -(-images // _LANES)
    # Products of 0 and 1 and their sums below 2^24 are exact. The indicators are never in memory.
    block = jax.nn.one_hot(positions // _LANES, blocks, dtype=jnp.bfloat16, axis=1)
    lane = jax.nn.one_hot(positions % _LANES, _LANES, dtype=jnp.bfloat16, axis=1)
    counts = jnp.einsum("nbk,nlk->nbl", block, lane, preferred_element_type=jnp.float32)
    return counts.reshape(positions.shape[0], -1)[:, :images].astype(jnp.int32)
