"""Descriptions of networks, as they are stored in checkpoints."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import models
from kd_jax.core import user_code
from kd_jax.core.errors import UsageError, reason
from kd_jax.data import Fit
from kd_jax.data.fitting import FILTERS as PILLOW_FILTERS
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


def _is_fit(value: object) -> bool:
    if value is None:
        return True
    try:
        return isinstance(value, Mapping) and _fit(value).size is not None
    except (TypeError, ValueError):
        return False


def _fit(values: Mapping[str, Any]) -> Fit:
    return Fit(**{**values, "size": tuple(values["size"])})


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "options": lambda value: isinstance(value, dict) and "num_classes" not in value,
    "num_classes": _is_natural,
    "size": lambda value: _is_list(value, _is_natural) and len(value) == 2,
    "filter": lambda value: isinstance(value, str) and value in FILTERS,
    "mean": lambda value: _is_list(value, _is_finite),
    "std": lambda value: _is_list(value, lambda std: _is_finite(std) and std >= 0),
    "imports": lambda value: _is_list(value, _is_text),
    "classes": lambda value: _is_list(value, _is_text),
    "fit": _is_fit,
    "crop": lambda value: value == 0 or _is_natural(value),
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
        classes: names of the classes, in the order of the logits; empty if they are not known.
        fit: size and color of the training images, to which the files of `predict` are brought.
            None if they are not known.
        crop: height of the center of these images that it sees, in proportion to which the width
            changes. Of images of another size it sees the same fraction. 0 sees all images whole.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    size: tuple[int, int]
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    imports: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    fit: Fit | None = None
    crop: int = 0

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
        # These are not in older versions.
        new: dict[str, Any] = {"imports": [], "classes": [], "fit": None, "crop": 0}
        values = new | values
        wrong = [key for key, is_right in _CHECKS.items() if not is_right(values.get(key))]
        wrong += [key for key in values if key not in _CHECKS]
        if not wrong and values["name"] != RECORDED and not values["mean"]:
            wrong = ["mean"]
        if not wrong and len(values["mean"]) != len(values["std"]):
            wrong = ["std"]
        if not wrong and len(values["classes"]) not in (0, values["num_classes"]):
            wrong = ["classes"]
        if wrong:
            value = f"{wrong[0]} = {values[wrong[0]]!r:.100}" if wrong[0] in values else wrong[0]
            has = "has the wrong" if wrong[0] in values else "lacks"
            raise UsageError(f"the description of a network {has} {value}: {_REMEDY}.")
        lists = {key: tuple(values[key]) for key in ("size", "mean", "std", "imports", "classes")}
        fit = None if values["fit"] is None else _fit(values["fit"])
        return cls(**{**values, **lists, "fit": fit})

    @property
    def center(self) -> float:
        """Returns the fraction of height and width that the network sees, in the center."""
        if not self.crop or self.fit is None or self.fit.size is None:
            return 1.0
        return self.crop / self.fit.size[0]

    @property
    def image_fit(self) -> Fit:
        """Returns the size and color that image files are brought to: those of the training images.

        If these are not known, it is the size of the network's input.

        Raises:
            UsageError: if the network sees neither gray nor RGB images.
        """
        if len(self.mean) not in (1, 3):
            raise UsageError(
                f"The network {self.name!r} sees images of {len(self.mean)} channels, but image"
                " files are gray or RGB: give arrays to kd_jax.load(...) in Python."
            )
        if self.fit is not None:
            return self.fit
        filter = self.filter if self.filter in PILLOW_FILTERS else "bicubic"
        return Fit(self.size, filter=filter, gray=len(self.mean) == 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the names of the classes; their numbers if the names are not known."""
        return self.classes or tuple(map(str, range(self.num_classes)))

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

    def shapes(self, module: nn.Module) -> Any:
        """Returns the shapes of the variables of the network; nothing is computed."""
        view = jax.ShapeDtypeStruct((1, *self.size, len(self.mean)), jnp.float32)
        return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), view)

    @property
    def view(self) -> View:
        """Returns the view that the network has of images."""
        return View(self.size, Normalization(self.mean, self.std))
