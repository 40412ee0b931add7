"""Memory for time: intermediate results that the backward pass computes again."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import lax

from kd_jax.models.convolution import CONVOLUTION

REMAT = {
    "none": "keeps all that the backward pass needs",
    "convolutions": "keeps the results of convolutions and products",
    "blocks": "keeps the results of the blocks of a network",
}
"""The choices in configs, and what each keeps of the forward pass."""


def _of_products(primitive: Any, *_: Any, **__: Any) -> bool:
    """Returns whether an operation is a product, or a convolution of another network than ours."""
    return primitive in (lax.conv_general_dilated_p, lax.dot_general_p)


_POLICIES = jax.checkpoint_policies
_CONVOLUTIONS = _POLICIES.save_from_both_policies(
    _of_products, _POLICIES.save_only_these_names(CONVOLUTION)
)


def has_blocks(network: nn.Module) -> bool:
    """Returns whether a network can compute its blocks again: it has the field `remat`."""
    return hasattr(network, "remat")


def applied(network: nn.Module, kind: str, **options: Any) -> Callable[..., Any]:
    """Returns `network.apply`, whose backward pass computes intermediate results again.

    Values and gradients stay the same, except for the rounding of another order of operations.

    Args:
        network: the network.
        kind: a name in `REMAT`.
        **options: options of `network.apply` that are no arrays.
    """
    if kind == "blocks":
        network = network.clone(remat=True)
    apply = functools.partial(network.apply, **options)
    return jax.checkpoint(apply, policy=_CONVOLUTIONS) if kind == "convolutions" else apply
