"""Groups of classifiers that learn together, as in DML, CL-ILR, ONE and OKDDip."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.methods.base import (
    Batch,
    Method,
    Ramp,
    Weight,
    check_temperature,
    check_weights,
    weighted_sum,
)
from kd_jax.methods.label_losses import label_loss
from kd_jax.models import Outputs

ENSEMBLE = "ensemble"
"""Name of the evaluated mean of classifiers."""

RAMP = Ramp(end=1.0, epochs=80.0, per_epoch=True, shape="sigmoid")
"""The weight of the divergences in the code of ONE and OKDDip, which train for 300 epochs."""


@dataclasses.dataclass(frozen=True)
class Group(Method):
    """Classifiers that learn from the labels and from targets that the group makes.

    The loss is the sum over the classifiers of `hard_weight * CE + soft_weight * T^2 * KL(target
    || classifier)`. Both parts are means over the images. A subclass chooses the classifiers and
    their targets.

    Attributes:
        temperature: T, at which both softmaxes are taken.
        hard_weight: weight of the cross-entropies on the labels.
        soft_weight: weight of the divergences from the targets.
        target_gradient: let the gradient flow through the targets too.
    """

    temperature: float = 3.0
    hard_weight: Weight = 1.0
    soft_weight: Weight = RAMP
    target_gradient: bool = False

    adapter_groups: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        check_weights(self)
        check_temperature(self.temperature)

    def total(
        self,
        classifiers: Mapping[str, Outputs],
        targets: Mapping[str, Sequence[jax.Array]],
        batch: Batch,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the loss of the group.

        Args:
            classifiers: outputs by name.
            targets: logits `[N, C]` of the targets of a classifier, by its name. The divergences
                from several targets are averaged. A name without targets has no divergence.
            batch: the batch.

        Returns:
            The loss and its terms.
        """
        terms, weights = {}, {}
        for name, classifier in classifiers.items():
            terms[f"cross_entropy/{name}"] = label_loss()(classifier, batch).mean()
            weights[f"cross_entropy/{name}"] = self.hard_weight
        for name, several in targets.items():
            own = classifiers[name].logits
            divergences = [self._divergence(own, target) for target in several]
            terms[f"soft_target_kl/{name}"] = sum(divergences[1:], divergences[0]) / len(several)
            weights[f"soft_target_kl/{name}"] = self.soft_weight
        return weighted_sum(terms, weights, batch), terms

    def _divergence(self, logits: jax.Array, target: jax.Array) -> jax.Array:
        target = target if self.target_gradient else lax.stop_gradient(target)
        return losses.soft_target_kl(logits, target, temperature=self.temperature).mean()


def branch_names(count: int) -> tuple[str, ...]:
    """Returns the names of the branches of the student; the first is the network itself."""
    return ("student", *(f"branch{i}" for i in range(2, count + 1)))


def check_count(branches: int) -> None:
    """Raises `ValueError` for less than two branches."""
    if branches < 2:
        raise ValueError(f"branches must be 2 or more, not {branches}")


def branches_of(student: Outputs, count: int) -> dict[str, Outputs]:
    """Returns the outputs of the branches by name.

    Raises:
        UsageError: if the network has another number of branches.
    """
    if len(student.branches) != count:
        raise UsageError(
            f"method.branches = {count}, but the student has {len(student.branches) or 1}: set"
            f" networks.student.options.branches = {count}, or take a network with this option."
        )
    return dict(zip(branch_names(count), student.branches, strict=True))


def mean_logits(members: Sequence[Outputs]) -> jax.Array:
    """Returns the mean of the logits, `[N, C]`."""
    return sum((x.logits for x in members[1:]), members[0].logits) / len(members)


def ensemble(members: Sequence[Outputs], logits: jax.Array | None = None) -> Outputs:
    """Returns an ensemble; its embedding is that of all members, one after another.

    Args:
        members: the members.
        logits: combined logits. None is their mean.
    """
    embedding = jnp.concatenate([x.embedding for x in members], axis=-1)
    return Outputs(mean_logits(members) if logits is None else logits, embedding)


def others(members: Sequence[Outputs], own: int) -> list[Outputs]:
    """Returns all members except one."""
    return [x for i, x in enumerate(members) if i != own]
