"""OKDDip: peers with targets of their own, and a group leader that learns from all of them."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

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
)
from kd_jax.methods.modules import PeerAttention
from kd_jax.models import Outputs


@register("okddip")
@dataclasses.dataclass(frozen=True)
class OKDDip(Group):
    """OKDDip, Chen et al., AAAI 2020: diverse peers and a group leader.

    The target of a peer is the sum of the logits of all peers, with weights of an attention between
    their embeddings. The target of the leader is the mean of the logits of the peers. The leader is
    the role `student`, the network that is used afterwards.

    Branch-based: the leader is the first branch of the student and the peers are its other
    branches. Network-based: the peers are networks, the roles `peers`.

    The defaults are those of the official code: T = 3, three peers and a leader, a ramp of 80
    epochs, and a gradient through the targets: without it, the attention would not learn. The
    ensemble that is evaluated is the mean of the logits of the peers.

    Attributes:
        branches: number of branches, the leader included; the network needs the option `branches`
            of the same number. It is not used if there are `peers`.
        peers: names of the roles of the peers, two or more. Empty takes branches.
        reduction: the queries and keys of the attention have 1 / `reduction` of the width of the
            embeddings.
    """

    target_gradient: bool = True
    branches: int = 4
    peers: tuple[str, ...] = ()
    reduction: int = 8

    adapter_groups: ClassVar[tuple[str, ...]] = ("adapters",)

    def __post_init__(self):
        super().__post_init__()
        if self.reduction < 1:
            raise ValueError(f"reduction must be 1 or more, not {self.reduction}")
        if not self.peers:
            check_count(self.branches - 1)
        elif len(self.peers) < 2 or len({"student", ENSEMBLE, *self.peers}) < 2 + len(self.peers):
            raise ValueError(
                "peers must be two names or more, each once, without 'student' and 'ensemble', or"
                " empty for branches"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """Returns the leader and the networks that are peers."""
        return ("student", *self.peers)

    @property
    def predictions(self) -> tuple[str, ...]:
        """Returns the leader, the peers and their ensemble."""
        members = self.roles if self.peers else branch_names(self.branches)
        return (*members, ENSEMBLE)

    def init(self, key, outputs, batch, statistics, info):
        """Makes the attention."""
        del batch, statistics, info
        embeddings = self._embeddings(self._members(outputs))
        return Adapters(self._attention(embeddings).init(key, embeddings)["params"])

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        del axis_name  # a mean over images is the mean over devices of their means
        members = self._members(outputs)
        leader, *names = members
        peers = [members[name] for name in names]
        embeddings = self._embeddings(members)
        weights = self._attention(embeddings).apply({"params": adapters.params}, embeddings)
        logits = jnp.stack([x.logits for x in peers], axis=1)
        exact = jax.lax.Precision.HIGHEST
        combined = jnp.einsum("nab,nbc->nac", weights, logits, precision=exact)
        targets = {name: [combined[:, i]] for i, name in enumerate(names)}
        loss, terms = self.total(members, targets | {leader: [mean_logits(peers)]}, batch)
        return loss, terms, adapters.state

    def predict(self, adapters, outputs):
        """Returns the leader, the peers and the mean of the logits of the peers."""
        del adapters
        members = self._members(outputs)
        return members | {ENSEMBLE: ensemble(list(members.values())[1:])}

    def _members(self, outputs) -> dict[str, Outputs]:
        """Returns the leader and the peers by name, the leader first."""
        if self.peers:
            return {role: outputs[role] for role in self.roles}
        return branches_of(outputs["student"], self.branches)

    def _attention(self, embeddings: jax.Array) -> PeerAttention:
        return PeerAttention(max(1, embeddings.shape[-1] // self.reduction))

    @staticmethod
    def _embeddings(members: dict[str, Outputs]) -> jax.Array:
        """Returns the embeddings of the peers, `[N, peers, D]`."""
        embeddings = [x.embedding for x in list(members.values())[1:]]
        if len({x.shape[-1] for x in embeddings}) > 1:
            widths = ", ".join(str(x.shape[-1]) for x in embeddings)
            raise UsageError(
                "method okddip compares the embeddings of its peers, but their widths are"
                f" {widths}: take networks of one width."
            )
        return jnp.stack(embeddings, axis=1)
