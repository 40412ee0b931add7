"""The contract of a method: outputs of networks in, one scalar out."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from kd_jax.core.errors import check_choice
from kd_jax.core.registry import Registry
from kd_jax.models import Outputs

PyTree = Any
Batch = Mapping[str, Any]
"""The data of a batch, besides its images.

`label`: int32 `[N]`, or float `[N, C]` for soft labels. `index`: int32 `[N]`, the positions of the
images in the training set. In training also `step`, counted from 0; `epoch`, a float32 scalar;
`key`, a random key of the step; and `mixed`, the partners' labels where mixup is used.
"""


@dataclasses.dataclass(frozen=True)
class StageInfo:
    """Sizes of the training set and of a stage.

    Attributes:
        num_images: number of training images.
        num_classes: number of classes.
        steps: number of steps of the stage.
        steps_per_epoch: number of steps per epoch.
    """

    num_images: int
    num_classes: int
    steps: int
    steps_per_epoch: int


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A weight that changes over the first epochs of a stage, and then stays.

    Attributes:
        end: final value.
        epochs: number of epochs until the final value.
        start: first value.
        per_epoch: change the weight once per epoch. A linear ramp then has the value at the end of
            the epoch, as in mdistiller; a sigmoid ramp has that at its start, as in the code of ONE
            and OKDDip.
        shape: `linear`, or `sigmoid`: `start + (end - start) * exp(-5 (1 - t)^2)` at the fraction t
            of `epochs` (Laine and Aila, ICLR 2017). It begins at 0.7 % of the way.
    """

    end: float
    epochs: float
    start: float = 0.0
    per_epoch: bool = False
    shape: str = "linear"

    def __post_init__(self):
        check_choice(self.shape, ("linear", "sigmoid"), "shape")
        if not (0 <= self.end < math.inf and 0 <= self.start < math.inf):
            raise ValueError(f"start and end must be 0 or more, not {self.start} and {self.end}")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs must be greater than 0 and finite, not {self.epochs}")

    def __call__(self, epoch: jax.Array) -> jax.Array:
        """Returns the weight at an epoch, which may be a fraction."""
        epoch = jnp.asarray(epoch, jnp.float32)
        linear = self.shape == "linear"
        if self.per_epoch:
            epoch = jnp.floor(epoch) + 1 if linear else jnp.floor(epoch)
        done = jnp.minimum(epoch / self.epochs, 1.0)
        done = done if linear else jnp.exp(-5.0 * jnp.square(1.0 - done))
        return self.start + (self.end - self.start) * done


Weight = float | Ramp
"""The weight of a term: a number, or a `Ramp`."""


class Adapters(flax.struct.PyTreeNode):
    """The parts that a method learns or remembers in addition to the networks.

    Attributes:
        params: parts that are trained with the networks (projectors, guided modules).
        state: parts that are carried from step to step without gradient (class centers, memory
            banks).
    """

    params: PyTree = flax.struct.field(default_factory=dict)
    state: PyTree = flax.struct.field(default_factory=dict)


class Method:
    """The quantity that a stage minimizes.

    A subclass is a frozen dataclass of hyper-parameters. It never touches an optimizer, a device
    or a file; everything that it needs comes through its arguments.
    """

    # Each is a tuple of names; where it depends on options, a subclass makes it a property.
    roles: ClassVar[Any]
    """Names of the networks that a stage with this method has. Any number is possible."""
    frozen_roles: ClassVar[Any] = ()
    """The roles whose networks are not trained."""
    adapter_groups: ClassVar[Any] = ("adapters",)
    """Optimizer groups of the adapters; the name of a frozen role means `adapters`."""

    @property
    def trained_roles(self) -> tuple[str, ...]:
        """Returns the roles that are trained, with `student` first if there is one."""
        trained = [role for role in self.roles if role not in self.frozen_roles]
        return tuple(sorted(trained, key=lambda role: role != "student"))

    @property
    def predictions(self) -> tuple[str, ...]:
        """Returns the names of the outputs of `predict`; the first is the result of the stage."""
        return self.trained_roles

    def statistics(self, outputs: Mapping[str, Outputs], batch: Batch, where: jax.Array) -> PyTree:
        """Computes one batch's part of a sum over the whole training set, before the first step.

        Args:
            outputs: outputs of the frozen networks, for images without augmentation.
            batch: labels and indices.
            where: bool `[N]`, False for rows that only fill up the batch.

        Returns:
            A PyTree of arrays, which is summed over all batches. An empty one asks for no pass
            over the training set.
        """
        del outputs, batch, where
        return {}

    def init(
        self,
        key: jax.Array,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        statistics: PyTree,
        info: StageInfo | None,
    ) -> Adapters:
        """Makes the adapters for networks whose outputs have these shapes.

        Args:
            key: random key.
            outputs: outputs of all roles for `batch`.
            batch: a batch of the right shapes.
            statistics: sums over the training set of what `statistics` returns.
            info: sizes of the training set and of the stage. None if they are unknown, as in a
                training loop of your own that does not pass them.
        """
        del key, outputs, batch, statistics, info
        return Adapters()

    def __call__(
        self,
        adapters: Adapters,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        *,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Computes the loss of a batch.

        Args:
            adapters: the adapters in their present state.
            outputs: outputs of every role, for the same images.
            batch: labels and indices.
            axis_name: axis of `pmap` over which the batch is split. The mean over that axis of the
                value, and of its gradient, must be those of the whole batch. The new state must be
                the same on all devices.

        Returns:
            The scalar to minimize, every term of it unweighted, and the new state of the adapters.
        """
        raise NotImplementedError

    def predict(self, adapters: Adapters, outputs: Mapping[str, Outputs]) -> dict[str, Outputs]:
        """Returns the outputs that are evaluated, by the names in `predictions`.

        By default these are the outputs of the trained roles. A method may add an ensemble, or
        replace an output by a sum.

        Args:
            adapters: the adapters in their present state.
            outputs: outputs of every role, in evaluation.
        """
        del adapters
        return {role: outputs[role] for role in self.trained_roles}


METHODS: Registry[type[Method]] = Registry("method")
"""All methods by name."""


def register(name: str, method: type[Method] | None = None) -> Any:
    """Adds a method of your own to every config; use it as a decorator or call it."""
    return METHODS.register(name, method)


def names() -> tuple[str, ...]:
    """Returns the names of all methods."""
    return METHODS.names()


def batch_sum(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Sums one value per image over the whole batch; `values` is this device's `[N]`."""
    total = values.sum()
    return total if axis_name is None else lax.psum(total, axis_name)


def is_used(weight: Weight) -> bool:
    """Returns whether a term of this weight is ever part of the loss."""
    return isinstance(weight, Ramp) or weight != 0


def weighted_sum(
    terms: Mapping[str, jax.Array], weights: Mapping[str, Weight], batch: Batch
) -> jax.Array:
    """Sums the terms, each times its weight.

    Args:
        terms: scalars by name.
        weights: weights by the same names; a term without a weight is not part of the sum.
        batch: holds `epoch` if a weight is a `Ramp`.
    """
    parts = [weight_at(weights[name], batch) * terms[name] for name in terms if name in weights]
    return sum(parts[1:], start=parts[0])


def weight_at(weight: Weight, batch: Batch) -> float | jax.Array:
    """Returns a weight at the epoch of a batch; a number is the same at every epoch."""
    if not isinstance(weight, Ramp):
        return weight
    if "epoch" not in batch:
        raise ValueError(
            "a Ramp needs the epoch of the batch: pass info=StageInfo(...) to the Stage, or"
            " batch['epoch']"
        )
    return weight(batch["epoch"])


def _weights(method: Method) -> Iterator[tuple[str, Weight]]:
    for field in dataclasses.fields(method):  # type: ignore[arg-type]  # subclasses are dataclasses
        if field.name.endswith("_weight"):
            yield field.name, getattr(method, field.name)


def check_weights(method: Method) -> None:
    """Raises `ValueError` for a negative weight among the method's fields, or if all are zero."""
    weights = dict(_weights(method))
    for name, weight in weights.items():
        if not isinstance(weight, Ramp) and not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be 0 or more and finite, not {weight}")
    if not any(is_used(weight) for weight in weights.values()):
        raise ValueError(f"one of {', '.join(weights)} must be greater than 0")


def check_temperature(temperature: float) -> None:
    """Raises `ValueError` for a temperature that is not positive and finite."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be greater than 0 and finite, not {temperature}")
