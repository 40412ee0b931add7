"""The field's baselines: one loss between the two networks, beside the labels and KD."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
from jax import lax

from kd_jax import losses
from kd_jax.errors import UsageError
from kd_jax.methods.base import Adapters, Method, check_choice, check_weights
from kd_jax.models import GaussianRegressor, HintRegressor, LinearMap, Outputs

Learned = Mapping[str, tuple[nn.Module, jax.Array]]
"""Modules that are trained with the student, by name, and what they see."""


class Kind(NamedTuple):
    """A loss, as RepDistiller uses it.

    Attributes:
        weight: the usual one, at a batch of 64.
        value: from the outputs of student and teacher, what the modules make of them and the axis
            of `pmap` to a scalar.
        learned: the modules, from the outputs of student and teacher and that axis; None if there
            are none.
    """

    weight: float
    value: Callable[[Outputs, Outputs, Mapping[str, Any], str | None], jax.Array]
    learned: Callable[[Outputs, Outputs, str | None], Learned] | None = None


def _maps(student: Outputs, teacher: Outputs) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Pairs of maps, from the deepest, by name; shallow ones without a partner are left out."""
    pairs = zip(reversed(student.maps), reversed(teacher.maps), strict=False)
    found = {f"map{i}": pair for i, pair in enumerate(pairs, start=1)}
    if not found:
        raise UsageError(
            "method.loss needs maps, but one of the networks returns none: choose rkd,"
            " probabilistic_transfer or correlation_congruence, or another network."
        )
    return found


def _hint(student: Outputs, teacher: Outputs) -> tuple[jax.Array, jax.Array]:
    """The maps of the second stage, or of the only one."""
    pairs = list(_maps(student, teacher).values())
    return pairs[max(0, len(pairs) - 2)]


def _hint_regressor(student, teacher, axis_name):
    ours, theirs = _hint(student, teacher)
    return {"hint": (HintRegressor(theirs.shape[-1], axis_name=axis_name), ours)}


def _fitnet(student, teacher, learned, axis_name):
    del axis_name
    return losses.feature_mse(learned["hint"], _hint(student, teacher)[1]).mean()


def _sum_over_maps(loss: Callable[[jax.Array, jax.Array], jax.Array]):
    """A loss of every pair of maps, summed over them, with one value an image."""

    def value(student, teacher, learned, axis_name):
        del learned, axis_name
        return sum(loss(*pair).mean() for pair in _maps(student, teacher).values())

    return value


def _gaussian_regressors(student, teacher, axis_name):
    del axis_name
    return {
        name: (GaussianRegressor(theirs.shape[-1]), ours)
        for name, (ours, theirs) in _maps(student, teacher).items()
    }


def _variational_information(student, teacher, learned, axis_name):
    del axis_name
    return sum(
        losses.variational_information(learned[name][0], theirs, learned[name][1]).mean()
        for name, (_, theirs) in _maps(student, teacher).items()
    )


def _rkd(student, teacher, learned, axis_name):
    del learned
    pair = student.embedding, teacher.embedding
    distances = losses.rkd_distance(*pair, axis_name=axis_name)
    return 25 * distances + 50 * losses.rkd_angle(*pair, axis_name=axis_name)


def _similarity_preserving(student, teacher, learned, axis_name):
    del learned
    ours, theirs = _maps(student, teacher)["map1"]
    return losses.similarity_preserving(ours, theirs, axis_name=axis_name)


def _probabilistic_transfer(student, teacher, learned, axis_name):
    del learned
    return losses.probabilistic_transfer(student.embedding, teacher.embedding, axis_name=axis_name)


def _linear_embeddings(student, teacher, axis_name):
    del axis_name
    both = {"student": student, "teacher": teacher}
    return {role: (LinearMap(128), outputs.embedding) for role, outputs in both.items()}


def _correlation_congruence(student, teacher, learned, axis_name):
    del student, teacher
    return losses.correlation_congruence(
        learned["student"], learned["teacher"], axis_name=axis_name
    )


KINDS: dict[str, Kind] = {
    "attention_transfer": Kind(1000.0, _sum_over_maps(losses.attention_transfer)),
    "correlation_congruence": Kind(0.02, _correlation_congruence, _linear_embeddings),
    "fitnet": Kind(100.0, _fitnet, _hint_regressor),
    "neuron_selectivity": Kind(50.0, _sum_over_maps(losses.neuron_selectivity)),
    "probabilistic_transfer": Kind(30000.0, _probabilistic_transfer),
    "rkd": Kind(1.0, _rkd),
    "similarity_preserving": Kind(3000.0, _similarity_preserving),
    "variational_information": Kind(1.0, _variational_information, _gaussian_regressors),
}


@dataclasses.dataclass(frozen=True)
class Transfer(Method):
    """FitNet, AT, SP, CC, VID, RKD, PKT or NST as RepDistiller trains them, in one stage.

    `hard_weight * CE + soft_weight * T^2 * KL + loss_weight * L`. The maps are those of the stages,
    paired from the deepest, and L is summed over them, but for the hint of FitNet, which is the
    second stage's, and SP, which has the last. RKD, PKT and CC compare the embeddings.

    Two things differ: maps of different sizes are pooled to the smaller after the modules, where
    RepDistiller pools before VID's and has a strided convolution for the hint; and its Wide ResNets
    tell maps before batch norm and ReLU, where ours are after.

    Attributes:
        loss: a name of `KINDS`.
        loss_weight: of L; None is RepDistiller's, tuned at a batch of 64.
        hard_weight: of the cross-entropy on the labels.
        soft_weight: of the divergence from the teacher's predictions.
        temperature: T, at which both softmaxes of that are taken.
    """

    loss: str
    loss_weight: float | None = None
    hard_weight: float = 1.0
    soft_weight: float = 0.0
    temperature: float = 4.0

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    frozen_roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self):
        check_choice("loss", self.loss, tuple(KINDS))
        if self.loss_weight is None:
            object.__setattr__(self, "loss_weight", KINDS[self.loss].weight)
        check_weights(self)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be greater than 0, not {self.temperature}")

    @property
    def adapter_groups(self) -> tuple[str, ...]:
        """None for the losses without modules."""
        return ("adapters",) if KINDS[self.loss].learned else ()

    def _learned(self, student: Outputs, teacher: Outputs, axis_name: str | None) -> Learned:
        learned = KINDS[self.loss].learned
        return learned(student, teacher, axis_name) if learned else {}

    def init(self, key, outputs, batch, statistics):
        """The modules, by name."""
        del batch, statistics
        learned = self._learned(outputs["student"], outputs["teacher"], None)
        return Adapters(
            {
                name: module.init(jax.random.fold_in(key, zlib.crc32(name.encode())), x)["params"]
                for name, (module, x) in learned.items()
            }
        )

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        student, teacher = outputs["student"], lax.stop_gradient(outputs["teacher"])
        learned = {
            # Running statistics are never used: the modules are gone when training ends.
            name: module.apply({"params": adapters.params[name]}, x, mutable=["batch_stats"])[0]
            for name, (module, x) in self._learned(student, teacher, axis_name).items()
        }
        terms = {
            "cross_entropy": losses.cross_entropy(student.logits, batch["label"]).mean(),
            self.loss: KINDS[self.loss].value(student, teacher, learned, axis_name),
        }
        loss = self.hard_weight * terms["cross_entropy"] + self.loss_weight * terms[self.loss]
        if self.soft_weight:
            terms["soft_target_kl"] = losses.soft_target_kl(
                student.logits, teacher.logits, temperature=self.temperature
            ).mean()
            loss += self.soft_weight * terms["soft_target_kl"]
        return loss, terms, adapters.state
