"""Descriptions of networks, as they are stored in checkpoints."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from kd_jax import models
from kd_jax.core import user_code
from kd_jax.core.errors import UsageError, reason
from kd_jax.data.preprocessing import FILTERS, Normalization, View
from kd_jax.models.recorded import Recorded

RECORDED = "recorded"
"""Name of the network whose outputs come from a file."""
_REMEDY = "name a folder that kd_jax wrote, or train or import the stage again"


def _is_list(value: object, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(is_right, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_natural(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_finite(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "options": lambda value: isinstance(value, dict) and "num_classes" not in value,
    "num_classes": _is_natural,
    "size": lambda value: _is_list(value, _is_natural) and len(value) == 2,
    "filter": lambda value: isinstance(value, str) and value in FILTERS,
    "mean": lambda value: _is_list(value, _is_finite),
    "std": lambda value: _is_list(value, lambda std: _is_finite(std) and std >= 0),
    "imports": lambda value: _is_list(value, _is_text),
}
"""Test of the JSON value of every attribute of `NetworkInfo`."""


@dataclasses.dataclass(frozen=True)
class NetworkInfo:
    """Everything that is needed to use a network's weights; every checkpoint holds it as JSON.

    Attributes:
        name: name of the architecture.
        options: options of the architecture, as `kd_jax.models.create` takes them.
        num_classes: number of logits.
        size: height and width of the images that it sees.
        filter: filter that brings images to that size.
        mean: mean of each channel of the images it was trained on, on the scale 0 to 1.
        std: standard deviation of each channel, on the same scale.
        imports: the user's own module that registers the architecture, a file or a module name;
            empty for networks of kd_jax.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    size: tuple[int, int]
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    imports: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NetworkInfo":
        """Returns the description that was written by `dataclasses.asdict`.

        Raises:
            UsageError: if it has other keys, or a value that no network can have.
        """
        if not isinstance(values, Mapping):
            raise UsageError(f"the description of a network is {values!r:.100}: {_REMEDY}.")
        values = dict(values)
        if "deviation" in values:  # the name of `std` in version 0.1
            values["std"] = values.pop("deviation")
        values.setdefault("imports", [])
        wrong = [key for key, is_right in _CHECKS.items() if not is_right(values.get(key))]
        wrong += [key for key in values if key not in _CHECKS]
        if not wrong and values["name"] != RECORDED and not values["mean"]:
            wrong = ["mean"]
        if not wrong and len(values["mean"]) != len(values["std"]):
            wrong = ["std"]
        if wrong:
            value = f"{wrong[0]} = {values[wrong[0]]!r:.100}" if wrong[0] in values else wrong[0]
            has = "has the wrong" if wrong[0] in values else "lacks"
            raise UsageError(f"the description of a network {has} {value}: {_REMEDY}.")
        lists = {key: tuple(values[key]) for key in ("size", "mean", "std", "imports")}
        return cls(**{**values, **lists})

    def module(self, axis_name: str | None = None) -> nn.Module:
        """Makes the network; `axis_name` is the axis of `pmap`.

        A user's own network whose module is not imported yet is imported first.
        """
        if self.name == RECORDED:
            return self._made(Recorded, {})
        if self.name not in models.NETWORKS:
            try:
                user_code.import_all(self.imports)
            except UsageError as error:
                raise UsageError(
                    f"The network {self.name!r} needs the module that registers it, but"
                    f" {str(error).rstrip('.')}; pass its new place by --import=FILE."
                ) from error
        axis: dict[str, Any] = {} if axis_name is None else {"axis_name": axis_name}
        return self._made(functools.partial(models.create, self.name), axis)

    def _made(self, create: Callable[..., nn.Module], axis: dict[str, Any]) -> nn.Module:
        """Makes the network by a function; raises `UsageError` for options that it cannot take."""
        try:
            return create(**{"num_classes": self.num_classes, **axis, **self.options})
        except TypeError as error:
            raise UsageError(
                f"The network {self.name!r} cannot be made with the options {self.options}"
                f" ({reason(error)}): correct them."
            ) from error

    @property
    def view(self) -> View:
        """Returns the view that the network has of images."""
        return View(self.size, Normalization(self.mean, self.std))
