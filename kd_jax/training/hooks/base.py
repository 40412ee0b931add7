"""The interface of hooks, and their registry."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from kd_jax.core.registry import Registry


class HookContext(NamedTuple):
    """The stage that a hook receives the metrics of.

    Attributes:
        experiment: name of the experiment.
        stage: name of the stage.
        folder: folder of the stage.
        step: number of steps that are done; more than 0 if the stage resumes.
        config: the whole config, as plain values.
    """

    experiment: str
    stage: str
    folder: epath.Path
    step: int
    config: Mapping[str, Any]


class Sink:
    """An open hook: it receives the metrics of one stage."""

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Receives metrics.

        Args:
            step: number of steps that are done.
            metrics: `train/loss`, `train/TERM` and `train/accuracy/ROLE`, means over the steps
                since the entry before; `learning_rate/GROUP` and `images_per_second`; with
                `norms`, `gradient_norm/GROUP` and `weight_norm/GROUP`; or the metrics of an
                evaluation, as in `evaluation/accuracy`.
        """
        raise NotImplementedError

    def images(self, images: Mapping[str, np.ndarray]) -> None:
        """Receives the first training images, uint8 `[N, H, W, C]` by role. By default nothing."""

    def close(self) -> None:
        """Ends the work, after the last step or when the run stops. By default nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hook:
    """A receiver of metrics. A subclass is a frozen dataclass of options.

    Attributes:
        every: number of steps between two entries. Evaluations are always entries.
        norms: report the norms of gradients and weights of each optimizer group. Each entry then
            takes the time of one more step, 2 % of the training with an entry every 50 steps.
    """

    every: int = 50
    norms: bool = False

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every must be 1 or more, not {self.every}")

    def check(self) -> None:
        """Raises `UsageError` if a package is missing. It is called before the first stage."""

    def open(self, context: HookContext) -> Sink:
        """Returns the receiver of the metrics of a stage. Only the first process calls it."""
        raise NotImplementedError


HOOKS: Registry[type[Hook]] = Registry("hook", "kd_jax.training.hooks")
"""All hooks by name."""


class _FunctionSink(Sink):
    """Calls a function of `(step, metrics)`."""

    def __init__(self, function: Callable[[int, Mapping[str, float]], object]):
        self._function = function

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._function(step, metrics)


def _from_function(name: str, function: Callable[[int, Mapping[str, float]], object]) -> type[Hook]:
    """Returns the hook that calls a function."""

    def open_(self: Hook, context: HookContext) -> Sink:
        del self, context
        return _FunctionSink(function)

    members = {
        "open": open_,
        "__doc__": inspect.getdoc(function),
        "__module__": function.__module__,
    }
    return dataclasses.dataclass(frozen=True, kw_only=True)(type(name, (Hook,), members))


def register_hook(name: str, hook: Any = None) -> Any:
    """Adds a hook of your own: a function of `(step, metrics)`, or a subclass of `Hook`.

    Use it as a decorator or call it.
    """
    if hook is None:
        return lambda hook: register_hook(name, hook)
    HOOKS.register(name, hook if inspect.isclass(hook) else _from_function(name, hook))
    return hook
