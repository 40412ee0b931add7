"""One stage of a run: its first state, its training, and its results."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from kd_jax.core.devices import place, replicated, split
from kd_jax.core.errors import UsageError
from kd_jax.core.files import differences
from kd_jax.core.hashing import content_hash
from kd_jax.core.stop import StopSignal
from kd_jax.data import Loader, batch_of
from kd_jax.data.loaders import Rows
from kd_jax.data.resident import Resident
from kd_jax.experiment import stored
from kd_jax.experiment.conditions import comparable, conditions
from kd_jax.experiment.confusion import write_confusion
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.stage_metrics import StageMetrics
from kd_jax.experiment.watching import announced, evaluation, open_watch, say_place
from kd_jax.pretrained.info import RECORDED
from kd_jax.pretrained.weights import read_adapters
from kd_jax.training import (
    TrainState,
    dataset_statistics,
    init_network,
    init_state,
    statistics_shapes,
)
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.execution import EXECUTIONS, RunSteps, fused_steps
from kd_jax.training.log import MetricsLog, ProgressLine
from kd_jax.training.loop import Loop
from kd_jax.training.progress import Progress

PyTree = Any


class StageRun:
    """Trains one stage in its folder."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        workdir: epath.Path,
        loader: Callable[[str], Loader],
        later: float = 0.0,
    ):
        """Computes nothing yet.

        Args:
            name: name of the stage.
            plan: the plan of the run.
            workdir: folder of the run.
            loader: returns the images of a split.
            later: number of steps of this stage that take as long as all later stages.
        """
        self._later = later
        self._name, self._plan, self._workdir, self._loader = name, plan, workdir, loader
        self._stage, self._spec = plan.stages[name], plan.spec.stages[name]
        self._path = workdir / name

    def _loaded(self) -> tuple[dict[str, PyTree], dict[str, Any]]:
        """Returns variables that come from other stages, by role, and their provenance."""
        variables, provenance = {}, {}
        stage, whole = self._stage, replicated(self._plan.mesh)
        for role, spec in self._spec.networks.items():
            if spec.name == RECORDED:
                variables[role] = jax.device_put(
                    self._plan.roles.recorded_variables(self._name, role), whole
                )
                provenance[role] = {"path": spec.path, "hash": content_hash(variables[role])}
            if spec.init_from is None:
                continue
            weights = self._plan.roles.weights(self._name, role)
            if spec.init_head:
                variables[role] = weights.read(self._plan.shapes[self._name][role], whole)
            else:
                image = self._plan.example()["image"]
                fresh = init_network(stage, role, image)
                variables[role] = weights.read_without_head(jax.device_put(fresh, whole), whole)
            provenance[role] = weights.provenance(variables[role], self._workdir)
        return variables, provenance

    @functools.cached_property
    def _adapters(self) -> dict[str, PyTree]:
        """Returns the first parameters of the adapters that come from another stage."""
        source = self._spec.adapters_from
        if source is None:
            return {}
        key = f"stages.{self._name}.adapters_from"
        folder = self._plan.roles.folder(source, key)
        return read_adapters(folder, key, replicated(self._plan.mesh))

    def _start(
        self, loaded: Mapping[str, PyTree], checkpoints: Checkpoints, meta: Any
    ) -> tuple[TrainState, Progress]:
        """Returns the first state of this process: the newest checkpoint's, or a fresh one."""
        if checkpoints.latest is None:
            return self._first_state(loaded), Progress()
        before = checkpoints.read_json(checkpoints.latest, "meta")
        if changes := differences(comparable(before), comparable(meta)):
            raise UsageError(
                f"Stage {self._name!r} began under other conditions: {'; '.join(changes)}; restore"
                f" them, or delete {self._path} to train the stage again."
            )
        frozen, trained = self._parts(loaded)
        shapes = statistics_shapes(self._stage, frozen, self._plan.example())
        template = jax.eval_shape(self._init, frozen, trained, shapes, self._adapters)
        state, progress = checkpoints.restore(template, replicated(self._plan.mesh))
        return state, Progress(**progress)

    def begin(self) -> tuple[TrainState, dict[str, PyTree]]:
        """Returns the first state of the training, and the variables of the frozen networks."""
        loaded, _ = self._loaded()
        return self._first_state(loaded), self._parts(loaded)[0]

    def _parts(self, loaded: Mapping[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        """Returns the variables of the frozen networks, and the first ones of trained networks."""
        frozen = {role: loaded[role] for role in self._stage.frozen}
        return frozen, {role: loaded[role] for role in self._stage.trained if role in loaded}

    def _init(
        self,
        frozen: Mapping[str, PyTree],
        trained: Mapping[str, PyTree],
        statistics: PyTree,
        adapters: Mapping[str, PyTree],
    ) -> TrainState:
        return init_state(
            self._stage,
            self._plan.example(),
            frozen,
            trained=trained,
            statistics=statistics,
            adapters=adapters,
        )

    def _first_state(self, loaded: Mapping[str, PyTree]) -> TrainState:
        frozen, trained = self._parts(loaded)
        statistics: PyTree = {}
        if jax.tree.leaves(statistics_shapes(self._stage, frozen, self._plan.example())):
            statistics = dataset_statistics(self._stage, frozen, self._batches(), self._plan.mesh)
        make = jax.jit(self._init, out_shardings=replicated(self._plan.mesh))
        return make(frozen, trained, statistics, self._adapters)

    def _batches(self) -> Iterator[Mapping[str, jax.Array]]:
        """Yields the training set once, on the devices, without augmentation."""
        loader, batches = self._loader("train"), split(self._plan.mesh)
        gather = jax.jit(batch_of, out_shardings=batches)
        for rows in loader.batches(self._plan.spec.data.eval_batch_size):
            placed = {name: place(array, batches) for name, array in rows.items()}
            yield gather(loader.images, placed)

    def _frozen_outputs(
        self,
        frozen: Mapping[str, PyTree],
        images: Resident | None,
        rows: Rows,
    ) -> dict[str, PyTree]:
        """Returns the outputs of the frozen networks for the rows `[1, N, ...]`, by role."""

        def outputs(frozen, images, rows):
            batch = batch_of(images, rows)
            return self._stage.outputs(frozen, batch["image"], batch["index"])

        mesh = self._plan.mesh
        placed = {name: place(array[0], split(mesh)) for name, array in rows.items()}
        return jax.jit(outputs, out_shardings=replicated(mesh))(frozen, images, placed)

    def run(self, stop: StopSignal) -> dict[str, Any]:
        """Trains the stage, or resumes it.

        Args:
            stop: request to save and end.

        Returns:
            The content of `stage.json`.

        Raises:
            Stopped: after a request to stop, when the state is saved.
            UsageError: if the stage cannot resume, or a loss is not finite.
        """
        stage, spec, data = self._stage, self._spec, self._plan.spec.data
        self._path.mkdir(exist_ok=True)
        loaded, provenance = self._loaded()
        meta = conditions(self._plan, self._name, provenance, self._adapters)
        frozen = {role: loaded[role] for role in stage.frozen}
        images = self._plan.images
        metrics = StageMetrics(stage, spec, data, self._loader, self._plan.mesh, images)

        main = stage.method.trained_roles[0]
        optimizer = spec.optimizers.get(main, spec.optimizers["default"])
        steps, epoch = self._plan.steps(self._name), self._plan.order.steps_per_epoch
        writes = jax.process_index() == 0
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(Checkpoints(self._path / "checkpoints"))
            line = stack.enter_context(
                ProgressLine(self._name, steps, data.batch_size, writes, later=self._later)
            )
            say_place(self._plan, self._name, line)
            state, progress = self._start(loaded, checkpoints, meta)
            if first := int(state.step):
                line.say(f"resumes at step {first:,} of {steps:,}")
            stored.curve(self._path)  # raises an error for a damaged log
            log = MetricsLog(self._path / "metrics.jsonl", progress.evaluated, writes)
            loader, order = self._loader("train"), self._plan.order
            fused = min(fused_steps(self._plan.mesh), loader.max_steps(order))
            run_steps = EXECUTIONS[self._plan.spec.execution](stage, self._plan.mesh, fused)
            run_steps = announced(_guarded(run_steps, stop), line)
            evaluate = evaluation(metrics, frozen, line)
            watch = open_watch(self._plan, self._name, self._path, loader, line, first)
            if watch is not None:
                stack.callback(watch.close)
                run_steps, evaluate = watch.around(run_steps), watch.after(evaluate)
            loop = Loop(
                name=self._name,
                run_steps=run_steps,
                fused=fused,
                order=order,
                steps=steps,
                evaluate_every=max(1, round(min(spec.evaluate_every, spec.epochs) * epoch)),
                evaluate=evaluate,
                result=metrics.result,
                best=metrics.best,
                learning_rate=optimizer.rate(steps, epoch),
                checkpoints=checkpoints,
                checkpoint_minutes=self._plan.spec.checkpoint_minutes,
                meta=meta,
                log=log,
                line=line,
                stop=stop,
                frozen_outputs=self._frozen_outputs,
            )
            del loaded  # first weights of trained networks; the state has its own
            state, progress = loop.run(state, frozen, loader, progress)
        write_confusion(self._plan, self._name, self._path, self._loader, state, frozen)
        return self._results(state, metrics, progress, line)

    def _results(
        self, state: TrainState, metrics: StageMetrics, progress: Progress, line: ProgressLine
    ) -> dict[str, Any]:
        """Returns the content of `stage.json`."""
        main = self._stage.method.trained_roles[0]
        info = self._plan.roles.info(self._name, main)
        return {
            "name": self._name,
            "role": main,
            "network": info.name,
            "resolution": info.size[0],
            "size": list(info.size),
            "params": sum(leaf.size for leaf in jax.tree.leaves(state.params[main])),
            "images": {split: len(images) for split, images in self._plan.images.items()},
            "predictions": list(self._stage.method.predictions),
            "result": metrics.result,
            "metric": metrics.best,
            "last": progress.last,
            "best": progress.best,
            "seconds": round(progress.seconds, 1),
            "images_per_second": round(line.images_per_second, 1),
            **stored.environment(self._plan.mesh),
        }


def _guarded(run_steps: RunSteps, stop: StopSignal) -> RunSteps:
    """Returns a function that declares a state to save as soon as the first steps have begun."""

    def run(*args: Any) -> Any:
        results = run_steps(*args)
        stop.unsaved = True
        return results

    return run
