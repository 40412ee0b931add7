"""The loop: runs steps, watches the losses, evaluates, saves, and stops when asked to."""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kd_jax.data import BatchOrder, Feed
from kd_jax.devices import any_process
from kd_jax.errors import UsageError
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.execution import RunSteps, chunk, fused_steps
from kd_jax.training.log import MetricsLog, ProgressLine
from kd_jax.training.stage import TrainState
from kd_jax.training.stop import Stopped, StopSignal

PyTree = Any


@dataclasses.dataclass
class Progress:
    """What the loop remembers beside the train state.

    It is saved with the state, so that a resumed run goes on as if nothing had happened.

    Attributes:
        evaluated: step of the last evaluation.
        last: what that evaluation found; None before the first.
        best: the evaluation with the greatest accuracy, the latest of equals, as in Orbax.
        sums: metrics summed over the steps since the last evaluation.
        count: number of these steps.
        seconds: time spent, over all processes that worked on the stage.
    """

    evaluated: int = -1
    last: dict[str, float] | None = None
    best: dict[str, float] | None = None
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Adds the metrics of some steps, each `[K]`."""
        for name, values in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.sum(dtype=np.float64))
        self.count += len(next(iter(metrics.values())))

    def take_means(self) -> dict[str, float]:
        """Means over the steps since the last evaluation; starts anew."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def record(self, step: int, found: dict[str, float]) -> None:
        """Notes an evaluation."""
        self.evaluated, self.last = step, found
        if self.best is None or found["accuracy"] >= self.best["accuracy"]:
            self.best = found


@dataclasses.dataclass(frozen=True)
class Loop:
    """Trains one stage to its end.

    Attributes:
        name: of the stage, for messages.
        run_steps: the compiled train step.
        order: which images make up each batch.
        steps: number of steps of the stage.
        evaluate_every: steps between evaluations; the last step is always evaluated.
        evaluate: finds the metrics of a state, `accuracy` among them.
        learning_rate: rate of the student at each step, for the log.
        checkpoints: where states are saved.
        checkpoint_minutes: greatest time between two saves.
        meta: what every checkpoint says of itself.
        log: where metrics are written.
        line: where progress is shown.
        stop: asks the loop to save and end.
    """

    name: str
    run_steps: RunSteps
    order: BatchOrder
    steps: int
    evaluate_every: int
    evaluate: Callable[[TrainState], dict[str, float]]
    learning_rate: Callable[[int], Any]
    checkpoints: Checkpoints
    checkpoint_minutes: float
    meta: Mapping[str, Any]
    log: MetricsLog
    line: ProgressLine
    stop: StopSignal

    def run(
        self,
        state: TrainState,
        frozen: Mapping[str, PyTree],
        feed: Feed,
        progress: Progress,
    ) -> tuple[TrainState, Progress]:
        """Trains from wherever `state` stands to the end.

        Args:
            state: to start from; it is used up.
            frozen: variables of the frozen networks.
            feed: the training set.
            progress: what goes with `state`.

        Returns:
            The trained state, saved and evaluated, and the final progress.

        Raises:
            Stopped: if asked to, after saving.
            UsageError: if a loss is not finite.
        """
        step = saved_step = int(state.step)
        started = saved = time.monotonic()
        before = progress.seconds
        fused = min(fused_steps(), feed.most_steps(self.order))
        pending = collections.deque()

        def drain(keep: int) -> None:
            """Fetches metrics until `keep` calls are still under way."""
            while len(pending) > keep:
                last, metrics = pending.popleft()
                metrics = jax.device_get(metrics)
                self._check_finite(last, metrics)
                progress.add(metrics)
                self.line.advance(last, len(metrics["loss"]), float(metrics["loss"][-1]))

        def save(accuracy: float | None = None) -> None:
            nonlocal saved, saved_step
            drain(0)
            saved, saved_step = time.monotonic(), step
            progress.seconds = before + saved - started
            self.checkpoints.save(state, dataclasses.asdict(progress), self.meta, accuracy)
            self.line.pause()

        def save_and_stop() -> None:
            if step > saved_step:
                save()
            self.checkpoints.wait()
            where = f"stage {self.name!r} is saved at step {step} of {self.steps}"
            raise Stopped(where, self.stop.number)

        count = None
        while True:
            due = step and (step % self.evaluate_every == 0 or step == self.steps)
            if due and progress.evaluated != step:
                drain(0)
                found = {"step": step, "epoch": step / self.order.steps_per_epoch}
                found |= self.evaluate(state)
                self._check_finite(step, {name: np.array([v]) for name, v in found.items()})
                progress.record(step, found)
                self._report(progress, found)
                save(found["accuracy"])
            if step == self.steps:
                break
            late = time.monotonic() - saved > 60 * self.checkpoint_minutes
            stop, late = any_process(self.stop.requested, late)
            if stop:
                save_and_stop()
            if late and step > saved_step:
                save()
            start = step // self.evaluate_every * self.evaluate_every
            end = min(start + self.evaluate_every, self.steps)
            if (size := chunk(step, end, start, fused)) != count:
                self.line.pause()  # the next call compiles
                count = size
            rows = feed.steps(self.order, step, count)
            state, metrics = self.run_steps(state, frozen, feed.images, rows)
            step += count
            pending.append((step, metrics))
            drain(1)
        self.checkpoints.wait()
        return state, progress

    def _report(self, progress: Progress, found: Mapping[str, float]) -> None:
        step = found["step"]
        speed = self.line.images_per_second
        entry = {
            **found,
            "train": progress.take_means(),
            "learning_rate": float(self.learning_rate(step - 1)),
            "images_per_second": round(speed, 1),
        }
        self.log.write(entry)
        self.line.say(
            f"epoch {found['epoch']:g}, loss {entry['train']['loss']:.4g},"
            f" test accuracy {found['accuracy']:.4f}, {speed:,.0f} images/s"
        )

    def _check_finite(self, last: int, metrics: Mapping[str, np.ndarray]) -> None:
        names = sorted(metrics, key=lambda name: name == "loss")  # the term rather than the total
        bad = np.array([~np.isfinite(metrics[name]) for name in names])
        if bad.any():
            first = bad.any(axis=0).argmax()
            name = names[bad[:, first].argmax()]
            step = last - bad.shape[1] + int(first) + 1
            raise UsageError(
                f"Stage {self.name!r}: {name} became {metrics[name][first]} at step {step} of"
                f" {self.steps}: lower stages.{self.name}.optimizers learning_rate or the term's"
                f" weight, and start in a new --workdir."
            )
