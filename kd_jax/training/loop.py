"""The loop: runs steps, checks the losses, evaluates, saves, and stops on request."""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.devices import Agreement
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.stop import Stopped, StopSignal
from kd_jax.data import BatchOrder, Loader
from kd_jax.data.loaders import Rows
from kd_jax.data.resident import Resident
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.execution import RunSteps
from kd_jax.training.log import MetricsLog, ProgressLine
from kd_jax.training.peers import together
from kd_jax.training.progress import Progress
from kd_jax.training.state import TrainState

PyTree = Any
Pending = collections.deque[tuple[int, int, dict[str, jax.Array]]]
"""Last step, number of steps and metrics of the calls whose metrics are still on the devices."""
_CALL_SECONDS = 4.0
"""Length of a call: a request to stop waits for the call that runs and for the one after it."""
FrozenOutputs = Callable[[Mapping[str, PyTree], Resident | None, Rows], Mapping[str, PyTree]]
"""`(frozen, images, rows) -> outputs by role`; see `Loop.frozen_outputs`."""


class _NotFiniteError(Exception):
    """A metric that is NaN or infinite: its name, its value and its step."""

    def __init__(self, name: str, value: float, step: int):
        super().__init__(name, value, step)
        self.name, self.value, self.step = name, value, step


@dataclasses.dataclass(frozen=True)
class Loop:
    """Trains one stage to its end.

    Attributes:
        name: name of the stage, for messages.
        run_steps: the compiled train step.
        fused: maximum number of steps in one call.
        order: the order of the images.
        steps: number of steps of the stage.
        evaluate_every: number of steps between evaluations. The last step is always evaluated.
        evaluate: computes the metrics of a state.
        result: metric that describes the stage on the terminal.
        best: metric that chooses the best checkpoint; a leading `-` prefers small values.
        learning_rate: learning rate at each step, for the log.
        checkpoints: storage of the states.
        checkpoint_minutes: greatest time between two saves.
        meta: JSON that is stored in every checkpoint.
        log: file of metrics.
        line: progress on the terminal.
        stop: request to save and end.
        frozen_outputs: outputs of the frozen networks for one step, by role, from their variables,
            the images on the devices and the rows `[1, N, ...]`. It is called only after a loss
            that is not finite, to find the cause. None: only the variables are examined.
    """

    name: str
    run_steps: RunSteps
    fused: int
    order: BatchOrder
    steps: int
    evaluate_every: int
    evaluate: Callable[[TrainState], dict[str, float]]
    result: str
    best: str
    learning_rate: Callable[[int], Any]
    checkpoints: Checkpoints
    checkpoint_minutes: float
    meta: Mapping[str, Any]
    log: MetricsLog
    line: ProgressLine
    stop: StopSignal
    frozen_outputs: FrozenOutputs | None = None

    def run(
        self,
        state: TrainState,
        frozen: Mapping[str, PyTree],
        loader: Loader,
        progress: Progress,
    ) -> tuple[TrainState, Progress]:
        """Trains from the step of `state` to the end of the stage.

        Args:
            state: the first state. It must not be used again.
            frozen: variables of the frozen networks.
            loader: the training set.
            progress: the progress that belongs to `state`.

        Returns:
            The trained state, saved and evaluated, and the final progress.

        Raises:
            Stopped: if asked to, after saving.
            UsageError: if a loss is not finite, or another process has ended. The message names a
                frozen network with NaN or infinity as the cause.
        """
        try:
            with together():
                return self._run(state, frozen, loader, progress)
        except _NotFiniteError as error:
            advice = self._frozen_cause(error.step, frozen, loader) or (
                f": lower stages.{self.name}.optimizers learning_rate or the term's weight"
            )
            raise UsageError(
                f"Stage {self.name!r}: {error.name} became {error.value} at step {error.step} of"
                f" {self.steps}{advice}, and start in a new --workdir."
            ) from None

    def _run(
        self,
        state: TrainState,
        frozen: Mapping[str, PyTree],
        loader: Loader,
        progress: Progress,
    ) -> tuple[TrainState, Progress]:
        """Does what `run` describes, but raises `_NotFiniteError` for a loss that is not finite."""
        step = saved_step = int(state.step)
        started = saved = time.monotonic()
        before = progress.seconds
        pending: Pending = collections.deque()

        def save(score: float | None = None) -> None:
            nonlocal saved, saved_step
            self._fetch(pending, 0, progress)
            saved, saved_step = time.monotonic(), step
            progress.seconds = before + saved - started
            self.checkpoints.save(state, dataclasses.asdict(progress), self.meta, score)
            self.line.pause()

        def save_and_stop() -> None:
            if step > saved_step:
                save()
            self.checkpoints.wait()
            where = f"stage {self.name!r} is saved at step {step} of {self.steps}"
            raise Stopped(where, self.stop.number)

        self.line.pause()  # the first call compiles
        agree = Agreement()
        while True:
            due = step and (step % self.evaluate_every == 0 or step == self.steps)
            if due and progress.evaluated != step:
                self._fetch(pending, 0, progress)
                score = self._evaluate(state, step, progress)
                if step == self.steps or progress.best is progress.last:
                    save(score)
            if step == self.steps:
                break
            late = time.monotonic() - saved > 60 * self.checkpoint_minutes
            asked, overdue, seconds = agree(self.stop.requested, late, self.line.step_seconds)
            if asked:
                save_and_stop()
            if overdue and step > saved_step:
                save()
            start = step // self.evaluate_every * self.evaluate_every
            end = min(start + self.evaluate_every, self.steps)
            count = min(self.fused, end - step, steps_of_a_call(seconds))
            rows = loader.steps(self.order, step, count)
            state, metrics = self.run_steps(state, frozen, loader.images, rows)
            step += count
            pending.append((step, count, metrics))
            self._fetch(pending, 1, progress)
        self.checkpoints.wait()
        return state, progress

    def _fetch(self, pending: Pending, keep: int, progress: Progress) -> None:
        """Fetches metrics until at most `keep` calls are pending."""
        while len(pending) > keep:
            last, count, metrics = pending.popleft()
            values = {name: array[:count] for name, array in jax.device_get(metrics).items()}
            _check_finite(last, values)
            progress.add(values)
            self.line.advance(last, len(values["loss"]), float(values["loss"][-1]))

    def _evaluate(self, state: TrainState, step: int, progress: Progress) -> float:
        """Evaluates a state and records its metrics; returns its score."""
        epoch = step / self.order.steps_per_epoch
        metrics = {"step": step, "epoch": epoch, **self.evaluate(state)}
        _check_finite(step, {name: np.array([v]) for name, v in metrics.items()})
        score = self._score(metrics)
        progress.record(step, metrics, score)
        self._report(progress, metrics)
        return score

    def _score(self, metrics: Mapping[str, float]) -> float:
        """Returns the number that chooses the best checkpoint."""
        name = self.best.removeprefix("-")
        check_choice(name, set(metrics) - {"step", "epoch"}, f"stages.{self.name}.best")
        return -metrics[name] if self.best.startswith("-") else metrics[name]

    def _report(self, progress: Progress, found: Mapping[str, float]) -> None:
        step = int(found["step"])
        speed = self.line.images_per_second
        train = progress.take_means()
        entry = {
            **found,
            "train": train,
            "learning_rate": float(self.learning_rate(step - 1)),
            "images_per_second": round(speed, 1),
        }
        self.log.write(entry)
        pace = f", {speed:,.0f} images/s" if speed else ""
        self.line.say(
            f"epoch {found['epoch']:g}, loss {train['loss']:.4g}, {self._headline(found)}{pace}"
        )

    def _headline(self, metrics: Mapping[str, float]) -> str:
        """Returns the result, and the metric that chooses the best checkpoint."""
        words = {"accuracy": "test accuracy"}
        names = [name for name in (self.result, self.best.removeprefix("-")) if name in metrics]
        return ", ".join(f"{words.get(n, n)} {metrics[n]:.4f}" for n in dict.fromkeys(names))

    def _frozen_cause(self, step: int, frozen: Mapping[str, PyTree], loader: Loader) -> str | None:
        """Returns the words that name a frozen network with NaN or infinity, or None.

        It examines the variables, then the outputs for the images of the step.
        """
        found = _not_finite(frozen)
        if found is None and self.frozen_outputs is not None and frozen:
            rows = loader.steps(self.order, step - 1, 1)
            found = _not_finite(self.frozen_outputs(frozen, loader.images, rows))
        if found is None:
            return None
        role, name = found
        return (
            f", because the frozen network {role!r} has NaN or infinity in {name}: give"
            f" stages.{self.name}.networks.{role} other weights or outputs"
        )


def steps_of_a_call(step_seconds: float) -> int:
    """Returns the number of steps that fit into a call; 1 as long as the speed is not known."""
    return max(1, int(_CALL_SECONDS / step_seconds)) if step_seconds else 1


def _check_finite(last: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Raises `_NotFiniteError` for the first step of `[K]` whose metrics are not all finite."""
    names = sorted(metrics, key=lambda name: name == "loss")  # the term rather than the total
    bad = np.array([~np.isfinite(metrics[name]) for name in names])
    if bad.any():
        first = bad.any(axis=0).argmax()
        name = names[bad[:, first].argmax()]
        raise _NotFiniteError(name, metrics[name][first], last - bad.shape[1] + int(first) + 1)


def _not_finite(trees: Mapping[str, PyTree]) -> tuple[str, str] | None:
    """Returns the role and the name of the first array with NaN or infinity, or None."""
    for role, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
            if inexact and not np.isfinite(jax.device_get(leaf)).all():
                return role, jax.tree_util.keystr(path, simple=True, separator="/")
    return None
