"""DML: networks that teach each other."""

import dataclasses

from kd_jax.core.errors import check_choice
from kd_jax.methods.base import Weight, register
from kd_jax.methods.group import ENSEMBLE, Group, ensemble, mean_logits, others


@register("dml")
@dataclasses.dataclass(frozen=True)
class DML(Group):
    """DML, Zhang et al., CVPR 2018: every network is a student and a teacher of the others.

    Network k learns `hard_weight * CE + soft_weight * mean_l T^2 * KL(p_l || p_k)`, the mean over
    all other networks l. All networks learn from the same step: each update uses the predictions
    from before it. Algorithm 1 of the paper updates the networks in turn, each from new predictions
    of those before it; the official code does not.

    The default T = 1 and constant weight are the paper's. The official code adds the divergences
    instead of averaging them, which is the same for two networks. The code of OKDDip has T = 3,
    `targets="mean"` and `target_gradient=True`.

    Attributes:
        peers: names of the roles of the networks. None of them is frozen. The first is the result
            of the stage.
        targets: `each` of the other networks, or the `mean` of their logits.
    """

    temperature: float = 1.0
    soft_weight: Weight = 1.0
    peers: tuple[str, ...] = ("peer1", "peer2")
    targets: str = "each"

    def __post_init__(self):
        super().__post_init__()
        check_choice(self.targets, ("each", "mean"), "targets")
        if len(self.peers) < 2 or len({*self.peers, ENSEMBLE}) < 1 + len(self.peers):
            raise ValueError(f"peers must be two names or more, each once, without {ENSEMBLE!r}")

    @property
    def roles(self) -> tuple[str, ...]:
        """Returns the networks."""
        return self.peers

    @property
    def trained_roles(self) -> tuple[str, ...]:
        """Returns the networks, in the order of `peers`."""
        return self.peers

    @property
    def predictions(self) -> tuple[str, ...]:
        """Returns the networks and their ensemble."""
        return (*self.peers, ENSEMBLE)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        del axis_name  # a mean over images is the mean over devices of their means
        networks = [outputs[role] for role in self.peers]
        targets = {}
        for i, role in enumerate(self.peers):
            rest = others(networks, i)
            each = [x.logits for x in rest]
            targets[role] = each if self.targets == "each" else [mean_logits(rest)]
        loss, terms = self.total(dict(zip(self.peers, networks, strict=True)), targets, batch)
        return loss, terms, adapters.state

    def predict(self, adapters, outputs):
        """Returns the networks and the mean of their logits."""
        del adapters
        networks = {role: outputs[role] for role in self.peers}
        return networks | {ENSEMBLE: ensemble(list(networks.values()))}
