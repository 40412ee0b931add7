"""The parts of a training step: programs of which each has one part more than the one before."""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax.core.devices import place, replicated, split
from kd_jax.core.stop import StopSignal
from kd_jax.data import ImageSet, Loader, ResidentLoader, batch_of
from kd_jax.experiment.run import Run
from kd_jax.methods import Adapters
from kd_jax.training import (
    Stage,
    TrainState,
    dataset_statistics,
    init_network,
    init_state,
)
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.execution import EXECUTIONS, RunSteps, fused_steps
from kd_jax.training.log import MetricsLog, ProgressLine
from kd_jax.training.loop import Loop
from kd_jax.training.progress import Progress
from kd_jax.training.state import ADAPTERS, named_key

PyTree = Any
Program = Callable[[], None]


def parts(run: Run, name: str, steps: int) -> tuple[dict[str, Program], float | None]:
    """Makes the programs of a stage; each call runs some steps and waits for them.

    Args:
        run: a run that is checked and built. It does not run itself.
        name: name of the stage.
        steps: number of steps per call.

    Returns:
        The programs by the part that each has in addition to the one before. `networks`: forward
        and backward pass with a cross-entropy. `losses`: those of the method instead. `data and
        views`: the batch, its augmentation and the resolution of every role. `optimizer`: the
        whole compiled step, with the update, the metrics and the transfer of the indices. `loop`:
        the loop of the host.
        The number of operations of the networks per step on each device, if XLA knows it.
    """
    stage, order, batches = run.plan.stages[name], run.plan.order, split(run.mesh)
    loader = ResidentLoader(train_images(run), run.mesh)
    fresh, frozen = start(stage, run, _few(run))
    rows = {"index": place(order(0), batches)}
    batch = jax.jit(batch_of, out_shardings=batches)(loader.images, rows)
    views = jax.jit(stage.inputs, out_shardings=batches)(batch["image"])

    networks = jax.jit(functools.partial(_gradients, stage, _cross_entropy(stage)))
    method = jax.jit(functools.partial(_gradients, stage, _method(stage)))
    viewed = jax.jit(functools.partial(_viewed, stage))
    run_steps = EXECUTIONS["jit"](stage, run.mesh, fused_steps(run.mesh))
    state = fresh()
    ready = state, frozen, views, batch
    # The analysis is of the program as written: in the compiled one, the convolutions of a GPU are
    # calls whose operations XLA does not count.
    cost = networks.lower(*ready).cost_analysis() or {}
    flops = cost["flops"] / run.mesh.size if "flops" in cost else None
    return {
        "networks": lambda: _repeat(steps, networks, *ready),
        "losses": lambda: _repeat(steps, method, *ready),
        "data and views": lambda: _repeat(steps, viewed, state, frozen, loader.images, rows),
        "optimizer": _stepping(run, run_steps, steps, fresh(), frozen, loader),
        "loop": _looping(run, run_steps, steps, fresh(), frozen, loader),
    }, flops


def loop(run: Run, name: str, steps: int) -> tuple[Program, int]:
    """Makes the last program alone, and computes the memory of a step.

    Args:
        run: a run that is checked and built. It does not run itself.
        name: name of the stage.
        steps: number of steps per call.

    Returns:
        The program, and the bytes that each device holds at once in a step, by XLA's analysis: the
        training set, networks, optimizer and intermediate results. They are the same on all devices
        of a kind; the maximum that a device reports would include all stages before.
    """
    stage, loader = run.plan.stages[name], ResidentLoader(train_images(run), run.mesh)
    fresh, frozen = start(stage, run, _few(run))
    fused = fused_steps(run.mesh)
    run_steps, state = EXECUTIONS["jit"](stage, run.mesh, fused), fresh()
    rows = loader.steps(run.plan.order, 0, 1)
    # On accelerators the step reuses the memory of the state, as in `run_steps`.
    donated = () if jax.default_backend() == "cpu" else (0,)

    def one(state: TrainState, frozen: PyTree, images: PyTree) -> PyTree:
        return run_steps(state, frozen, images, rows)

    step = jax.jit(one, donate_argnums=donated)
    needs: Any = step.lower(state, frozen, loader.images).compile().memory_analysis()
    memory = (
        needs.argument_size_in_bytes
        + needs.temp_size_in_bytes
        + needs.output_size_in_bytes
        - needs.alias_size_in_bytes
    )
    return _looping(run, run_steps, steps, state, frozen, loader), memory


def start(
    stage: Stage, run: Run, loader: Loader
) -> tuple[Callable[[], TrainState], dict[str, PyTree]]:
    """Returns a function that makes first states, and the variables of the frozen networks.

    Args:
        stage: stage of the run.
        run: a run that is checked and built.
        loader: images that give the statistics of the method.
    """
    whole, example = replicated(run.mesh), run.plan.example()

    def networks() -> dict[str, PyTree]:
        return {role: init_network(stage, role, example["image"]) for role in stage.networks}

    variables = jax.jit(networks, out_shardings=whole)()
    frozen = {role: variables[role] for role in stage.frozen}
    trained = {role: variables[role] for role in stage.trained}
    statistics = dataset_statistics(stage, frozen, _batches(run, loader), run.mesh)

    def state(frozen: PyTree, trained: PyTree, statistics: PyTree) -> TrainState:
        return init_state(stage, example, frozen, trained=trained, statistics=statistics)

    make = jax.jit(state, out_shardings=whole)
    return lambda: make(frozen, trained, statistics), frozen


def train_images(run: Run) -> ImageSet:
    """Returns the training images of a run, which are in memory."""
    return cast(ImageSet, run.plan.images["train"])


def _few(run: Run) -> ResidentLoader:
    """Returns enough of the images for the statistics of a method: random images are all alike."""
    train = train_images(run)
    return ResidentLoader(train.keep(np.arange(min(1000, len(train)))), run.mesh)


def _batches(run: Run, loader: Loader) -> Iterator[dict[str, jax.Array]]:
    """Yields every image once, on the devices."""
    batches = split(run.mesh)
    gather = jax.jit(batch_of, out_shardings=batches)
    for rows in loader.batches(run.plan.order.batch_size):
        yield gather(loader.images, {name: place(rows[name], batches) for name in rows})


def _repeat(steps: int, program: Callable[..., Any], *arguments: Any) -> None:
    """Calls a program as the loop does: one call runs while the next one is prepared.

    On the CPU, each call is waited for. Calls that do not need each other's results, unlike steps,
    would run at the same time there and look faster than they are.
    """
    pending: deque[Any] = deque()
    keep = 0 if jax.default_backend() == "cpu" else 1
    for _ in range(steps):
        pending.append(program(*arguments))
        if len(pending) > keep:
            jax.block_until_ready(pending.popleft())
    jax.block_until_ready(pending)


def _gradients(
    stage: Stage,
    objective: Callable[..., tuple[jax.Array, PyTree]],
    state: TrainState,
    frozen: Mapping[str, PyTree],
    views: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
) -> PyTree:
    """Runs the forward pass of all networks, and the backward pass of the trained ones."""

    def loss_fn(params: PyTree) -> tuple[jax.Array, PyTree]:
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


def _cross_entropy(stage: Stage) -> Callable[..., tuple[jax.Array, PyTree]]:
    def objective(params, state, outputs, batch):
        del params, state
        loss = sum(
            losses.cross_entropy(outputs[role].logits, batch["label"]).mean()
            for role in stage.trained
        )
        # Without these results, XLA would leave out the frozen networks.
        return loss, {role: (outputs[role].logits, outputs[role].embedding) for role in outputs}

    return objective


def _method(stage: Stage) -> Callable[..., tuple[jax.Array, PyTree]]:
    def objective(params, state, outputs, batch):
        adapters = Adapters(params[ADAPTERS], state.method_state)
        loss, terms, _ = stage.method(adapters, outputs, {**batch, "step": state.step})
        return loss, terms

    return objective


def _viewed(stage: Stage, state: TrainState, frozen: PyTree, images: PyTree, rows: PyTree) -> Any:
    batch = batch_of(images, rows)
    key = jax.random.fold_in(named_key(stage.seed, "step"), state.step)
    positions = jnp.arange(len(batch["index"]), dtype=jnp.int32)
    views = stage.views.training(key, batch["image"], positions) if stage.views else {}
    return _gradients(stage, _method(stage), state, frozen, views, batch)


def _stepping(
    run: Run, run_steps: RunSteps, steps: int, state: TrainState, frozen: PyTree, loader: Loader
) -> Program:
    count = min(steps, fused_steps(run.mesh))
    rows = loader.steps(run.plan.order, 0, count)

    def program() -> None:
        nonlocal state
        pending: deque[Any] = deque()
        for done in range(0, steps, count):
            some = {key: array[: steps - done] for key, array in rows.items()}
            state, metrics = run_steps(state, frozen, loader.images, some)
            pending.append(metrics)
            if len(pending) > 1:
                jax.block_until_ready(pending.popleft())
        jax.block_until_ready((state, pending))

    return program


class _Unsaved:
    """Replaces `Checkpoints`: a round of a benchmark is not saved."""

    latest = None

    def save(self, *args: Any) -> None:
        pass

    def wait(self) -> None:
        pass


def _looping(
    run: Run, run_steps: RunSteps, steps: int, state: TrainState, frozen: PyTree, loader: Loader
) -> Program:
    progress, end = Progress(), 0
    log = MetricsLog(run.workdir / "metrics.jsonl", step=0, enabled=False)
    line = ProgressLine("benchmark", steps, run.plan.order.batch_size, enabled=False)

    def program() -> None:
        nonlocal state, progress, end
        end += steps
        with StopSignal() as stop:
            loop = Loop(
                name="benchmark",
                run_steps=run_steps,
                fused=fused_steps(run.mesh),
                order=run.plan.order,
                steps=end,
                evaluate_every=steps,
                evaluate=lambda _: {"accuracy": 0.0},
                result="accuracy",
                best="accuracy",
                learning_rate=lambda _: 0.0,
                checkpoints=cast(Checkpoints, _Unsaved()),
                checkpoint_minutes=1e9,
                meta={},
                log=log,
                line=line,
                stop=stop,
            )
            state, progress = loop.run(state, frozen, loader, progress)

    return program
