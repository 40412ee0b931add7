"""CL-ILR and ONE: branches of one network that learn from each other."""

import dataclasses
from typing import ClassVar

import jax

from kd_jax.core.errors import UsageError
from kd_jax.methods.base import Adapters, register
from kd_jax.methods.group import (
    ENSEMBLE,
    Group,
    branch_names,
    branches_of,
    check_count,
    ensemble,
    mean_logits,
    others,
)
from kd_jax.methods.modules import Gate
from kd_jax.models import Outputs


@dataclasses.dataclass(frozen=True)
class _Branched(Group):
    """A group of the branches of one network, with their ensemble.

    Attributes:
        branches: number of branches, the network's own included. The network needs the option
            `branches` of the same number.
    """

    branches: int = 4

    roles: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self):
        super().__post_init__()
        check_count(self.branches)

    @property
    def predictions(self) -> tuple[str, ...]:
        """Returns the network, its further branches and the ensemble."""
        return (*branch_names(self.branches), ENSEMBLE)

    def predict(self, adapters, outputs):
        """Returns all branches and the mean of their logits."""
        del adapters
        branches = branches_of(outputs["student"], self.branches)
        return branches | {ENSEMBLE: ensemble(list(branches.values()))}


@register("cl_ilr")
@dataclasses.dataclass(frozen=True)
class CLILR(_Branched):
    """CL-ILR, Song and Chai, NeurIPS 2018: each branch learns from the mean of the others' logits.

    The gradient of the shared layers is divided by the number of branches: the option
    `branch_rescale=True` of the network does so. Without it, this is the same method without
    backpropagation rescaling.

    No code of the authors is known. The weights, T and the ramp are those of the code of OKDDip,
    which has `target_gradient=True`.
    """

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        del axis_name  # a mean over images is the mean over devices of their means
        branches = branches_of(outputs["student"], self.branches)
        members = list(branches.values())
        targets = {name: [mean_logits(others(members, i))] for i, name in enumerate(branches)}
        loss, terms = self.total(branches, targets, batch)
        return loss, terms, adapters.state


@register("one")
@dataclasses.dataclass(frozen=True)
class ONE(_Branched):
    """ONE, Lan et al., NeurIPS 2018: the gated ensemble of the branches teaches each branch.

    The ensemble is the sum of the logits, with the weights of a gate. It learns from the labels,
    as the branches do. It is evaluated as `ensemble`, the paper's ONE-E. The gate sees the feature
    map before the last stage. Its running statistics are part of the state of the method.

    The defaults are those of the official code: T = 3, three branches, and a ramp of 80 epochs. The
    code of OKDDip has four branches and `target_gradient=True`.
    """

    branches: int = 3

    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def init(self, key, outputs, batch, statistics, info):
        """Makes the gate."""
        del batch, statistics, info
        shared = self._shared(outputs["student"])
        variables = Gate(self.branches).init(key, shared)
        return Adapters({"gate": variables["params"]}, {"gate": variables["batch_stats"]})

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        branches = branches_of(outputs["student"], self.branches)
        weights, state = Gate(self.branches, axis_name=axis_name).apply(
            self._variables(adapters), self._shared(outputs["student"]), mutable=["batch_stats"]
        )
        combined = _gated(branches, weights)
        targets = {name: [combined.logits] for name in branches}
        loss, terms = self.total(branches | {ENSEMBLE: combined}, targets, batch)
        return loss, terms, {"gate": state["batch_stats"]}

    def predict(self, adapters, outputs):
        """Returns all branches and the gated ensemble."""
        branches = branches_of(outputs["student"], self.branches)
        gate = Gate(self.branches, train=False)
        weights = gate.apply(self._variables(adapters), self._shared(outputs["student"]))
        return branches | {ENSEMBLE: _gated(branches, weights)}

    @staticmethod
    def _variables(adapters: Adapters) -> dict[str, dict]:
        return {"params": adapters.params["gate"], "batch_stats": adapters.state["gate"]}

    @staticmethod
    def _shared(student: Outputs) -> jax.Array:
        """Returns the feature map that all branches see."""
        if len(student.feature_maps) < 2:
            raise UsageError(
                "method one needs the feature map before the last stage, which the student does not"
                " return: take another network."
            )
        return student.feature_maps[-2]


def _gated(branches: dict[str, Outputs], weights: jax.Array) -> Outputs:
    """Returns the ensemble with the weights `[N, branches]`."""
    members = list(branches.values())
    parts = [weights[:, i, None] * x.logits for i, x in enumerate(members)]
    return ensemble(members, sum(parts[1:], parts[0]))
