"""What a method is: networks' outputs in, one scalar out."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.struct
import jax
from jax import lax

from kd_jax.models import Outputs

PyTree = Any
Batch = Mapping[str, jax.Array]
"""What is known of a batch: `label` int32 `[N]`, `index` int32 `[N]`, the images' places in the
training set, and in training `step`, counted from 0, and `key`, a random key of the step."""


class Adapters(flax.struct.PyTreeNode):
    """What a method learns or remembers beside the networks.

    Attributes:
        params: trained with the networks (projectors, guided modules).
        state: carried from step to step without gradient (class centres, memory banks).
    """

    params: PyTree = flax.struct.field(default_factory=dict)
    state: PyTree = flax.struct.field(default_factory=dict)


class Method:
    """What a stage minimises.

    A subclass is a frozen dataclass of hyper-parameters. It never touches an optimizer, a device
    or a file; everything it needs comes through its arguments.
    """

    roles: ClassVar[tuple[str, ...]]
    """Names of the networks that a stage with this method has; `student` is among them."""
    frozen_roles: ClassVar[tuple[str, ...]] = ()
    """Those that must be frozen: nothing here would train them."""
    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)
    """Optimizer groups of the adapters; the name of a frozen role stands for `adapters`."""

    def statistics(self, outputs: Mapping[str, Outputs], batch: Batch, where: jax.Array) -> PyTree:
        """What the method wants to know of the whole training set before the first step.

        Args:
            outputs: of the frozen networks, for images without augmentation.
            batch: labels and indices.
            where: bool `[N]`, False for rows that only fill up the batch.

        Returns:
            A PyTree of arrays that is summed over all batches; an empty one asks for nothing.
        """
        del outputs, batch, where
        return {}

    def init(
        self,
        key: jax.Array,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        statistics: PyTree,
    ) -> Adapters:
        """Makes the adapters for networks whose outputs have these shapes."""
        del key, outputs, batch, statistics
        return Adapters()

    def __call__(
        self,
        adapters: Adapters,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        *,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """The loss of a batch.

        Args:
            adapters: what `init` made, as far as training has brought it.
            outputs: of every role, for the same images.
            batch: labels and indices.
            axis_name: axis of `pmap` over which the batch is spread. The mean over that axis of
                the value, and of its gradient, must be those of the whole batch; the new state must
                be the same on all devices.

        Returns:
            The scalar to minimise, every term of it unweighted, and the adapters' new state.
        """
        raise NotImplementedError


def batch_sum(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Sum over the whole batch of one value an image; `values` is this device's `[N]`."""
    total = values.sum()
    return total if axis_name is None else lax.psum(total, axis_name)


def check_choice(name: str, value: Any, choices: tuple) -> None:
    """Raises a `ValueError` that lists the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def check_weights(method: Method) -> None:
    """Raises a `ValueError` for a negative weight among the method's fields, or if all are zero."""
    fields = [field.name for field in dataclasses.fields(method)]
    weights = {name: getattr(method, name) for name in fields if name.endswith("_weight")}
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must be 0 or more, not {weight}")
    if not any(weights.values()):
        raise ValueError(f"one of {', '.join(weights)} must be greater than 0")
