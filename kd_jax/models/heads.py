"""Heads: the embedding of a network, and classifiers that compute logits from it."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.models import layers


class AngularMap(nn.Module):
    """Cosines of the angles between embeddings and the directions of classes, in float32.

    The columns of the kernel are the directions, of any length. There is no bias. The initial
    values are SphereFace's, Caffe's "xavier": U(-sqrt(3/D), sqrt(3/D)), of length 1 on average.
    (Caffe normalizes the columns after each step, and insightface starts from N(0, 0.01^2). The
    length has no influence on the cosines, but the direction of a long column changes slowly.)

    Attributes:
        features: number of classes.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps embeddings `[N, D]` to their cosines `[N, features]` and lengths `[N]`.

        A row or column of zeros, or shorter than 3e-16, has cosine 0 and length 0, both with
        gradient 0.
        """
        init = functools.partial(layers.uniform, bound=math.sqrt(3 / x.shape[-1]))
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        rows, norms = _unit(x.astype(jnp.float32), axis=1)
        columns, _ = _unit(kernel, axis=0)
        # The default precision would multiply in bfloat16 on TPUs.
        return jnp.dot(rows, columns, precision=jax.lax.Precision.HIGHEST), norms[:, 0]


def _unit(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns vectors along an axis, normalized to length 1, and their lengths; 0 for zeros."""
    squares = (x * x).sum(axis, keepdims=True)
    info = jnp.finfo(x.dtype)
    # In smaller sums, some terms have underflowed.
    zero = squares < info.tiny / info.eps  # False for NaN, which stays NaN
    # The inner `where` keeps infinite slopes out of the backward pass, which multiplies them by 0.
    norms = jnp.sqrt(jnp.where(zero, 1, squares))
    # An overflow would give the direction 0.
    directions = jnp.where(jnp.isinf(norms), jnp.nan, x / norms)
    return jnp.where(zero, 0, directions), jnp.where(zero, 0, norms)


def check_embedding(size: int | None) -> None:
    """Checks the width of an embedding.

    Raises:
        UsageError: if it is not None or a whole number of at least 1.
    """
    if size is not None and (not isinstance(size, int) or size < 1):
        raise UsageError(
            f"embedding_size = {size!r} must be a whole number of at least 1, or None for the"
            " pooled features."
        )


def embed(pooled: jax.Array, size: int | None, normalize: bool, prefix: str = "") -> jax.Array:
    """Computes the embedding of a network by a head that becomes a part of the calling module.

    It is the head of lenscloth/RKD, `model/embedding.py`: a linear map with a bias, then optional
    division by the L2 norm. The classifier takes the result.

    Args:
        pooled: features `[N, D]` after the last pooling.
        size: width of the linear map; None leaves it out.
        normalize: L2-normalize the result. Rows of zeros stay 0.
        prefix: prefix of the name `embedding` of the submodule.

    Returns:
        The embedding, float32 `[N, size]` or `[N, D]`.
    """
    if size is not None:
        pooled = layers.LinearMap(size, name=f"{prefix}embedding")(pooled)
    return _unit(pooled, axis=1)[0] if normalize else pooled


def check_head(head: str, scale: float | None) -> None:
    """Checks the arguments of `classify`.

    Raises:
        UsageError: if the head is unknown, or has no scale.
    """
    check_choice(head, _HEADS, "head")
    if head == "linear" and scale is not None:
        raise UsageError(
            f"head_scale = {scale} needs head = 'angular': a linear head has no scale."
        )


def classify(
    head: str,
    num_classes: int,
    embedding: jax.Array,
    scale: float | None = None,
    name: str = "classifier",
) -> tuple[jax.Array, jax.Array | None]:
    """Computes logits by a classifier that becomes a submodule of the calling module.

    Args:
        head: "linear" (`LinearMap`), or "angular" (`AngularMap`), with logits |x| cos(theta), or
            `scale` cos(theta). They have no margin: the losses of `kd_jax.losses` add it to the
            cosines.
        num_classes: number of logits.
        embedding: `[N, D]`.
        scale: factor of the angular head; None for the embedding's length.
        name: name of the submodule.

    Returns:
        The logits, `[N, num_classes]`, and the angular head's cosines, `[N, num_classes]`; both
        float32.
    """
    return _HEADS[head](num_classes, embedding, scale, name)


def _linear(
    num_classes: int, embedding: jax.Array, scale: float | None, name: str
) -> tuple[jax.Array, None]:
    return layers.LinearMap(num_classes, name=name)(embedding), None


def _angular(
    num_classes: int, embedding: jax.Array, scale: float | None, name: str
) -> tuple[jax.Array, jax.Array]:
    cosines, norms = AngularMap(num_classes, name=name)(embedding)
    return (norms[:, None] if scale is None else scale) * cosines, cosines


_HEADS: dict[str, Callable[..., tuple[jax.Array, jax.Array | None]]] = {
    "linear": _linear,
    "angular": _angular,
}
