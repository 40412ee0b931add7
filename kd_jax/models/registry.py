"""Networks by name."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.registry import Registry
from kd_jax.models import cifar_resnet, mobilenet, resnet, shufflenet, sphereface, vgg, wide_resnet

Factory = Callable[..., nn.Module]

NETWORKS: Registry[Factory] = Registry("network")
"""All networks by name, yours included.

An entry takes `num_classes`, `width`, `dtype`, `axis_name` and the network's own options as
keywords and returns a module with `__call__(images, *, train) -> Outputs`. Register a class with
the decorator `@register("mynet")`, or call `register("mynet_large", functools.partial(MyNet,
depth=50))`. A later registration replaces an earlier one, since notebooks run a cell twice.
"""

names = NETWORKS.names
register = NETWORKS.register

_COMMON = ("num_classes", "width", "dtype", "axis_name", "remat")
_DTYPES = ("float32", "bfloat16", "float64")

for _module in (resnet, cifar_resnet, vgg, wide_resnet, shufflenet, mobilenet, sphereface):
    for _name, _factory in _module.NETWORKS.items():
        NETWORKS.register(_name, _factory)
NETWORKS.seal()


def create(
    name: str,
    *,
    num_classes: int,
    width: float = 1.0,
    dtype: DTypeLike = jnp.float32,
    axis_name: str | None = None,
    **options: Any,
) -> nn.Module:
    """Makes a network.

    Args:
        name: one of `names()`. The names are RepDistiller's: "resnet18", "resnet8x4", "vgg8".
        num_classes: number of logits.
        width: factor of the channels of every layer, the stem included.
        dtype: dtype of the computation. Parameters, statistics, embedding and logits stay float32.
        axis_name: axis of `pmap` over which batch norm averages.
        **options: options of the network, for instance `stem="imagenet"` of the larger ResNets.

    Returns:
        A module with `__call__(images [N, H, W, C], *, train: bool) -> Outputs`.

    Raises:
        UsageError: if the name or an option is unknown, or a number is out of its range.
    """
    factory = NETWORKS.get(name)
    if num_classes < 1 or not (isinstance(width, int | float) and width > 0):
        raise UsageError(
            f"{name} needs num_classes >= 1 and width > 0, not {num_classes} and {width!r}."
        )
    known = _options(factory)
    if known is not None:
        for option in options:
            check_choice(option, (*known, "width", "dtype"), f"{name} option")
    return factory(
        num_classes=num_classes, width=width, dtype=_dtype(dtype), axis_name=axis_name, **options
    )


def _dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype; raises `UsageError` if networks cannot compute in it."""
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    return jnp.dtype(check_choice(name, _DTYPES, "dtype"))


def _options(factory: Factory) -> list[str] | None:
    """Returns the keywords that a factory takes beyond the common ones; None if it takes any."""
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    fixed = getattr(factory, "keywords", {})  # a keyword that the partial sets is not an option
    return [p for p in parameters if p not in (*_COMMON, *fixed, "parent", "name")]
