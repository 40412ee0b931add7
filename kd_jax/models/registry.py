"""Networks by name."""

import inspect
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from kd_jax.errors import UsageError, choices
from kd_jax.models import cifar_resnet, mobilenet, resnet, shufflenet, sphereface, vgg, wide_resnet

Factory = Callable[..., nn.Module]

_NETWORKS: dict[str, Factory] = {
    **resnet.NETWORKS,
    **cifar_resnet.NETWORKS,
    **vgg.NETWORKS,
    **wide_resnet.NETWORKS,
    **shufflenet.NETWORKS,
    **mobilenet.NETWORKS,
    **sphereface.NETWORKS,
}

_BUILT_IN = frozenset(_NETWORKS)
_COMMON = ("num_classes", "width", "dtype", "axis_name")


def names() -> tuple[str, ...]:
    """The names that `create` knows."""
    return tuple(_NETWORKS)


def register(name: str, factory: Factory | None = None):
    """Makes a network of your own known to `create`, and so to every config.

    A later registration replaces an earlier one, since notebooks run a cell twice.

    Use it as a decorator, `@register("mynet") class MyNet(nn.Module)`, or call it,
    `register("mynet_large", functools.partial(MyNet, depth=50))`.

    Args:
      name: what `create` shall know it by.
      factory: takes `num_classes`, `width`, `dtype`, `axis_name` and the network's own options as
        keywords and returns a module with `__call__(images, *, train) -> Outputs`.

    Returns:
      `factory`, or the decorator.

    Raises:
      UsageError: if the name is one of kd_jax's own.
    """
    if factory is None:
        return lambda factory: register(name, factory)
    if name in _BUILT_IN:
        raise UsageError(f"{name!r} is a network of kd_jax: choose another name.")
    _NETWORKS[name] = factory
    return factory


def create(
    name: str,
    *,
    num_classes: int,
    width: float = 1.0,
    dtype: DTypeLike = jnp.float32,
    axis_name: str | None = None,
    **options,
) -> nn.Module:
    """Makes a network.

    Args:
      name: one of `names()`, as RepDistiller's users know them: "resnet18", "resnet8x4", "vgg8".
      num_classes: number of logits.
      width: multiplies the channels of every layer, the stem's included.
      dtype: of the computation; parameters, statistics, embedding and logits stay float32.
      axis_name: the axis of `pmap` over which batch norm averages.
      **options: the network's own, for instance `stem="imagenet"` of the larger ResNets.

    Returns:
      A module with `__call__(images [N, H, W, C], *, train: bool) -> Outputs`.

    Raises:
      UsageError: if the name or an option is unknown, or a number out of its range.
    """
    if name not in _NETWORKS:
        raise UsageError(f"There is no network {name!r}: choose one of {choices(name, names())}.")
    if num_classes < 1 or not (isinstance(width, int | float) and width > 0):
        raise UsageError(
            f"{name} needs num_classes >= 1 and width > 0, not {num_classes} and {width!r}."
        )
    try:
        dtype = jnp.dtype(dtype)
        known = dtype.name in ("float32", "float64", "bfloat16")
    except TypeError:
        known = False
    if not known:
        raise UsageError(f"{name} cannot compute in {dtype}: choose float32 or bfloat16.")
    factory = _NETWORKS[name]
    known = _options(factory)
    for option in options:
        if known is not None and option not in known:
            options = choices(option, (*known, "width", "dtype"))
            raise UsageError(f"{name} has no option {option!r}: its options are {options}.")
    return factory(
        num_classes=num_classes, width=width, dtype=dtype, axis_name=axis_name, **options
    )


def _options(factory: Factory) -> list[str] | None:
    """The keywords a factory takes beyond the common ones; None if it takes any."""
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    bound = getattr(factory, "keywords", {})  # what the table has settled is no option
    return [p for p in parameters if p not in (*_COMMON, *bound, "parent", "name")]
