"""A stage taken apart: programs that each add one part of training to the one before."""

import functools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax.data import Feed, Resident, batch_of
from kd_jax.devices import place, replicated, split
from kd_jax.methods import Adapters
from kd_jax.pipeline import Run
from kd_jax.training import (
    EXECUTIONS,
    Loop,
    MetricsLog,
    Progress,
    ProgressLine,
    Stage,
    StopSignal,
    TrainState,
    dataset_statistics,
    init_network,
    init_state,
    statistics_shapes,
)
from kd_jax.training.execution import chunk, fused_steps
from kd_jax.training.stage import ADAPTERS, named_key

Rung = Callable[[], None]


def write_images(path: Path, number: int, size: tuple[int, int]) -> None:
    """Random images of a height and width, with CIFAR-100's classes, as `.npz`."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (number, *size, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(number) % 100)


def ladder(run: Run, name: str, steps: int) -> tuple[dict[str, Rung], float | None]:
    """Makes the programs of a stage; each call runs some steps and waits for them.

    Args:
        run: has checked and made everything; it does not run itself.
        name: of a stage.
        steps: of one call.

    Returns:
        The programs by what each adds to the one before: "networks", forward and backward with a
        cross-entropy; "losses", those of the method instead; "data and views", the batch, its
        augmentation and every role's resolution; "optimizer", the whole compiled step, so the
        update, the metrics and the transfer of the indices; "loop", the host's loop.
        And the operations that the networks take in a step on each device, if XLA can say.
    """
    stage, order, batches = run.plan.stages[name], run.plan.order, split(run.mesh)
    feed = Resident(run.plan.train, run.mesh)
    fresh, frozen = start(stage, run, _few(run))
    rows = {"index": place(order(0), batches)}
    batch = jax.jit(batch_of, out_shardings=batches)(feed.images, rows)
    views = jax.jit(stage.views.evaluation, out_shardings=batches)(batch["image"])

    networks = jax.jit(functools.partial(_gradients, stage, _cross_entropy(stage)))
    method = jax.jit(functools.partial(_gradients, stage, _method(stage)))
    viewed = jax.jit(functools.partial(_viewed, stage))
    run_steps = EXECUTIONS["jit"](stage, run.mesh)
    state = fresh()
    ready = state, frozen, views, batch
    # of the program as written: in the compiled one a GPU's convolutions are opaque calls
    cost = networks.lower(*ready).cost_analysis() or {}
    flops = cost["flops"] / run.mesh.size if "flops" in cost else None
    return {
        "networks": lambda: _repeat(steps, networks, *ready),
        "losses": lambda: _repeat(steps, method, *ready),
        "data and views": lambda: _repeat(steps, viewed, state, frozen, feed.images, rows),
        "optimizer": _stepping(run, run_steps, steps, fresh(), frozen, feed),
        "loop": _looping(run, run_steps, steps, fresh(), frozen, feed),
    }, flops


def loop(run: Run, name: str, steps: int) -> tuple[Rung, int]:
    """The last rung alone, and the memory that its step needs.

    Args:
        run: has checked and made everything; it does not run itself.
        name: of a stage.
        steps: of one call.

    Returns:
        The program, and the bytes that each device holds at once in a step, by XLA's analysis: the
        training set, networks, optimizer and all that lies between. It is the same on all devices
        of a kind; a device's own high-water mark would be that of all stages before it too.
    """
    stage, feed = run.plan.stages[name], Resident(run.plan.train, run.mesh)
    fresh, frozen = start(stage, run, _few(run))
    run_steps, state = EXECUTIONS["jit"](stage, run.mesh), fresh()
    rows = feed.steps(run.plan.order, 0, 1)
    # the state is used up on accelerators, as `run_steps` does by itself
    used_up = () if jax.default_backend() == "cpu" else (0,)
    step = jax.jit(lambda *arguments: run_steps(*arguments, rows), donate_argnums=used_up)
    needs = step.lower(state, frozen, feed.images).compile().memory_analysis()
    memory = (
        needs.argument_size_in_bytes
        + needs.temp_size_in_bytes
        + needs.output_size_in_bytes
        - needs.alias_size_in_bytes
    )
    return _looping(run, run_steps, steps, state, frozen, feed), memory


def _few(run: Run) -> Resident:
    """Enough of the images for the statistics of a method: random ones are all alike."""
    train = run.plan.train
    return Resident(train.keep(np.arange(min(1000, len(train)))), run.mesh)


def start(stage: Stage, run: Run, feed: Feed) -> tuple[Callable[[], TrainState], dict[str, Any]]:
    """A function that makes first states, and the variables of the frozen networks.

    Args:
        stage: of the run.
        run: has checked and made everything.
        feed: the images that the method's statistics are taken of.
    """
    whole, example = replicated(run.mesh), run.plan.example()

    def networks():
        return {role: init_network(stage, role, example["image"]) for role in stage.networks}

    variables = jax.jit(networks, out_shardings=whole)()
    frozen = {role: variables[role] for role in stage.frozen}
    shapes, size = statistics_shapes(stage, frozen, example), run.plan.order.batch_size
    statistics = dataset_statistics(stage, frozen, feed, size, run.mesh, shapes)
    state = jax.jit(functools.partial(init_state, stage), out_shardings=whole)
    return lambda: state(variables, example, statistics), frozen


def _repeat(steps: int, program: Callable[..., Any], *arguments) -> None:
    """Calls a program as the loop does: one call is under way while the next is made.

    On the CPU each is waited for: calls that do not need each other's results, as steps do, would
    run at the same time there and look faster than they are.
    """
    pending, keep = deque(), 0 if jax.default_backend() == "cpu" else 1
    for _ in range(steps):
        pending.append(program(*arguments))
        if len(pending) > keep:
            jax.block_until_ready(pending.popleft())
    jax.block_until_ready(pending)


def _gradients(stage: Stage, objective, state: TrainState, frozen, views, batch):
    """Forward pass of all networks and backward pass of the trained ones'."""

    def loss_fn(params):
        outputs, model_state = {}, {}
        for role, network in stage.networks.items():
            if role in stage.trained:
                outputs[role], model_state[role] = network.apply(
                    {"params": params[role], **state.model_state[role]},
                    views[role],
                    train=True,
                    mutable=list(state.model_state[role]),
                )
            else:
                outputs[role] = network.apply(frozen[role], views[role], train=False)
        loss, rest = objective(params, state, outputs, batch)
        return loss, (loss, rest, model_state)

    return jax.grad(loss_fn, has_aux=True)(state.params)


def _cross_entropy(stage: Stage):
    def objective(params, state, outputs, batch):
        del params, state
        loss = sum(
            losses.cross_entropy(outputs[role].logits, batch["label"]).mean()
            for role in stage.trained
        )
        # or the frozen networks are left out
        return loss, {role: (outputs[role].logits, outputs[role].embedding) for role in outputs}

    return objective


def _method(stage: Stage):
    def objective(params, state, outputs, batch):
        adapters = Adapters(params[ADAPTERS], state.method_state)
        loss, terms, _ = stage.method(adapters, outputs, batch)
        return loss, terms

    return objective


def _viewed(stage: Stage, state: TrainState, frozen, images, rows):
    batch = batch_of(images, rows)
    key = jax.random.fold_in(named_key(stage.seed, "step"), state.step)
    places = jnp.arange(len(batch["index"]), dtype=jnp.int32)
    views = stage.views.training(key, batch["image"], places)
    return _gradients(stage, _method(stage), state, frozen, views, batch)


def _stepping(run: Run, run_steps, steps: int, state, frozen, feed: Feed) -> Rung:
    count = chunk(0, steps, 0, fused_steps())
    rows = feed.steps(run.plan.order, 0, count)

    def rung():
        nonlocal state
        pending = deque()
        for done in range(0, steps, count):
            some = {key: array[: steps - done] for key, array in rows.items()}
            state, metrics = run_steps(state, frozen, feed.images, some)
            pending.append(metrics)
            if len(pending) > 1:
                jax.block_until_ready(pending.popleft())
        jax.block_until_ready((state, pending))

    return rung


class _Unsaved:
    """In place of `Checkpoints`: a round of the benchmark is no epoch."""

    latest = None

    def save(self, *args):
        pass

    def wait(self):
        pass


def _looping(run: Run, run_steps, steps: int, state, frozen, feed: Feed) -> Rung:
    progress, end = Progress(), 0
    log = MetricsLog(run.workdir / "metrics.jsonl", step=0, enabled=False)
    line = ProgressLine("benchmark", steps, run.plan.order.batch_size, enabled=False)

    def rung():
        nonlocal state, progress, end
        end += steps
        with StopSignal() as stop:
            loop = Loop(
                name="benchmark",
                run_steps=run_steps,
                order=run.plan.order,
                steps=end,
                evaluate_every=steps,
                evaluate=lambda _: {"accuracy": 0.0},
                learning_rate=lambda _: 0.0,
                checkpoints=_Unsaved(),
                checkpoint_minutes=1e9,
                meta={},
                log=log,
                line=line,
                stop=stop,
            )
            state, progress = loop.run(state, frozen, feed, progress)

    return rung
