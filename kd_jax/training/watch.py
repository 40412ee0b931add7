"""Gives the metrics of a running stage to hooks, without a wait for the devices."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kd_jax.core.user_code import raised
from kd_jax.training.execution import RunSteps
from kd_jax.training.hooks import Hook, Sink
from kd_jax.training.log import ProgressLine
from kd_jax.training.norms import Norms
from kd_jax.training.state import TrainState

PyTree = Any
Pending = collections.deque[tuple[int, int, Mapping[str, jax.Array], Mapping[str, jax.Array]]]
"""Last step, number of steps, metrics and norms of calls that may still run."""


class _Receiver:
    """An open hook, with the metrics since its last entry. A failure turns it off."""

    def __init__(self, name: str, hook: Hook, sink: Sink, line: ProgressLine):
        self._name, self._line = name, line
        self._sink: Sink | None = sink
        self.every = hook.every
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, step: int, values: Mapping[str, float], extra: Callable[[], dict]) -> None:
        """Adds the metrics of one step; an entry is due after every `every` steps."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if step % self.every == 0:
            means = {f"train/{name}": total / self._count for name, total in self._sums.items()}
            self._sums, self._count = {}, 0
            self.call(lambda sink: sink.metrics(step, {**means, **extra()}))

    def call(self, action: Callable[[Sink], None]) -> None:
        """Calls the hook, whose errors do not end the run."""
        if self._sink is None:
            return
        try:
            action(self._sink)
        except Exception as error:  # a user's hook, or a service, raises whatever it likes
            self._line.say(f"the hook {self._name} failed and is off now ({raised(error)})")
            self._sink = None


class Watch:
    """Gives the metrics of a stage to its hooks.

    The metrics of a call are read when the loop has read them too, so that no device waits.
    """

    def __init__(
        self,
        hooks: Mapping[str, tuple[Hook, Sink]],
        line: ProgressLine,
        rates: Mapping[str, Callable[[int], Any]],
        step: int,
        norms: tuple[Norms, int] | None = None,
    ):
        """Begins at a step.

        Args:
            hooks: the open hooks of this process, by name.
            line: progress on the terminal, which knows the speed.
            rates: learning rate at each step, by optimizer group.
            step: number of steps that are done.
            norms: the program of norms, and the number of steps between two calls of it. All
                processes must give it, since it computes on all devices.
        """
        self._receivers = [_Receiver(name, *pair, line) for name, pair in hooks.items()]
        self._line, self._rates, self._step, self._norms = line, rates, step, norms
        self._pending: Pending = collections.deque()

    def around(self, run_steps: RunSteps) -> RunSteps:
        """Returns a function that runs the same steps and keeps their metrics."""

        def run(state, frozen, images, rows):
            self._report(keep=1)
            count = len(rows["index"])
            found: Mapping[str, jax.Array] = {}
            if self._norms is not None:
                norms, every = self._norms
                # The state of the first step of the call, whose buffers the call may reuse.
                if -self._step % every < count:
                    found = norms(state, frozen, images, rows)
            state, metrics = run_steps(state, frozen, images, rows)
            self._step += count
            self._pending.append((self._step, count, metrics, found))
            return state, metrics

        return run

    def images(self, images: Mapping[str, np.ndarray]) -> None:
        """Gives the first images to the hooks."""
        for receiver in self._receivers:
            receiver.call(lambda sink: sink.images(images))

    def after(
        self, evaluate: Callable[[TrainState], dict[str, float]]
    ) -> Callable[[TrainState], dict[str, float]]:
        """Returns a function that gives the metrics of an evaluation to the hooks, too."""

        def run(state: TrainState) -> dict[str, float]:
            metrics = evaluate(state)
            self._report(keep=0)
            self._give(self._step, {f"evaluation/{k}": value for k, value in metrics.items()})
            return metrics

        return run

    def close(self) -> None:
        """Gives the last metrics to the hooks, and closes them."""
        self._report(keep=0)
        for receiver in self._receivers:
            receiver.call(lambda sink: sink.close())

    def _report(self, keep: int) -> None:
        """Gives the metrics of all calls except the last `keep` ones to the hooks."""
        while len(self._pending) > keep:
            last, count, metrics, norms = self._pending.popleft()
            if not self._receivers:
                continue
            values = {name: array[:count] for name, array in jax.device_get(dict(metrics)).items()}
            for i, step in enumerate(range(last - count, last)):
                own = {name: float(array[i]) for name, array in values.items()}
                extra = functools.partial(self._extra, step)
                for receiver in self._receivers:
                    receiver.add(step + 1, own, extra)
            if norms:
                measured = {name: float(value) for name, value in jax.device_get(norms).items()}
                self._give(last - count, measured)

    def _give(self, step: int, metrics: Mapping[str, float]) -> None:
        """Gives metrics of a step to every hook."""
        for receiver in self._receivers:
            receiver.call(lambda sink: sink.metrics(step, metrics))

    def _extra(self, step: int) -> dict[str, float]:
        """Returns learning rates of a step, and the speed if it is known."""
        rates = {f"learning_rate/{group}": float(rate(step)) for group, rate in self._rates.items()}
        speed = self._line.images_per_second
        return rates | ({"images_per_second": speed} if speed else {})


def norm_steps(hooks: Sequence[Hook]) -> int | None:
    """Returns the number of steps between two norms; None if no hook asks for them."""
    return min((hook.every for hook in hooks if hook.norms), default=None)
