"""Hooks: receivers of the metrics of a running stage, such as TensorBoard.

A config names them, for example `config.hooks = {"board": {"name": "tensorboard"}}`. They change no
number of the training.

A hook of your own is a function of `(step, metrics)` that is registered in a module which
`--import` names:

    from kd_jax.training.hooks import register_hook

    @register_hook("print")
    def print_metrics(step, metrics):
        print(step, metrics["train/loss"])

A hook with options, or with a beginning and an end, is a subclass of `Hook`.
"""

from kd_jax.training.hooks.base import HOOKS as HOOKS
from kd_jax.training.hooks.base import Hook as Hook
from kd_jax.training.hooks.base import HookContext as HookContext
from kd_jax.training.hooks.base import Sink as Sink
from kd_jax.training.hooks.base import register_hook as register_hook
