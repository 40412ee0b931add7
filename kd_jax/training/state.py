"""The train state: everything that a step changes, and how it starts."""

import zlib
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from kd_jax.core.errors import UsageError
from kd_jax.methods import Adapters
from kd_jax.training.average import first_average
from kd_jax.training.stage import Stage

PyTree = Any
ADAPTERS = "adapters"
"""Name of the parameter group of the method's adapters; the other groups are the roles."""


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes: arrays only.

    Attributes:
        step: number of completed steps, int32.
        params: `{group: parameters}` of the trained roles and of `"adapters"`.
        model_state: `{role: collections}` that trained networks keep besides their parameters,
            such as batch statistics.
        method_state: arrays that the method carries from step to step.
        opt_state: state of the optimizer.
        ema: moving averages of `params` and `model_state`, under these names; empty if the stage
            has no `ema_decay`.
    """

    step: jax.Array
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    method_state: PyTree
    opt_state: PyTree
    ema: dict[str, PyTree] = flax.struct.field(default_factory=dict)

    @property
    def averaged(self) -> "TrainState":
        """Returns the state to evaluate: averages replace the trained values if there are any."""
        return self.replace(**self.ema, ema={})

    def variables(self, role: str) -> PyTree:
        """Returns the variables of a trained network, as its `apply` takes them."""
        return {"params": self.params[role], **self.model_state[role]}

    @property
    def adapters(self) -> Adapters:
        """Returns the adapters of the method."""
        return Adapters(self.params[ADAPTERS], self.method_state)


def named_key(seed: int, name: str) -> jax.Array:
    """Returns a random key that depends on the seed and on its purpose, not on call order."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def init_network(stage: Stage, role: str, image: jax.Array | Mapping[str, jax.Array]) -> PyTree:
    """Makes random variables of a network.

    Two stages with one seed start the network of a role from the same values, so that they differ
    by their methods only.

    Args:
        stage: the stage.
        role: role of the network.
        image: `batch["image"]` of the right shape; its values do not matter.
    """
    view = stage.inputs(image, jnp.zeros(1, jnp.int32))[role]
    return stage.networks[role].init(named_key(stage.seed, role), view, train=False)


def init_state(
    stage: Stage,
    batch: Mapping[str, Any],
    frozen: Mapping[str, PyTree] | None = None,
    *,
    trained: Mapping[str, PyTree] | None = None,
    statistics: PyTree = None,
    adapters: Mapping[str, PyTree] | None = None,
) -> TrainState:
    """Makes the state before the first step. It may be called inside `jax.jit`.

    Args:
        stage: the stage.
        batch: a batch of the right shapes: `image`, `label` and what else the method uses. Its
            values do not matter.
        frozen: variables of the frozen networks, by role.
        trained: first variables of trained networks, by role; the others start from random ones.
        statistics: sums over the training set, from `dataset_statistics`, for methods that need
            them.
        adapters: first parameters of adapters, by name; the others start from random ones. Names
            that the method does not have are ignored.

    Raises:
        UsageError: if variables are missing or have a role that the stage does not have.
    """
    frozen, trained = dict(frozen or {}), dict(trained or {})
    stage.check_frozen(frozen)
    for role in trained:
        if role not in stage.trained:
            raise UsageError(f"trained has variables for {role!r}, which this stage never trains.")
    for role in stage.trained:
        if role not in trained:
            trained[role] = init_network(stage, role, batch["image"])
    outputs = stage.outputs({**frozen, **trained}, batch["image"], batch.get("index"))
    key = named_key(stage.seed, ADAPTERS)
    fresh = stage.method.init(key, outputs, batch, statistics or {}, stage.info)
    params = {role: trained[role]["params"] for role in stage.trained}
    params[ADAPTERS] = _with_first(fresh.params, adapters or {})
    model_state = {
        role: {name: value for name, value in trained[role].items() if name != "params"}
        for role in stage.trained
    }
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        method_state=fresh.state,
        opt_state=stage.optimizer.init(params),
        ema=first_average(params, model_state) if stage.ema_decay else {},
    )


def _with_first(fresh: PyTree, first: Mapping[str, PyTree]) -> PyTree:
    """Returns the adapters `fresh`, of which those that `first` names are replaced."""
    if not first:
        return fresh
    for name in first:
        if name in fresh:
            shapes = (jax.tree.map(jnp.shape, tree) for tree in (first[name], fresh[name]))
            if len({str(shape) for shape in shapes}) > 1:
                raise UsageError(
                    f"The adapter {name!r} has other shapes than this stage needs: start it from a"
                    " stage with the same networks."
                )
    return {name: first.get(name, value) for name, value in fresh.items()}
