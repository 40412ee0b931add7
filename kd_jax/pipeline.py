"""A chain of stages: teacher, assistant, student. Each runs in its own folder, and only once."""

import contextlib
import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from kd_jax import report
from kd_jax.config import experiment
from kd_jax.data import Feed, Resident, Streamed
from kd_jax.devices import any_process, data_mesh, replicated
from kd_jax.errors import UsageError
from kd_jax.evaluation import accuracy_evaluator
from kd_jax.files import PathLike, differences, folder, write_atomically
from kd_jax.plan import Plan
from kd_jax.training import (
    EXECUTIONS,
    Checkpoints,
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
from kd_jax.weights import FINISHED

PyTree = Any

WHERE = (
    ("num_devices",),
    ("checkpoint_minutes",),
    ("data", "source", "data_dir"),
    ("data", "source", "path"),
)
"""Config keys that say where and how often, not what: they may change while a run is stopped."""


def _what(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys of `WHERE`."""
    config = copy.deepcopy(dict(config))
    for *path, last in WHERE:
        functools.reduce(lambda values, key: values.get(key, {}), path, config).pop(last, None)
    return config


class Run:
    """One experiment in one working directory.

    Whatever can be wrong with a config is found when the run is made, before anything trains.
    """

    def __init__(self, config: Mapping[str, Any], workdir: PathLike):
        """Checks the config, reads the images and claims the working directory.

        Args:
            config: plain dictionaries, as from `ConfigDict.to_dict()`.
            workdir: folder of the run; made if it is missing.

        Raises:
            UsageError: for whatever the user can mend.
        """
        self.spec = experiment(config)
        try:
            self.config = json.loads(json.dumps(config))
        except TypeError as error:
            raise UsageError(f"The config holds more than plain values: {error}.") from error
        self.workdir = folder(workdir)
        self.mesh = data_mesh(self.spec.num_devices)
        self.plan = Plan(self.spec, self.workdir, self.mesh)
        self._claim_workdir()
        self._feeds: dict[str, Feed] = {}

    def run(self) -> dict[str, Any]:
        """Runs every stage that is not finished, and writes the results.

        Returns:
            What `results.json` holds.

        Raises:
            Stopped: if asked to stop, after saving.
            UsageError: if a stage cannot go on.
        """
        results = []
        with StopSignal() as stop, contextlib.ExitStack() as stack:
            stack.callback(lambda: [feed.close() for feed in self._feeds.values()])
            for name in self.spec.pipeline:
                finished = self.workdir / name / FINISHED
                if not any(any_process(finished.exists())):
                    self._write(finished, self._run_stage(name, stop))
                results.append(json.loads(finished.read_text()))
        summary = {
            "experiment": self.spec.experiment,
            "seed": self.spec.seed,
            "filter": self.spec.data.filter,
            "config": self.config,
            "versions": results[-1]["versions"],
            "device": results[-1]["device"],
            "stages": results,
        }
        self._write(self.workdir / "results.json", summary)
        if jax.process_index() == 0:
            report.write(summary, self.workdir)
        return summary

    def _write(self, path, values: Mapping[str, Any]) -> None:
        """Writes JSON that all processes agree on, in one of them."""
        if jax.process_index() == 0:
            write_atomically(path, json.dumps(values, indent=2) + "\n")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(str(path))

    def _claim_workdir(self) -> None:
        path = self.workdir / "config.json"
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            if not any(any_process(path.exists())):
                self._write(path, self.config)
            before = json.loads(path.read_text())
            changes = differences(_what(before), _what(self.config))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--workdir={self.workdir} cannot be used ({error}): choose a folder that can be"
                " written."
            ) from error
        if changes:
            raise UsageError(
                f"--workdir={self.workdir} holds a run with another config: {'; '.join(changes)};"
                " restore these values, or choose a new --workdir."
            )

    def _feed(self, split: str) -> Feed:
        """The `train` or `test` set; it is put on the devices once."""
        if split not in self._feeds:
            streamed = split == "train" and self.spec.data.stream
            make = Streamed if streamed else Resident
            self._feeds[split] = make(getattr(self.plan, split), self.mesh)
        return self._feeds[split]

    def _loaded(self, name: str) -> tuple[dict[str, PyTree], dict[str, Any]]:
        """Variables that come from other stages, by role, and their provenance."""
        variables, provenance = {}, {}
        for role, spec in self.spec.stages[name].networks.items():
            if spec.init_from is not None:
                weights = self.plan.networks.weights(name, role)
                variables[role] = weights.read(self.plan.shapes[name][role], replicated(self.mesh))
                provenance[role] = weights.provenance(variables[role], self.workdir)
        return variables, provenance

    def _meta(self, name: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint says of itself; a run goes on only where all of it is still true."""
        cards = {
            role: self.plan.networks.card(name, role) for role in self.plan.stages[name].trained
        }
        meta = {
            "networks": {role: dataclasses.asdict(card) for role, card in cards.items()},
            "weights": provenance,
            "train_images": self.plan.fingerprints["train"],
            "test_images": self.plan.fingerprints["test"],
        }
        return json.loads(json.dumps(meta))

    def _start(self, name: str, loaded, checkpoints: Checkpoints, meta) -> tuple:
        """The state to go on from: the newest checkpoint's, or a fresh one."""
        stage, whole, feed = self.plan.stages[name], replicated(self.mesh), self._feed("train")
        frozen = {role: loaded[role] for role in stage.frozen}

        example = self.plan.example()
        shapes = statistics_shapes(stage, frozen, example)

        def fresh(loaded, statistics):
            random = {
                role: init_network(stage, role, example["image"])
                for role in stage.networks
                if role not in loaded
            }
            return init_state(stage, {**random, **loaded}, example, statistics)

        if checkpoints.latest is None:
            batch_size = self.spec.data.eval_batch_size
            statistics = dataset_statistics(stage, frozen, feed, batch_size, self.mesh, shapes)
            return jax.jit(fresh, out_shardings=whole)(loaded, statistics), Progress()
        changes = differences(checkpoints.read_json(checkpoints.latest, "meta"), meta)
        if changes:
            raise UsageError(
                f"Stage {name!r} was begun under other conditions: {'; '.join(changes)}; restore"
                f" them, or delete {self.workdir / name} to train the stage anew."
            )
        template = jax.eval_shape(fresh, loaded, shapes)
        state, progress = checkpoints.restore(template, whole)
        return state, Progress(**progress)

    def _evaluate(
        self, stage: Stage, frozen: Mapping[str, PyTree]
    ) -> Callable[[TrainState], dict[str, float]]:
        """The evaluation of a stage: the student's metrics, and the others' beside them."""

        def evaluator(roles):
            return accuracy_evaluator(
                {role: stage.networks[role] for role in roles},
                stage.views,
                self._feed("test"),
                self.spec.data.eval_batch_size,
                self.mesh,
            )

        trained = evaluator(stage.trained)
        # A frozen network is what it is: one evaluation, when the first is due.
        known = functools.cache(lambda: evaluator(stage.frozen)(frozen) if frozen else {})

        def evaluate(state: TrainState) -> dict[str, float]:
            others = known() | trained({role: state.variables(role) for role in stage.trained})
            found = others.pop("student")
            for role, metrics in others.items():
                found |= {f"{metric}/{role}": value for metric, value in metrics.items()}
                found[f"accuracy_gap/{role}"] = metrics["accuracy"] - found["accuracy"]
            return found

        return evaluate

    def _run_stage(self, name: str, stop: StopSignal) -> dict[str, Any]:
        """Trains a stage from wherever it stands; returns what `stage.json` holds."""
        stage, spec, data = self.plan.stages[name], self.spec.stages[name], self.spec.data
        path = self.workdir / name
        path.mkdir(exist_ok=True)
        loaded, provenance = self._loaded(name)
        meta = self._meta(name, provenance)
        frozen = {role: loaded[role] for role in stage.frozen}
        evaluate = self._evaluate(stage, frozen)

        student = spec.optimizers.get("student", spec.optimizers["default"])
        steps, epoch = self.plan.steps(name), self.plan.order.steps_per_epoch
        writes = jax.process_index() == 0
        with (
            Checkpoints(path / "checkpoints") as checkpoints,
            ProgressLine(name, steps, data.batch_size, writes) as line,
        ):
            state, progress = self._start(name, loaded, checkpoints, meta)
            log = MetricsLog(path / "metrics.jsonl", progress.evaluated, writes)
            loop = Loop(
                name=name,
                run_steps=EXECUTIONS[self.spec.execution](stage, self.mesh),
                order=self.plan.order,
                steps=steps,
                evaluate_every=max(1, round(min(spec.evaluate_every, spec.epochs) * epoch)),
                evaluate=evaluate,
                learning_rate=student.rate(steps, epoch),
                checkpoints=checkpoints,
                checkpoint_minutes=self.spec.checkpoint_minutes,
                meta=meta,
                log=log,
                line=line,
                stop=stop,
            )
            del loaded  # a trained network's first weights; the state has its own
            state, progress = loop.run(state, frozen, self._feed("train"), progress)
        return {
            "name": name,
            "network": self.plan.networks.card(name, "student").name,
            "resolution": stage.views.roles["student"].size[0],
            "params": sum(leaf.size for leaf in jax.tree.leaves(state.params["student"])),
            "last": progress.last,
            "best": progress.best,
            "seconds": round(progress.seconds, 1),
            "images_per_second": round(line.images_per_second, 1),
            **report.environment(self.mesh),
        }
