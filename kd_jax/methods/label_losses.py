"""Losses of one network on the labels: cross-entropy, or an angular classifier with a margin.

`metric_losses.py` has those that compare the embeddings of the batch.
"""

import dataclasses
import inspect
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from kd_jax import losses
from kd_jax.core.errors import UsageError, check_choice, choices
from kd_jax.core.registry import Registry
from kd_jax.losses.margins import LARGEST_FACTOR
from kd_jax.losses.triplet_margins import MINING, REDUCTIONS
from kd_jax.methods.base import Batch, PyTree
from kd_jax.models import Outputs

LABEL_LOSSES: Registry[Callable[..., jax.Array]] = Registry("label loss")
"""Label losses by name, see `register_label_loss`."""

_INITIALIZERS: dict[Callable[..., jax.Array], Callable[..., PyTree]] = {}
_RESERVED = ("axis_name", "params")  # keywords of a label loss that are not options
_KEY = "label_loss"  # of the parameters among those of a method's adapters

_NOT_NEGATIVE = (0.0, math.inf)
_SCALE = (math.ulp(0.0), math.inf)
_PAIRS = ("pytorch-metric-learning", "paper")
_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "a_softmax": {
        "margin": (1, LARGEST_FACTOR),
        **dict.fromkeys(("start", "gamma", "power", "least"), _NOT_NEGATIVE),
    },
    "arcface": {"scale": _SCALE, "margin": (0.0, math.pi)},
    "cosface": {"scale": _SCALE, "margin": _NOT_NEGATIVE},
    "normalized_softmax": {"scale": _SCALE},
    "sphereface_r": {"scale": _SCALE, "margin": (1.0, math.inf)},
    "triplet": {"margin": _NOT_NEGATIVE},
    "margin": dict.fromkeys(("margin", "boundary", "boundary_weight"), _NOT_NEGATIVE),
    "contrastive": dict.fromkeys(("positive_margin", "negative_margin"), _NOT_NEGATIVE),
    "multi_similarity": {"alpha": _SCALE, "beta": _SCALE, "epsilon": _NOT_NEGATIVE},
    "proxy_nca": {"scale": _SCALE},
}
"""Smallest and greatest value of every option, see `kd_jax.losses.margins`."""

_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "triplet": {"mining": MINING, "reduction": REDUCTIONS},
    "margin": {"mining": MINING},
    "contrastive": {"variant": _PAIRS},
    "proxy_nca": {"variant": _PAIRS},
}
"""Possible values of every option that is a word."""


def register_label_loss(
    name: str,
    loss: Callable[..., jax.Array] | None = None,
    *,
    init: Callable[..., PyTree] | None = None,
) -> Any:
    """Adds a label loss of your own; use it as a decorator or call it.

    Args:
        name: its name in configs.
        loss: function `(outputs, batch, *, options...) -> [N]`. Its keyword arguments, which must
            have defaults, are the options in configs. Two keywords are no options: with
            `axis_name=None`, the function compares the images of the batch and returns a scalar,
            see `kd_jax.losses`; with `params=None`, it gets the result of `init` as it is trained.
        init: function `(key, outputs, *, options...)` that makes a PyTree of float32 arrays, which
            are trained with the network: the adapters of the method.
    """
    if loss is None:
        return lambda loss: register_label_loss(name, loss, init=init)
    LABEL_LOSSES.register(name, loss)
    if init is not None:
        _INITIALIZERS[loss] = init
    return loss


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
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in _RESERVED
    }


@dataclasses.dataclass(frozen=True)
class LabelLoss:
    """A label loss with its options set.

    Where the batch was made by mixup, the loss is that of the own labels and that of the partners'
    labels, weighted as the images are (Zhang et al., mixup, ICLR 2018).

    Attributes:
        name: a name of `LABEL_LOSSES`.
        options: keyword arguments of it.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def adapter_groups(self) -> tuple[str, ...]:
        """Returns the optimizer group of the trained parameters, if the loss has any."""
        return ("adapters",) if self._function in _INITIALIZERS else ()

    @property
    def _function(self) -> Callable[..., jax.Array]:
        return LABEL_LOSSES.get(self.name, "loss")

    def init(self, key: jax.Array, outputs: Outputs) -> dict[str, PyTree]:
        """Makes the trained parameters, such as proxies; a part of `Adapters.params`.

        Args:
            key: random key.
            outputs: outputs of the trained network, for their shapes.

        Returns:
            The parameters under the name `label_loss`, or an empty dictionary.
        """
        if self._function not in _INITIALIZERS:
            return {}
        key = jax.random.fold_in(key, zlib.crc32(_KEY.encode()))
        made = _INITIALIZERS[self._function](key, outputs, **self.options)
        return {_KEY: made} if jax.tree.leaves(made) else {}

    def __call__(
        self,
        outputs: Outputs,
        batch: Batch,
        params: Mapping[str, PyTree] | None = None,
        *,
        axis_name: str | None = None,
    ) -> jax.Array:
        """Computes the loss; its mean over the devices is that of the whole batch.

        Args:
            outputs: outputs of the trained network.
            batch: the labels; for losses that draw images also the `key` of the step.
            params: `Adapters.params` of the method.
            axis_name: axis of `pmap` over which the batch is split.

        Returns:
            One loss per image `[N]`, or a scalar of the whole batch. Take `.mean()`.

        Raises:
            UsageError: if the batch has no label.
        """
        if "label" not in batch:
            raise UsageError(f"batch has no label, which {self.name} needs: add label, int32 [N].")
        function = self._function
        possible = {"axis_name": axis_name, "params": (params or {}).get(_KEY)}
        parameters = inspect.signature(function).parameters
        given = {name: value for name, value in possible.items() if name in parameters}
        own = function(outputs, batch, **self.options, **given)
        if (mixed := batch.get("mixed")) is None:
            return own
        partner = function(outputs, {**batch, "label": mixed.labels}, **self.options, **given)
        return mixed.weight * own + (1 - mixed.weight) * partner


def label_loss(name: str = "cross_entropy", options: Mapping[str, Any] | None = None) -> LabelLoss:
    """Returns the loss of a name, with its options set.

    Args:
        name: a name of `LABEL_LOSSES`.
        options: keyword arguments of it.

    Raises:
        UsageError: if the name or an option is unknown, or an option is out of its range.
    """
    known = default_options(name)
    options = dict(options or {})
    for option in options:
        if option not in known:
            raise UsageError(
                f"options.{option} is not used by {name}: its options are {choices(option, known)}."
            )
    _check_ranges(name, options)
    return LabelLoss(name, options)


def _check_ranges(name: str, options: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a number out of the range of its option, or an unknown word."""
    for option, possible in _CHOICES.get(name, {}).items():
        check_choice(options.get(option, possible[0]), possible, f"options.{option}")
    for option, (least, greatest) in _RANGES.get(name, {}).items():
        value = options.get(option, least)
        if isinstance(value, int | float) and not least <= value <= greatest:
            words = f"{least:g} or more" if least in (0, 1) else "greater than 0"
            if greatest < math.inf:
                words = f"from {least:g} to {greatest:.4g}"
            raise UsageError(f"options.{option} = {value!r} must be {words} for {name}.")
