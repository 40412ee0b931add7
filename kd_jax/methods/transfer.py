"""The common parts of the baselines: one loss between two networks, plus the labels and KD."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
from jax import lax

from kd_jax import losses
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.methods.base import (
    Adapters,
    Batch,
    Method,
    PyTree,
    Weight,
    check_temperature,
    check_weights,
    is_used,
    weighted_sum,
)
from kd_jax.methods.label_losses import label_loss
from kd_jax.models import Outputs

Pair = tuple[jax.Array, jax.Array]
"""A feature map of the student and one of the teacher, `[N, H, W, C]` each."""

Maps = tuple[jax.Array, ...]

Learned = Mapping[str, tuple[nn.Module, Any]]
"""Modules that are trained with the student, by name, and their inputs: an array, or a tuple."""


def feature_maps(student: Outputs, teacher: Outputs) -> tuple[Maps, Maps]:
    """Returns the feature maps of student and teacher, shallow to deep.

    Raises:
        UsageError: if a network returns no maps.
    """
    if not (student.feature_maps and teacher.feature_maps):
        raise UsageError(
            "method needs feature maps, but one of the networks returns none: choose rkd, pkt or"
            " cc, or another network."
        )
    return student.feature_maps, teacher.feature_maps


@dataclasses.dataclass(frozen=True)
class Transfer(Method):
    """A loss between student and teacher as RepDistiller trains it, in one stage.

    `hard_weight * CE + soft_weight * T^2 * KL + loss_weight * L`. CE and KL are means over the
    images; another label loss may replace CE. RKD, PKT and CC compare the embeddings,
    RepDistiller's `feat[-1]`. SP compares the last feature maps, `feat[-2]`. `MapTransfer` is the
    part of the methods that compare several maps.

    A subclass gives the default of `loss_weight`, RepDistiller's for a batch of 64 images.

    Attributes:
        loss_weight: weight of L.
        hard_weight: weight of the label loss.
        soft_weight: weight of the divergence from the teacher's predictions.
        temperature: T, at which both softmaxes of the divergence are taken.
        loss: name of the label loss.
        options: options of the label loss.
    """

    loss_weight: Weight = 1.0
    hard_weight: Weight = 1.0
    soft_weight: Weight = 0.0
    temperature: float = 4.0
    loss: str = "cross_entropy"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)
    term: ClassVar[str]
    """Name of L in the log."""

    def __post_init__(self):
        check_weights(self)
        check_temperature(self.temperature)
        label_loss(self.loss, self.options)

    @property
    def adapter_groups(self) -> Any:
        """Returns the group of the parameters of the label loss, if it has any.

        A subclass with modules replaces this by the class variable `("adapters",)`.
        """
        return label_loss(self.loss, self.options).adapter_groups

    def learned(self, student: Outputs, teacher: Outputs, axis_name: str | None) -> Learned:
        """Returns the modules of the loss and their inputs; most losses have none."""
        del student, teacher, axis_name
        return {}

    def value(
        self,
        student: Outputs,
        teacher: Outputs,
        learned: Mapping[str, Any],
        axis_name: str | None,
    ) -> jax.Array:
        """Computes L, a scalar.

        Args:
            student: outputs of the student.
            teacher: outputs of the teacher, without gradient.
            learned: results of the modules, by name.
            axis_name: axis of `pmap`, for losses that couple the batch.
        """
        raise NotImplementedError

    def value_and_state(
        self,
        state: PyTree,
        student: Outputs,
        teacher: Outputs,
        learned: Mapping[str, Any],
        batch: Batch,
        axis_name: str | None,
    ) -> tuple[jax.Array, PyTree]:
        """Computes L and the new state of the method; a loss with a state or labels overrides it.

        Args:
            state: state of the adapters.
            student: outputs of the student.
            teacher: outputs of the teacher, without gradient.
            learned: results of the modules, by name.
            batch: labels, indices and the key of the step.
            axis_name: axis of `pmap`.
        """
        del batch
        return self.value(student, teacher, learned, axis_name), state

    def init(self, key, outputs, batch, statistics, info):
        """Makes the modules, by name, and the parameters of the label loss."""
        del batch, statistics, info
        learned = self.learned(outputs["student"], outputs["teacher"], None)
        params = {
            name: module.init(jax.random.fold_in(key, zlib.crc32(name.encode())), x)["params"]
            for name, (module, x) in learned.items()
        }
        label = label_loss(self.loss, self.options)
        return Adapters(params | label.init(key, outputs["student"]))

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        student, teacher = outputs["student"], lax.stop_gradient(outputs["teacher"])
        learned = {
            # Running statistics are not kept: the modules are dropped after training.
            name: module.apply({"params": adapters.params[name]}, x, mutable=["batch_stats"])[0]
            for name, (module, x) in self.learned(student, teacher, axis_name).items()
        }
        weights = {
            self.loss: self.hard_weight,
            self.term: self.loss_weight,
            "soft_target_kl": self.soft_weight,
        }
        value, state = self.value_and_state(
            adapters.state, student, teacher, learned, batch, axis_name
        )
        hard = label_loss(self.loss, self.options)(
            student, batch, adapters.params, axis_name=axis_name
        )
        terms = {self.loss: hard.mean(), self.term: value}
        if is_used(self.soft_weight):
            terms["soft_target_kl"] = losses.soft_target_kl(
                student.logits, teacher.logits, temperature=self.temperature
            ).mean()
        return weighted_sum(terms, weights, batch), terms, state


@dataclasses.dataclass(frozen=True)
class MapTransfer(Transfer):
    """A loss between pairs of feature maps, one per stage of the shallower network.

    `Outputs.feature_maps` are RepDistiller's `feat[1:-1]`: `feat[0]` is the stem, which is the
    first group of a VGG, and `feat[-1]` is the embedding. L is summed over the pairs, except for
    the hint of FitNet, which is `feat[2]`, the map of the second stage.

    Networks of four stages (ResNet-18, VGG, MobileNetV2) and of three (ResNet-20, Wide ResNets,
    ShuffleNets) have different numbers of maps. RepDistiller pairs them from the shallowest, so
    that the fourth map has no partner and is left out.

    Two things differ from RepDistiller. Maps of different sizes are pooled to the smaller size
    after the modules; RepDistiller pools before VID's modules and uses a strided, transposed or
    larger convolution for the hint. RepDistiller's Wide ResNets return maps before batch norm and
    ReLU, ours after.

    Attributes:
        paired_from: end at which the pairs begin: `shallowest`, as in RepDistiller, or `deepest`,
            where the first maps of the deeper network have no partner.
    """

    paired_from: str = "shallowest"

    def __post_init__(self):
        check_choice(self.paired_from, ("shallowest", "deepest"), "paired_from")
        super().__post_init__()

    def pairs(self, student: Outputs, teacher: Outputs) -> list[Pair]:
        """Returns the pairs of feature maps of student and teacher, shallow to deep."""
        ours, theirs = feature_maps(student, teacher)
        count = min(len(ours), len(theirs))
        if self.paired_from == "deepest":
            ours, theirs = ours[-count:], theirs[-count:]
        return list(zip(ours[:count], theirs[:count], strict=True))

    def hint(self, student: Outputs, teacher: Outputs) -> Pair:
        """Returns the second pair of feature maps, or the only one."""
        return self.pairs(student, teacher)[:2][-1]

    def sum_over_pairs(
        self,
        loss: Callable[[jax.Array, jax.Array], jax.Array],
        student: Outputs,
        teacher: Outputs,
    ) -> jax.Array:
        """Sums a loss with one value per image over all pairs, each a mean over the images."""
        means = [loss(*pair).mean() for pair in self.pairs(student, teacher)]
        return sum(means[1:], start=means[0])
