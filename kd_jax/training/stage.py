"""A stage: networks by role, a method, an optimizer; and the state that training changes."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from kd_jax.data import Views
from kd_jax.methods import Adapters, Method
from kd_jax.models import Outputs

PyTree = Any
ADAPTERS = "adapters"
"""Name of the parameter group of the method's adapters, beside the roles."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is trained, and against what.

    Attributes:
        networks: module of each role.
        trained: roles whose networks are trained; the others are frozen.
        method: what is minimised.
        optimizer: transformation of the parameters `{group: tree}`, where the groups are the
            trained roles and `"adapters"`.
        views: what each role sees of a batch.
        seed: of everything random in the stage.
    """

    networks: Mapping[str, nn.Module]
    trained: tuple[str, ...]
    method: Method
    optimizer: optax.GradientTransformation
    views: Views
    seed: int = 0

    @property
    def frozen(self) -> tuple[str, ...]:
        """Roles whose networks stay as they are."""
        return tuple(role for role in self.networks if role not in self.trained)


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes, and nothing else: arrays only.

    Attributes:
        step: number of steps done, int32.
        params: `{group: parameters}` of the trained roles and of `"adapters"`.
        model_state: `{role: collections}` that trained networks keep beside their parameters,
            such as batch statistics.
        method_state: what the method carries from step to step.
        opt_state: of the optimizer.
    """

    step: jax.Array
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    method_state: PyTree
    opt_state: PyTree

    def variables(self, role: str) -> PyTree:
        """The variables of a trained network, as its `apply` takes them."""
        return {"params": self.params[role], **self.model_state[role]}


def named_key(seed: int, name: str) -> jax.Array:
    """A random key that depends on the seed and on what it is for, not on the order of calls."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def init_network(stage: Stage, role: str, images: jax.Array) -> PyTree:
    """Fresh variables of a network.

    Two stages with one seed start a role's network alike, so that their difference is the method's.
    """
    view = stage.views.evaluation(images)[role]
    return stage.networks[role].init(named_key(stage.seed, role), view, train=False)


def init_state(
    stage: Stage, variables: Mapping[str, PyTree], batch: Mapping[str, jax.Array], statistics
) -> TrainState:
    """The state before the first step.

    Args:
        stage: what is trained.
        variables: of every network, trained and frozen.
        batch: a batch of the right shapes: `image`, `label`, `index`.
        statistics: what the method asked to know of the training set.
    """
    views = stage.views.evaluation(batch["image"])
    outputs = {
        role: network.apply(variables[role], views[role], train=False)
        for role, network in stage.networks.items()
    }
    adapters = stage.method.init(named_key(stage.seed, ADAPTERS), outputs, batch, statistics)
    params = {role: variables[role]["params"] for role in stage.trained}
    params[ADAPTERS] = adapters.params
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={
            role: {name: value for name, value in variables[role].items() if name != "params"}
            for role in stage.trained
        },
        method_state=adapters.state,
        opt_state=stage.optimizer.init(params),
    )


def _forward(
    stage: Stage, params, model_state, frozen, views, key
) -> tuple[dict[str, Outputs], dict[str, PyTree]]:
    """One forward pass a network: outputs of all roles, new model state of the trained ones."""
    outputs, new_state = {}, {}
    for role, network in stage.networks.items():
        with jax.named_scope(role):
            if role in stage.trained:
                outputs[role], new_state[role] = network.apply(
                    {"params": params[role], **model_state[role]},
                    views[role],
                    train=True,
                    mutable=list(model_state[role]),
                    rngs={"dropout": jax.random.fold_in(key, zlib.crc32(role.encode()))},
                )
            else:
                outputs[role] = network.apply(frozen[role], views[role], train=False)
    return outputs, new_state


def train_step(
    stage: Stage,
    state: TrainState,
    frozen: Mapping[str, PyTree],
    batch: Mapping[str, jax.Array],
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of all trained networks: one forward pass each, one gradient tree.

    Written for the global batch, to be compiled by `jax.jit`; under `jax.pmap` it sees this
    device's part of it, and `axis_name` joins them.

    Args:
        stage: what is trained.
        state: before the step.
        frozen: variables of the frozen networks; never changed.
        batch: `image` uint8 `[N, H, W, C]`, `label` and `index` int32 `[N]`.
        axis_name: the axis of `pmap`.

    Returns:
        The state after the step, and float32 metrics of the batch before the update: `loss`, every
        term of the method unweighted, and `accuracy/ROLE`.
    """
    rows = jnp.arange(len(batch["label"]), dtype=jnp.int32)
    if axis_name is not None:
        rows += len(rows) * lax.axis_index(axis_name)
    key = jax.random.fold_in(named_key(stage.seed, "step"), state.step)
    views = stage.views.training(key, batch["image"], rows)
    batch = {**batch, "key": key, "step": state.step}
    if axis_name is not None:  # dropout draws anew for every device's share
        key = jax.random.fold_in(key, lax.axis_index(axis_name))

    def loss_fn(params):
        outputs, model_state = _forward(stage, params, state.model_state, frozen, views, key)
        adapters = Adapters(params[ADAPTERS], state.method_state)
        loss, terms, method_state = stage.method(adapters, outputs, batch, axis_name=axis_name)
        accuracies = {
            f"accuracy/{role}": jnp.mean(
                (out.logits.argmax(-1) == batch["label"]).astype(jnp.float32)
            )
            for role, out in outputs.items()
        }
        return loss, ({"loss": loss, **terms, **accuracies}, model_state, method_state)

    grads, (metrics, model_state, method_state) = jax.grad(loss_fn, has_aux=True)(state.params)
    if axis_name is not None:
        grads, metrics, model_state = lax.pmean((grads, metrics, model_state), axis_name)
    updates, opt_state = stage.optimizer.update(grads, state.opt_state, state.params)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        model_state=model_state,
        method_state=method_state,
        opt_state=opt_state,
    ), metrics
