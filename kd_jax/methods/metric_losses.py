"""Label losses of metric learning: they compare the embeddings of the images of a batch."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.methods.base import Batch, PyTree
from kd_jax.methods.label_losses import register_label_loss
from kd_jax.models import AngularMap, Outputs


@register_label_loss("triplet")
def triplet(
    outputs: Outputs,
    batch: Batch,
    *,
    axis_name: str | None = None,
    margin: float = 0.2,
    mining: str = "distance",
    reduction: str = "mean",
    normalize: bool = True,
) -> jax.Array:
    """Computes the triplet loss; the defaults are those of RKD's teachers."""
    return losses.triplet_margin(
        outputs.embedding,
        batch["label"],
        margin=margin,
        mining=mining,
        reduction=reduction,
        key=_key(batch, mining, "triplet"),
        normalize=normalize,
        axis_name=axis_name,
    )


def _initial_boundary(
    key: jax.Array,
    outputs: Outputs,
    *,
    boundary: float = 1.2,
    learn_boundary: bool = False,
    **options: Any,
) -> PyTree:
    """Makes one boundary per class if they are learned."""
    del key, options
    classes = outputs.logits.shape[-1]
    return {"boundary": jnp.full(classes, boundary, jnp.float32)} if learn_boundary else {}


@register_label_loss("margin", init=_initial_boundary)
def margin(
    outputs: Outputs,
    batch: Batch,
    *,
    axis_name: str | None = None,
    params: PyTree = None,
    margin: float = 0.2,
    boundary: float = 1.2,
    learn_boundary: bool = False,
    boundary_weight: float = 0.0,
    mining: str = "distance",
    normalize: bool = True,
) -> jax.Array:
    """Computes the margin loss of Wu et al.; the boundary of each class may be learned."""
    return losses.distance_margin(
        outputs.embedding,
        batch["label"],
        params["boundary"] if learn_boundary else boundary,
        margin=margin,
        boundary_weight=boundary_weight if learn_boundary else 0.0,
        mining=mining,
        key=_key(batch, mining, "margin"),
        normalize=normalize,
        axis_name=axis_name,
    )


@register_label_loss("contrastive")
def contrastive(
    outputs: Outputs,
    batch: Batch,
    *,
    axis_name: str | None = None,
    positive_margin: float = 0.0,
    negative_margin: float = 1.0,
    variant: str = "pytorch-metric-learning",
    normalize: bool = True,
) -> jax.Array:
    """Computes the contrastive loss."""
    return losses.contrastive_pairs(
        outputs.embedding,
        batch["label"],
        positive_margin=positive_margin,
        negative_margin=negative_margin,
        variant=variant,
        normalize=normalize,
        axis_name=axis_name,
    )


@register_label_loss("n_pair")
def n_pair(
    outputs: Outputs, batch: Batch, *, axis_name: str | None = None, normalize: bool = False
) -> jax.Array:
    """Computes the multi-class N-pair loss, of raw embeddings by default, as in the paper."""
    return losses.n_pair(
        outputs.embedding, batch["label"], normalize=normalize, axis_name=axis_name
    )


@register_label_loss("multi_similarity")
def multi_similarity(
    outputs: Outputs,
    batch: Batch,
    *,
    axis_name: str | None = None,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> jax.Array:
    """Computes the multi-similarity loss. An epsilon of 2 leaves no pair out.

    Only images with positives and negatives in the batch select pairs.
    """
    return losses.multi_similarity(
        outputs.embedding,
        batch["label"],
        alpha=alpha,
        beta=beta,
        base=base,
        epsilon=epsilon,
        axis_name=axis_name,
    )


def _initial_proxies(key: jax.Array, outputs: Outputs, **options: Any) -> PyTree:
    """Makes one proxy per class."""
    del options
    return AngularMap(outputs.logits.shape[-1]).init(key, outputs.embedding)["params"]


@register_label_loss("proxy_nca", init=_initial_proxies)
def proxy_nca(
    outputs: Outputs,
    batch: Batch,
    *,
    params: PyTree = None,
    scale: float = 1.0,
    variant: str = "pytorch-metric-learning",
) -> jax.Array:
    """Computes the proxy-NCA loss; the proxies are trained with the network, and then dropped."""
    proxies = AngularMap(outputs.logits.shape[-1])
    cosines, _ = proxies.apply({"params": params}, outputs.embedding)
    return losses.proxy_nca(cosines, batch["label"], scale=scale, variant=variant)


def _key(batch: Batch, mining: str, name: str) -> jax.Array | None:
    """Returns the key of the draws, or None if the mining draws nothing."""
    if mining != "distance":
        return None
    if "key" not in batch:
        raise UsageError(
            f"batch has no key, which mining = 'distance' of {name} needs: add it, or set"
            " options.mining = 'semihard'."
        )
    return jax.random.fold_in(batch["key"], zlib.crc32(b"mining"))
