"""Classifiers: what makes logits of a network's embedding."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.errors import UsageError, choices
from kd_jax.models import layers


class AngularMap(nn.Module):
    """Cosines of the angles between embeddings and the directions of classes, in float32.

    The kernel's columns are the directions, of any length; there is no bias. They start as
    SphereFace's do, by Caffe's "xavier": U(-sqrt(3/D), sqrt(3/D)), of length 1 on average. (Caffe
    brings them back to length 1 after each step, and insightface starts from N(0, 0.01^2). The
    length has no influence on the cosines, but long columns turn slowly.)

    Attributes:
      features: number of classes.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps embeddings `[N, D]` to their cosines `[N, features]` and lengths `[N]`.

        A row or column of zeros, or shorter than 3e-16, has cosine 0, and length 0, with gradient
        0.
        """
        init = functools.partial(layers.uniform, bound=math.sqrt(3 / x.shape[-1]))
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        rows, norms = _unit(x.astype(jnp.float32), axis=1)
        columns, _ = _unit(kernel, axis=0)
        # The default precision would multiply in bfloat16 on TPUs.
        return jnp.dot(rows, columns, precision=jax.lax.Precision.HIGHEST), norms[:, 0]


def _unit(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Vectors along an axis brought to length 1, and their lengths; 0 where they are 0."""
    squares = (x * x).sum(axis, keepdims=True)
    info = jnp.finfo(x.dtype)
    # Of smaller sums, parts have underflowed.
    positive = squares >= info.tiny / info.eps
    # The inner `where` keeps infinite slopes out of the backward pass, where they meet a zero.
    norms = jnp.sqrt(jnp.where(positive, squares, 1))
    return jnp.where(positive, x / norms, 0), jnp.where(positive, norms, 0)


def check(head: str, scale: float | None) -> None:
    """Refuses what `classify` does not know.

    Raises:
      UsageError: if the head is unknown, or has no scale.
    """
    if head not in _HEADS:
        raise UsageError(f"head={head!r} is unknown: choose one of {choices(head, _HEADS)}.")
    if head == "linear" and scale is not None:
        raise UsageError(f"head_scale={scale} needs head='angular': a linear head has no scale.")


def classify(
    head: str, num_classes: int, embedding: jax.Array, scale: float | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """Logits by a classifier that becomes the submodule "classifier" of the module that calls.

    Args:
      head: "linear" (`LinearMap`), or "angular" (`AngularMap`), whose logits are |x| cos(theta), or
        `scale` cos(theta). They have no margin, which is for `kd_jax.losses` to ask of the cosines.
      num_classes: number of logits.
      embedding: `[N, D]`.
      scale: of the angular head; None for the embedding's length.

    Returns:
      The logits, `[N, num_classes]`, and the angular head's cosines; both float32.
    """
    return _HEADS[head](num_classes, embedding, scale)


def _linear(num_classes, embedding, scale):
    return layers.LinearMap(num_classes, name="classifier")(embedding), None


def _angular(num_classes, embedding, scale):
    cosines, norms = AngularMap(num_classes, name="classifier")(embedding)
    return (norms[:, None] if scale is None else scale) * cosines, cosines


_HEADS: dict[str, Callable] = {"linear": _linear, "angular": _angular}
