"""The items of a checkpoint: a state cut into parts that can be read alone."""

from collections.abc import Mapping
from typing import Any

import jax

from kd_jax.training.state import ADAPTERS, TrainState

PyTree = Any
_RAW = "trained"
"""Item with the values that the optimizer moves, where the others hold their averages."""


def to_items(state: TrainState) -> dict[str, PyTree]:
    """Returns the parts of a state by name; parts without arrays are left out.

    A network is one item, so that it can be read without the rest. It holds the values to use: the
    averages where the stage has `ema_decay`. The values to train are then an item of their own.
    """
    shown = state.averaged
    roles = [group for group in shown.params if group != ADAPTERS]
    items = {f"network_{role}": shown.variables(role) for role in roles}
    items[ADAPTERS] = {"params": shown.params[ADAPTERS], "state": shown.method_state}
    items["optimizer"] = {"state": state.opt_state, "step": state.step}
    if state.ema:
        items[_RAW] = {"params": state.params, "model_state": state.model_state}
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def from_items(template: TrainState, items: Mapping[str, PyTree]) -> TrainState:
    """Returns the state of its parts, the inverse of `to_items`.

    Args:
        template: a state of the same structure.
        items: the parts by name.
    """
    adapters = items.get(ADAPTERS, {"params": {}, "state": {}})
    params, model_state = {ADAPTERS: adapters["params"]}, {}
    for role in template.model_state:
        variables = dict(items[f"network_{role}"])
        params[role] = variables.pop("params")
        model_state[role] = variables
    shown = {
        "params": {group: params[group] for group in template.params},
        "model_state": model_state,
    }
    return TrainState(
        step=items["optimizer"]["step"],
        method_state=adapters["state"],
        opt_state=items["optimizer"]["state"],
        **(items[_RAW] if template.ema else shown),
        ema=shown if template.ema else {},
    )
