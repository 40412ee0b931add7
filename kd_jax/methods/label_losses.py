"""Losses of one network on the labels: cross-entropy, or an angular classifier with a margin."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from kd_jax import losses
from kd_jax.core.errors import UsageError, choices
from kd_jax.core.registry import Registry
from kd_jax.losses.margins import LARGEST_FACTOR
from kd_jax.methods.base import Batch
from kd_jax.models import Outputs

LabelLoss = Callable[[Outputs, Batch], jax.Array]
"""From a network's outputs and the batch to one loss per image, `[N]`."""

LABEL_LOSSES: Registry[Callable[..., jax.Array]] = Registry("label loss")
"""Label losses by name: `loss(outputs, batch, *, options...) -> [N]`."""

_NOT_NEGATIVE = (0.0, math.inf)
_SCALE = (math.ulp(0.0), math.inf)
_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "a_softmax": {
        "margin": (1, LARGEST_FACTOR),
        **dict.fromkeys(("start", "gamma", "power", "least"), _NOT_NEGATIVE),
    },
    "arcface": {"scale": _SCALE, "margin": (0.0, math.pi)},
    "cosface": {"scale": _SCALE, "margin": _NOT_NEGATIVE},
    "normalized_softmax": {"scale": _SCALE},
    "sphereface_r": {"scale": _SCALE, "margin": (1.0, math.inf)},
}
"""Smallest and greatest value of every option, see `kd_jax.losses.margins`."""


def register_label_loss(name: str, loss: Callable[..., jax.Array] | None = None) -> Any:
    """Adds a label loss of your own; use it as a decorator or call it.

    Args:
        name: its name in configs.
        loss: function `(outputs, batch, *, options...) -> [N]`. Its keyword arguments, which must
            have defaults, are the options in configs.
    """
    return LABEL_LOSSES.register(name, loss)


@register_label_loss("cross_entropy")
def cross_entropy(outputs: Outputs, batch: Batch) -> jax.Array:
    """Computes the cross-entropy of the logits; `label` may be soft, `[N, C]`."""
    label = batch["label"]
    if label.ndim == 2:
        return -(label * jax.nn.log_softmax(outputs.logits)).sum(-1)
    return losses.cross_entropy(outputs.logits, label)


@register_label_loss("a_softmax")
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
    """Computes A-Softmax; its margin grows with the steps, see `losses.a_softmax_blend`."""
    blend = losses.a_softmax_blend(
        batch["step"], start=start, gamma=gamma, power=power, least=least
    )
    norms = optax.safe_norm(outputs.embedding, 1e-12, axis=1)  # |x|, with slope 0 at 0
    return losses.a_softmax(_cosines(outputs), norms, batch["label"], margin=margin, blend=blend)


@register_label_loss("arcface")
def arcface(
    outputs: Outputs, batch: Batch, *, scale: float = 64.0, margin: float = 0.5
) -> jax.Array:
    """Computes ArcFace."""
    return losses.arcface(_cosines(outputs), batch["label"], scale=scale, margin=margin)


@register_label_loss("cosface")
def cosface(
    outputs: Outputs, batch: Batch, *, scale: float = 64.0, margin: float = 0.35
) -> jax.Array:
    """Computes CosFace."""
    return losses.cosface(_cosines(outputs), batch["label"], scale=scale, margin=margin)


@register_label_loss("normalized_softmax")
def normalized_softmax(outputs: Outputs, batch: Batch, *, scale: float = 64.0) -> jax.Array:
    """Computes the softmax of scaled cosines, without a margin."""
    return losses.normalized_softmax(_cosines(outputs), batch["label"], scale=scale)


@register_label_loss("sphereface_r")
def sphereface_r(
    outputs: Outputs, batch: Batch, *, scale: float = 30.0, margin: float = 1.7
) -> jax.Array:
    """Computes SphereFace-R."""
    return losses.sphereface_r(_cosines(outputs), batch["label"], scale=scale, margin=margin)


def _cosines(outputs: Outputs) -> jax.Array:
    if outputs.cosines is None:
        raise UsageError(
            "method.loss needs an angular classifier: set options.head = 'angular' of the network,"
            " or loss = 'cross_entropy'."
        )
    return outputs.cosines


def default_options(name: str) -> dict[str, Any]:
    """Returns the options of a label loss with their defaults."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(LABEL_LOSSES.get(name, "loss")).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def label_loss(name: str = "cross_entropy", options: Mapping[str, Any] | None = None) -> LabelLoss:
    """Returns the loss of a name, with its options set.

    Where the batch was made by mixup, the loss is that of the own labels and that of the partners'
    labels, weighted as the images are (Zhang et al., mixup, ICLR 2018).

    Args:
        name: a name of `LABEL_LOSSES`.
        options: keyword arguments of it.

    Raises:
        UsageError: if the name or an option is unknown, or an option is out of its range.
    """
    function, known = LABEL_LOSSES.get(name, "loss"), default_options(name)
    options = dict(options or {})
    for option in options:
        if option not in known:
            raise UsageError(
                f"options.{option} is not used by {name}: its options are {choices(option, known)}."
            )
    _check_ranges(name, options)

    def loss(outputs: Outputs, batch: Batch) -> jax.Array:
        if "label" not in batch:
            raise UsageError(f"batch has no label, which {name} needs: add label, int32 [N].")
        own = function(outputs, batch, **options)
        if (mixed := batch.get("mixed")) is None:
            return own
        partner = function(outputs, {**batch, "label": mixed.labels}, **options)
        return mixed.weight * own + (1 - mixed.weight) * partner

    return loss


def _check_ranges(name: str, options: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a number out of the range of its option."""
    for option, (least, greatest) in _RANGES.get(name, {}).items():
        value = options.get(option, least)
        if isinstance(value, int | float) and not least <= value <= greatest:
            words = f"{least:g} or more" if least in (0, 1) else "greater than 0"
            if greatest < math.inf:
                words = f"from {least:g} to {greatest:.4g}"
            raise UsageError(f"options.{option} = {value!r} must be {words} for {name}.")
