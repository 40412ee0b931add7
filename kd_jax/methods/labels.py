"""Losses of one network on the labels: cross-entropy, or a classifier by angle with a margin."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from kd_jax import losses
from kd_jax.errors import UsageError
from kd_jax.methods.base import Batch, check_choice
from kd_jax.models import Outputs

LabelLoss = Callable[[Outputs, Batch], jax.Array]
"""From a network's outputs and the batch to one loss an image, `[N]`."""


def cross_entropy(outputs: Outputs, batch: Batch) -> jax.Array:
    """Cross-entropy of the logits."""
    return losses.cross_entropy(outputs.logits, batch["label"])


def a_softmax(
    outputs: Outputs,
    batch: Batch,
    *,
    margin: int = 4,
    start: float = 1000.0,
    gamma: float = 0.12,
    power: float = 1.0,
    least: float = 5.0,
) -> jax.Array:
    """A-Softmax, whose margin grows with the steps of the stage: see `losses.a_softmax_blend`."""
    blend = losses.a_softmax_blend(
        batch["step"], start=start, gamma=gamma, power=power, least=least
    )
    norms = optax.safe_norm(outputs.embedding, 1e-12, axis=1)  # |x|, with slope 0 at 0
    return losses.a_softmax(_cosines(outputs), norms, batch["label"], margin=margin, blend=blend)


def arcface(
    outputs: Outputs, batch: Batch, *, scale: float = 64.0, margin: float = 0.5
) -> jax.Array:
    """ArcFace."""
    return losses.arcface(_cosines(outputs), batch["label"], scale=scale, margin=margin)


def cosface(
    outputs: Outputs, batch: Batch, *, scale: float = 64.0, margin: float = 0.35
) -> jax.Array:
    """CosFace."""
    return losses.cosface(_cosines(outputs), batch["label"], scale=scale, margin=margin)


def normalized_softmax(outputs: Outputs, batch: Batch, *, scale: float = 64.0) -> jax.Array:
    """Softmax of scaled cosines, without a margin."""
    return losses.normalized_softmax(_cosines(outputs), batch["label"], scale=scale)


def sphereface_r(
    outputs: Outputs, batch: Batch, *, scale: float = 30.0, margin: float = 1.7
) -> jax.Array:
    """SphereFace-R."""
    return losses.sphereface_r(_cosines(outputs), batch["label"], scale=scale, margin=margin)


def _cosines(outputs: Outputs) -> jax.Array:
    if outputs.cosines is None:
        raise UsageError(
            "method.loss needs a classifier by angle: set options.head = 'angular' of the network,"
            " or loss = 'cross_entropy'."
        )
    return outputs.cosines


LABEL_LOSSES: dict[str, Callable] = {
    function.__name__: function
    for function in (cross_entropy, a_softmax, arcface, cosface, normalized_softmax, sphereface_r)
}


def default_options(name: str) -> dict[str, Any]:
    """The options of a loss and their defaults, for a config to write out."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(LABEL_LOSSES[name]).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def label_loss(name: str, options: Mapping[str, Any]) -> LabelLoss:
    """The loss of a name, with its options set.

    Args:
        name: one of `LABEL_LOSSES`.
        options: keywords of it.

    Raises:
        ValueError: if the name or an option is unknown.
    """
    check_choice("loss", name, tuple(LABEL_LOSSES))
    function, known = LABEL_LOSSES[name], default_options(name)
    for option in options:
        if option not in known:
            names = ", ".join(known) or "none"
            raise ValueError(f"options.{option} is not used by {name}: its options are {names}")
    return lambda outputs, batch: function(outputs, batch, **options)
