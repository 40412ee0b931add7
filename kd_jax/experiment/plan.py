"""The plan of a run: every stage is built and traced before anything is computed or written."""

import dataclasses
import functools
from collections.abc import Container, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from kd_jax.core.devices import AXIS, check_divisible
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.data import ImageSet, StoredImages, class_fraction, hold_out, load_splits
from kd_jax.data.preprocessing import Augmentation, Views
from kd_jax.experiment.plan_checks import (
    LARGEST,
    check_evaluators,
    check_parts,
    check_shapes,
    check_sizes,
    one_sentence,
    with_key,
)
from kd_jax.experiment.roles import Roles
from kd_jax.experiment.specs import Experiment
from kd_jax.experiment.stage_metrics import comparable_networks
from kd_jax.methods import StageInfo
from kd_jax.pretrained.info import RECORDED
from kd_jax.pretrained.weights import EMBEDDING, HEAD, LAST, Weights
from kd_jax.training import (
    Stage,
    init_network,
    init_state,
    optimizer_groups,
    statistics_shapes,
    train_step,
)

PyTree = Any
_OPTIONS = "check the types and ranges of these options"
_WEIGHTS = "check init_from, or name a file or folder of this machine"


class Plan:
    """The stages of an experiment, on its images and devices.

    Everything that can be wrong with a config is found when the plan is made.

    Attributes:
        spec: the experiment.
        mesh: devices that share each batch.
        names: names of the stages to run, in their order.
        images: the images by split: `train`, and `test` and `validation` where they exist.
        order: the order of the training images.
        roles: descriptions of the networks, and the origin of their weights.
        stages: the stages by name.
        shapes: shapes of the variables of every network, by stage and role.
    """

    def __init__(
        self,
        spec: Experiment,
        workdir: epath.Path,
        mesh: Mesh,
        only: Sequence[str] | None = None,
    ):
        """Reads the images and builds the stages.

        Args:
            spec: the experiment.
            workdir: folder of the run, which has one folder per stage.
            mesh: devices to use.
            only: names of the stages to run; None runs all. The networks of other stages must be
                finished already.

        Raises:
            UsageError: for everything that the user can fix.
        """
        self.spec, self.mesh, data = spec, mesh, spec.data
        if spec.execution == "pmap" and jax.process_count() > 1:
            raise UsageError("execution = 'pmap' runs in one process only: set it to 'jit'.")
        check_divisible(data.batch_size, mesh, "data.batch_size")
        check_divisible(data.eval_batch_size, mesh, "data.eval_batch_size")
        if only is not None and not only:
            raise UsageError("--stages names no stage: name one or more, or leave it out.")
        for name in only or ():
            check_choice(name, spec.stages, "--stages")
        self.names = tuple(name for name in spec.pipeline if only is None or name in only)
        with one_sentence("data.source", "check its options and the splits"):
            self.images = _read_images(spec)
        train = self.images["train"]
        check_sizes(data, train.image_shape)
        self.order = data.order(spec.seed, train)
        self.roles = Roles(spec, workdir, train)
        for name in spec.pipeline:
            self._check_length(name)
            check_parts(f"stages.{name}.accumulate", spec.stages[name], data, mesh)
        self.stages = {name: self._stage(name) for name in spec.pipeline}
        self.shapes = {name: self._shapes(name) for name in spec.pipeline}
        for name in self.names:
            self._check_sources(name)
            self._check_weights(name)
            stage = self.stages[name]
            names = stage.method.predictions, comparable_networks(stage)
            check_evaluators(name, spec.stages[name], data, self.images, mesh, *names)
            self._check_method(name)

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """Returns content hashes of the images, by split."""
        return {split: images.fingerprint() for split, images in self.images.items()}

    def steps(self, name: str) -> int:
        """Returns the number of steps of a stage."""
        return max(1, round(self.spec.stages[name].epochs * self.order.steps_per_epoch))

    def _check_length(self, name: str) -> None:
        """Raises `UsageError` for a stage whose steps an int32 cannot count."""
        if (steps := self.steps(name)) >= LARGEST:
            raise UsageError(
                f"stages.{name}.epochs = {self.spec.stages[name].epochs:g} gives {steps:.3g} steps,"
                " and the limit is 2**31: choose fewer epochs."
            )

    def example(self) -> dict[str, jax.Array]:
        """Returns a batch of the right shapes, with one image per device."""
        size = self.mesh.size
        image = jnp.zeros((size, *self.images["train"].image_shape), jnp.uint8)
        return {"image": image, "label": jnp.zeros(size, jnp.int32), "index": jnp.arange(size)}

    def _stage(self, name: str) -> Stage:
        spec, data = self.spec.stages[name], self.spec.data
        axis_name = AXIS if self.spec.execution == "pmap" else None
        train = self.images["train"]
        modules, views = {}, {}
        for role in spec.networks:
            key = f"stages.{name}.networks.{role}"
            with one_sentence(key, _WEIGHTS):
                info = self.roles.info(name, role)
            if info.name == RECORDED:
                _check_unaugmented(spec.networks[role].augmented, data.augmentation, key)
                modules[role] = info.module()
                continue
            degradation = spec.networks[role].degradation
            if degradation is not None:
                degradation.check(data.augmentation.evaluated_size(train.image_shape[:2]), key)
            views[role] = dataclasses.replace(info.view, degradation=degradation)
            try:
                with one_sentence(f"{key}.options", _OPTIONS):
                    modules[role] = info.module(axis_name)
            except UsageError as error:
                raise UsageError(with_key(key, error)) from error
        return Stage(
            networks=modules,
            method=spec.method,
            optimizer=optimizer_groups(
                spec.optimizers, spec.trained, self.steps(name), self.order.steps_per_epoch
            ),
            views=Views(views, data.augmentation, data.filter, spec.own_augmentation),
            seed=self.spec.seed,
            info=StageInfo(
                num_images=len(train),
                num_classes=train.num_classes,
                steps=self.steps(name),
                steps_per_epoch=self.order.steps_per_epoch,
            ),
            accumulate=spec.accumulate,
            ema_decay=spec.ema_decay,
            remat={role: spec.networks[role].remat for role in spec.trained},
        )

    def _shapes(self, name: str) -> dict[str, PyTree]:
        """Returns the shapes of the variables of every network; nothing is computed."""
        stage, shapes = self.stages[name], {}
        for role in stage.networks:
            key = f"stages.{name}.networks.{role}"
            try:
                with one_sentence(f"{key}.options", _OPTIONS):
                    shapes[role] = jax.eval_shape(
                        lambda role=role: init_network(stage, role, self.example()["image"])
                    )
            except UsageError as error:
                raise UsageError(with_key(key, error)) from error
            check_shapes(shapes[role].get("params", {}), key)
        return shapes

    def _check_sources(self, name: str) -> None:
        """Raises `UsageError` for a source that is not finished and does not run before."""
        for role, spec in self.spec.stages[name].networks.items():
            if spec.init_from is not None and spec.init_from not in self.names:
                with one_sentence(f"stages.{name}.networks.{role}.init_from", _WEIGHTS):
                    self.roles.weights(name, role)
        source = self.spec.stages[name].adapters_from
        if source is not None and source not in self.names:
            key = f"stages.{name}.adapters_from"
            with one_sentence(key, _WEIGHTS):
                Weights.find(self.roles.folder(source, key), None, LAST, key)

    def _check_weights(self, name: str) -> None:
        """Raises `UsageError` where weights will not fit the network that starts from them."""
        for role, spec in self.spec.stages[name].networks.items():
            if (source := self.roles.source_of(name, role)) is None:
                continue
            ours, theirs = self.shapes[name][role], self.shapes[source[0]][source[1]]
            if not spec.init_head:
                names = {HEAD} if EMBEDDING in theirs["params"] else {HEAD, EMBEDDING}
                ours, theirs = _without(ours, names), _without(theirs, names)
            if not _same_shapes(ours, theirs):
                raise UsageError(
                    f"stages.{name}.networks.{role} cannot start from {spec.init_from!r}: the"
                    " shapes differ, use the same architecture and options."
                )

    def _check_method(self, name: str) -> None:
        """Traces the first step, to find networks that the method cannot use."""
        stage = self.stages[name]
        # In the global view: the networks of `pmap` have their axis only inside it.
        networks = {role: self.roles.info(name, role).module() for role in stage.networks}
        # The example has one image per device, which cannot be divided.
        stage = dataclasses.replace(stage, networks=networks, accumulate=1)

        def first_step(variables):
            example = self.example()
            frozen = {role: variables[role] for role in stage.frozen}
            trained = {role: variables[role] for role in stage.trained}
            statistics = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                statistics_shapes(stage, frozen, example),
            )
            state = init_state(stage, example, frozen, trained=trained, statistics=statistics)
            return train_step(stage, state, frozen, example)

        key = f"stages.{name}.method"
        try:
            with one_sentence(key, "check its options and the optimizers"):
                jax.eval_shape(first_step, self.shapes[name])
        except UsageError as error:
            raise UsageError(with_key(key, error)) from error


def _read_images(spec: Experiment) -> dict[str, ImageSet | StoredImages]:
    """Returns the images by split."""
    data = spec.data
    train, test = load_splits(data.source, data.train_split, data.test_split, data.stream)
    images: dict[str, ImageSet | StoredImages] = {} if test is None else {"test": test}
    if data.validation_fraction:  # first: all values of train_fraction share it
        train, images["validation"] = hold_out(train, data.validation_fraction, data.subset_seed)
    images["train"] = class_fraction(train, data.train_fraction, data.subset_seed)
    return images


def _check_unaugmented(allowed: bool, augmentation: Augmentation, key: str) -> None:
    """Raises `UsageError` if images are augmented for which only original outputs are recorded."""
    if augmentation != Augmentation() and not allowed:
        raise UsageError(
            f"{key} has outputs of the original images, but data.augmentation changes the images:"
            " leave the augmentation out, or set augmented = True to use these outputs for"
            " augmented images too."
        )


def _without(variables: PyTree, names: Container[str]) -> PyTree:
    """Returns variables without some top-level modules."""
    params = {name: tree for name, tree in variables["params"].items() if name not in names}
    return {**variables, "params": params}


def _same_shapes(one: PyTree, other: PyTree) -> bool:
    """Returns whether two trees of arrays have the same structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)
    same: bool = structure == other_structure  # type: ignore[operator]
    return same and all(
        (a.shape, a.dtype) == (b.shape, b.dtype) for a, b in zip(leaves, others, strict=True)
    )
