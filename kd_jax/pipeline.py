"""A chain of stages: teacher, assistant, student. Each runs in its own folder, and only once."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from kd_jax import models, report
from kd_jax.config import NetworkSpec, experiment
from kd_jax.data import BatchOrder, Views, load_splits, view_size
from kd_jax.devices import AXIS, check_divisible, data_mesh, place, replicated
from kd_jax.errors import UsageError
from kd_jax.evaluation import classification
from kd_jax.files import PathLike, differences, folder, write_atomically
from kd_jax.training import (
    EXECUTIONS,
    Checkpoints,
    Loop,
    MetricsLog,
    Progress,
    ProgressLine,
    Stage,
    Stopped,
    StopSignal,
    TrainState,
    dataset_statistics,
    init_network,
    init_state,
    optimizer_groups,
    statistics_shapes,
)
from kd_jax.weights import FINISHED, Weights

PyTree = Any


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
        self.config = json.loads(json.dumps(config))
        self.spec = experiment(config)
        self.workdir = folder(workdir)
        self.mesh = data_mesh(self.spec.num_devices)
        data = self.spec.data
        check_divisible(data.batch_size, self.mesh, "data.batch_size")
        check_divisible(data.eval_batch_size, self.mesh, "data.eval_batch_size")
        self.train, self.test = load_splits(data.source, data.train_split, data.test_split)
        self.order = BatchOrder(self.spec.seed, len(self.train), data.batch_size)
        self.mean, self.deviation = self.train.channel_statistics()
        self.stages = {name: self._stage(name) for name in self.spec.pipeline}
        self.shapes = {name: self._check_stage(name) for name in self.spec.pipeline}
        self._claim_workdir()
        self._on_device: dict[str, dict[str, jax.Array]] = {}

    def run(self) -> dict[str, Any]:
        """Runs every stage that is not finished, and writes the results.

        Returns:
            What `results.json` holds.

        Raises:
            Stopped: if asked to stop, after saving.
            UsageError: if a stage cannot go on.
        """
        results = []
        with StopSignal() as stop:
            for name in self.spec.pipeline:
                finished = self.workdir / name / FINISHED
                if not finished.exists():
                    self._write(finished, self._run_stage(name, stop))
                results.append(json.loads(finished.read_text()))
        summary = report.summary(self.spec.experiment, self.spec.seed, self.config, self.mesh)
        summary["stages"] = results
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
            if not path.exists():
                self._write(path, self.config)
            changes = differences(json.loads(path.read_text()), self.config)
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

    def _network(self, stage: str, role: str) -> NetworkSpec:
        """A network's specification; architecture and resolution filled in from `init_from`."""
        spec = self.spec.stages[stage].networks[role]
        if spec.name is not None:
            return spec
        if spec.init_from in self.spec.stages:
            source = self._network(spec.init_from, spec.init_role)
        else:
            source = NetworkSpec(**self._weights(stage, role).network)
        resolution = source.resolution if spec.resolution is None else spec.resolution
        return dataclasses.replace(
            spec, name=source.name, options=source.options, resolution=resolution
        )

    def _weights(self, stage: str, role: str) -> Weights:
        """Where the first weights of a network with `init_from` lie."""
        spec = self.spec.stages[stage].networks[role]
        inside = spec.init_from in self.spec.stages
        place = self.workdir / spec.init_from if inside else folder(spec.init_from)
        key = f"stages.{stage}.networks.{role}.init_from"
        return Weights.find(place, spec.init_role, spec.init_checkpoint, key)

    def _stage(self, name: str) -> Stage:
        spec, data = self.spec.stages[name], self.spec.data
        common = {"num_classes": self.train.num_classes}
        if self.spec.execution == "pmap":
            common["axis_name"] = AXIS
        networks, resolutions = {}, {}
        for role in spec.networks:
            where = f"stages.{name}.networks.{role}"
            network = self._network(name, role)
            try:
                networks[role] = models.create(network.name, **common, **network.options)
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from error
            size = self.train.images.shape[1:3]
            resolutions[role] = view_size(network.resolution, size, f"{where}.resolution")
        return Stage(
            networks=networks,
            trained=spec.trained,
            method=spec.method,
            optimizer=optimizer_groups(
                spec.optimizers, spec.trained, self._steps(name), self.order.steps_per_epoch
            ),
            views=Views(resolutions, self.mean, self.deviation, data.augmentation, data.filter),
            seed=self.spec.seed,
        )

    def _steps(self, name: str) -> int:
        return max(1, round(self.spec.stages[name].epochs * self.order.steps_per_epoch))

    def _example(self) -> dict[str, jax.Array]:
        """A batch of the right shapes, and of as many images as there are devices."""
        size = self.mesh.size
        image = jnp.zeros((size, *self.train.images.shape[1:]), jnp.uint8)
        return {"image": image, "label": jnp.zeros(size, jnp.int32), "index": jnp.arange(size)}

    def _check_stage(self, name: str) -> dict[str, PyTree]:
        """Shapes of the variables of every network, found without computing anything."""
        stage, shapes = self.stages[name], {}
        for role in stage.networks:
            try:
                shapes[role] = jax.eval_shape(
                    lambda role=role: init_network(stage, role, self._example()["image"])
                )
            except UsageError as error:
                raise UsageError(f"stages.{name}.networks.{role}: {error}") from error
        return shapes

    def _images(self, split: str) -> dict[str, jax.Array]:
        """The `train` or `test` set on the devices; it is put there once."""
        if split not in self._on_device:
            images, whole = getattr(self, split), replicated(self.mesh)
            self._on_device[split] = {
                "image": place(images.images, whole),
                "label": place(images.labels, whole),
            }
        return self._on_device[split]

    def _variables(self, name: str) -> tuple[dict[str, PyTree], dict[str, Any]]:
        """First variables of all networks of a stage, and where those of other stages come from."""
        stage, whole = self.stages[name], replicated(self.mesh)
        variables, provenance = {}, {}
        for role, spec in self.spec.stages[name].networks.items():
            if spec.init_from is None:
                variables[role] = jax.jit(
                    lambda role=role: init_network(stage, role, self._example()["image"]),
                    out_shardings=whole,
                )()
            else:
                weights = self._weights(name, role)
                variables[role] = weights.read(self.shapes[name][role], whole)
                provenance[role] = weights.provenance(variables[role], self.workdir)
        return variables, provenance

    def _meta(self, name: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint says of itself; a run goes on only where all of it is still true."""
        networks = {role: self._network(name, role) for role in self.stages[name].trained}
        meta = {
            "networks": {
                role: {"name": n.name, "options": n.options, "resolution": n.resolution}
                for role, n in networks.items()
            },
            "weights": provenance,
            "num_classes": self.train.num_classes,
            "image_size": self.train.images.shape[1:3],
            "filter": self.spec.data.filter,
            "mean": self.mean,
            "deviation": self.deviation,
            "train_images": self.train.fingerprint(),
        }
        return json.loads(json.dumps(meta))

    def _start(self, name: str, variables, checkpoints: Checkpoints, meta) -> tuple:
        """The state to go on from: the newest checkpoint's, or a fresh one."""
        stage, whole, images = self.stages[name], replicated(self.mesh), self._images("train")
        frozen = {role: variables[role] for role in stage.frozen}

        def fresh(variables, statistics):
            return init_state(stage, variables, self._example(), statistics)

        if checkpoints.latest is None:
            batch_size = self.spec.data.eval_batch_size
            statistics = dataset_statistics(stage, frozen, images, batch_size, self.mesh)
            return jax.jit(fresh, out_shardings=whole)(variables, statistics), Progress()
        changes = differences(checkpoints.read_json(checkpoints.latest, "meta"), meta)
        if changes:
            raise UsageError(
                f"Stage {name!r} was begun under other conditions: {'; '.join(changes)}; restore"
                f" them, or delete {self.workdir / name} to train the stage anew."
            )
        template = jax.eval_shape(fresh, variables, statistics_shapes(stage, frozen, images))
        state, progress = checkpoints.restore(template, whole)
        return state, Progress(**progress)

    def _run_stage(self, name: str, stop: StopSignal) -> dict[str, Any]:
        """Trains a stage from wherever it stands; returns what `stage.json` holds."""
        stage, spec, data = self.stages[name], self.spec.stages[name], self.spec.data
        place = self.workdir / name
        place.mkdir(exist_ok=True)
        variables, provenance = self._variables(name)
        meta = self._meta(name, provenance)

        def poll():
            if stop.requested:
                raise Stopped

        evaluate_networks = classification(
            {role: stage.networks[role] for role in stage.trained},
            stage.views,
            self._images("test"),
            data.eval_batch_size,
            self.mesh,
            poll,
        )

        def evaluate(state: TrainState) -> dict[str, float]:
            found = evaluate_networks({role: state.variables(role) for role in stage.trained})
            others = {
                f"{metric}/{role}": value
                for role, metrics in found.items()
                if role != "student"
                for metric, value in metrics.items()
            }
            return found["student"] | others

        student = spec.optimizers.get("student", spec.optimizers["default"])
        steps, epoch = self._steps(name), self.order.steps_per_epoch
        writes = jax.process_index() == 0
        with (
            Checkpoints(place / "checkpoints") as checkpoints,
            ProgressLine(name, steps, data.batch_size, writes) as line,
        ):
            state, progress = self._start(name, variables, checkpoints, meta)
            log = MetricsLog(place / "metrics.jsonl", progress.evaluated, writes)
            loop = Loop(
                name=name,
                run_steps=EXECUTIONS[self.spec.execution](stage, self.mesh),
                order=self.order,
                steps=steps,
                evaluate_every=max(1, round(spec.evaluate_every * epoch)),
                evaluate=evaluate,
                learning_rate=student.rate(steps, epoch),
                checkpoints=checkpoints,
                checkpoint_minutes=self.spec.checkpoint_minutes,
                meta=meta,
                log=log,
                line=line,
                stop=stop,
            )
            frozen = {role: variables[role] for role in stage.frozen}
            del variables  # the trained networks' first weights; the state has its own
            state, progress = loop.run(state, frozen, self._images("train"), progress)
        return {
            "name": name,
            "network": self._network(name, "student").name,
            "resolution": stage.views.resolutions["student"][0],
            "params": sum(leaf.size for leaf in jax.tree.leaves(state.params["student"])),
            "last": progress.last,
            "best": progress.best,
            "seconds": round(progress.seconds, 1),
            "images_per_second": round(line.images_per_second, 1),
        }
