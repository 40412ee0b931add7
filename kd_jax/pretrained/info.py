"""Descriptions of networks, as they are stored in checkpoints."""

import dataclasses
from typing import Any

import flax.linen as nn

from kd_jax import models
from kd_jax.core import user_code
from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import Normalization, View
from kd_jax.models.recorded import Recorded

RECORDED = "recorded"
"""Name of the network whose outputs come from a file."""


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
        """Returns the description that was written by `dataclasses.asdict`."""
        values = dict(values)
        if "deviation" in values:  # the name of `std` in version 0.1
            values["std"] = values.pop("deviation")
        names = ("size", "mean", "std", "imports")
        lists = {key: tuple(values[key]) for key in names if key in values}
        return cls(**{**values, **lists})

    def module(self, axis_name: str | None = None) -> nn.Module:
        """Makes the network; `axis_name` is the axis of `pmap`.

        A user's own network whose module is not imported yet is imported first.
        """
        if self.name == RECORDED:
            return Recorded(num_classes=self.num_classes, **self.options)
        if self.name not in models.NETWORKS:
            try:
                user_code.import_all(self.imports)
            except UsageError as error:
                raise UsageError(
                    f"The network {self.name!r} needs the module that registers it, but"
                    f" {str(error).rstrip('.')}; pass its new place by --import=FILE."
                ) from error
        axis: dict[str, Any] = {} if axis_name is None else {"axis_name": axis_name}
        return models.create(self.name, num_classes=self.num_classes, **axis, **self.options)

    @property
    def view(self) -> View:
        """Returns the view that the network has of images."""
        return View(self.size, Normalization(self.mean, self.std))
