"""The train step: one forward pass per network, one tree of gradients."""

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import mixup
from kd_jax.methods import Adapters
from kd_jax.models import Outputs
from kd_jax.training import parts
from kd_jax.training.accumulation import accumulated
from kd_jax.training.average import next_average
from kd_jax.training.remat import applied
from kd_jax.training.stage import Stage, check_outputs
from kd_jax.training.state import ADAPTERS, TrainState, named_key

PyTree = Any
_ROWS = "rows"
"""Key of a batch: rows of its images in the global batch, from which augmentation draws."""


def train_step(
    stage: Stage,
    state: TrainState,
    frozen: Mapping[str, PyTree],
    batch: Mapping[str, Any],
    axis_name: str | None = None,
    *,
    unroll: bool | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Trains all trained networks for one step: one forward pass each, one tree of gradients.

    It is written for the global batch, to be compiled by `jax.jit`. Under `jax.pmap` it sees this
    device's part of the batch, and `axis_name` joins the devices.

    Args:
        stage: the stage; close over it, as in `jax.jit(functools.partial(train_step, stage))`.
        state: the state before the step.
        frozen: variables of the frozen networks; they never change.
        batch: `image` (uint8 `[N, H, W, C]` where the stage has views, else the networks' inputs),
            and usually `label` int32 `[N]` and `index` int32 `[N]`.
        axis_name: the axis of `pmap`.
        unroll: write the parts of a batch (`stage.accumulate`) one after another instead of in a
            loop. XLA's CPU backend runs convolutions inside a loop many times slower. None follows
            the default device.

    Returns:
        The state after the step, and float32 metrics of the batch before the update: `loss`, every
        term of the method unweighted, and `accuracy/ROLE` where the batch has labels.

    Raises:
        UsageError: if `frozen` does not fit the stage, the batch cannot be divided, or the method
            returns something else than a scalar, its terms and its state.
    """
    stage.check_frozen(frozen)
    key = jax.random.fold_in(named_key(stage.seed, "step"), state.step)
    batch = _with_rows(stage, key, batch, axis_name) | {"step": state.step}
    if stage.info is not None:
        step = jnp.asarray(state.step, jnp.float32)
        batch["epoch"] = step / jnp.float32(stage.info.steps_per_epoch)

    def gradients(carried, part, own):
        return _gradients(stage, state.params, carried, frozen, part, (key, own), axis_name)

    carried = state.model_state, state.method_state
    if stage.accumulate == 1:
        grads, metrics, carried = gradients(carried, batch, key)
    else:
        unroll = jax.default_backend() == "cpu" if unroll is None else unroll
        grads, metrics, carried = accumulated(
            gradients, stage.accumulate, state.params, carried, batch, key, unroll=unroll
        )
    model_state, method_state = carried
    if axis_name is not None:
        grads, metrics, model_state = lax.pmean((grads, metrics, model_state), axis_name)
    updates, opt_state = stage.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if stage.ema_decay:
        ema = next_average(ema, stage.ema_decay, state.step, params, model_state)
    return TrainState(
        step=state.step + 1,
        params=params,
        model_state=model_state,
        method_state=method_state,
        opt_state=opt_state,
        ema=ema,
    ), metrics


def _gradients(
    stage: Stage,
    params: PyTree,
    carried: tuple[PyTree, PyTree],
    frozen: Mapping[str, PyTree],
    batch: Mapping[str, Any],
    keys: tuple[jax.Array, jax.Array],
    axis_name: str | None,
) -> tuple[PyTree, dict[str, jax.Array], tuple[PyTree, PyTree]]:
    """Returns the gradients of a batch, its metrics, and the new states of networks and method.

    Args:
        stage: the stage.
        params: parameters by group.
        carried: states of the networks and of the method.
        frozen: variables of the frozen networks.
        batch: the batch or a part of it, from `_with_rows`.
        keys: random keys of the step, for the views, and of the batch, for all else.
        axis_name: the axis of `pmap`.
    """
    model_state, method_state = carried
    key, own = keys
    inputs, batch = _inputs(stage, key, batch), {**batch, "key": own}
    if axis_name is not None:  # dropout draws other numbers on every device
        own = jax.random.fold_in(own, lax.axis_index(axis_name))

    def loss_fn(params):
        outputs, new_model_state = _forward(stage, params, model_state, frozen, inputs, own)
        adapters = Adapters(params[ADAPTERS], method_state)
        result = stage.method(adapters, outputs, batch, axis_name=axis_name)
        loss, terms, new_method_state = _checked(stage, result, method_state)
        metrics = {"loss": loss, **terms, **_accuracies(outputs, batch)}
        return loss, (metrics, (new_model_state, new_method_state))

    grads, (metrics, carried) = jax.grad(loss_fn, has_aux=True)(params)
    return grads, metrics, carried


def _with_rows(
    stage: Stage, key: jax.Array, batch: Mapping[str, Any], axis_name: str | None
) -> dict[str, Any]:
    """Returns the batch after mixup, with the rows of its images in the global batch.

    Rows and mixup are of the whole batch, so that they do not depend on its parts.
    """
    if stage.recorded and "index" not in batch:
        raise UsageError(
            f"batch has no index, which the recorded network {stage.recorded[0]!r} needs: add the"
            " positions of the images in the training set, int32 [N]."
        )
    if stage.views is None:
        return dict(batch)
    images, extra = batch["image"], {}
    rows = jnp.arange(len(images), dtype=jnp.int32)
    if axis_name is not None:
        rows += len(rows) * lax.axis_index(axis_name)
    if stage.views.augmentation.mixup:
        own = jax.random.fold_in(key, zlib.crc32(b"mixup"))
        alpha = stage.views.augmentation.mixup
        images, extra["mixed"] = mixup(
            own, images, batch["label"], alpha=alpha, axis_name=axis_name
        )
    return {**batch, "image": images, **extra, _ROWS: rows}


def _inputs(stage: Stage, key: jax.Array, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns the input of every network in training."""
    if stage.views is None:
        return stage.inputs(batch["image"], batch.get("index"))
    indices = dict.fromkeys(stage.recorded, batch.get("index"))
    views = stage.views.training(key, batch["image"], batch[_ROWS], batch.get("index"))
    return {**views, **indices}


def _forward(
    stage: Stage,
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    frozen: Mapping[str, PyTree],
    inputs: Mapping[str, jax.Array],
    key: jax.Array,
) -> tuple[dict[str, Outputs], dict[str, PyTree]]:
    """Returns the outputs of all roles, and the new model state of the trained ones."""
    outputs, new_state = {}, {}
    for role, network in stage.networks.items():
        with jax.named_scope(role):
            if role in stage.trained:
                kind, mutable = stage.remat.get(role, "none"), list(model_state[role])
                apply = applied(network, kind, train=True, mutable=mutable)
                result, new_state[role] = apply(
                    {"params": params[role], **model_state[role]},
                    inputs[role],
                    rngs={"dropout": jax.random.fold_in(key, zlib.crc32(role.encode()))},
                )
            else:
                apply = functools.partial(network.apply, frozen[role], train=False)
                result = parts.forward(apply, inputs[role])
        outputs[role] = check_outputs(role, result)
    return outputs, new_state


def _checked(
    stage: Stage, result: Any, state: PyTree
) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
    """Returns the result of a method; raises `UsageError` if it is not what was agreed."""
    name = type(stage.method).__name__
    if not (isinstance(result, tuple) and len(result) == 3 and isinstance(result[1], Mapping)):
        raise UsageError(f"{name} must return (loss, terms, state), where terms is a dictionary.")
    loss, terms, new_state = result
    for term, value in {"loss": loss, **terms}.items():
        if jnp.shape(value) != ():
            raise UsageError(
                f"{name} returns {term} of shape {jnp.shape(value)}: it must be a scalar, such as"
                " the mean over the images."
            )
    same_structure: bool = jax.tree.structure(new_state) == jax.tree.structure(state)  # type: ignore[operator]
    if not same_structure:
        raise UsageError(
            f"{name} returns a state of another structure than its init made: return"
            " adapters.state where nothing changes."
        )
    return loss, dict(terms), new_state


def _accuracies(outputs: Mapping[str, Outputs], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns the fraction of the batch's images that each network classifies correctly."""
    if "label" not in batch:
        return {}
    label = batch["label"]
    label = label.argmax(-1) if label.ndim == 2 else label
    return {
        f"accuracy/{role}": jnp.mean((out.logits.argmax(-1) == label).astype(jnp.float32))
        for role, out in outputs.items()
        if isinstance(out.logits, jax.Array)
    }
