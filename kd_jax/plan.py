"""What will be trained: every stage built and traced, before anything is computed or written."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from kd_jax.config import Experiment
from kd_jax.data import BatchOrder, Views, class_fraction, load_splits
from kd_jax.devices import AXIS, check_divisible
from kd_jax.errors import UsageError
from kd_jax.networks import Networks
from kd_jax.training import (
    Stage,
    batch_statistics,
    init_network,
    init_state,
    optimizer_groups,
    train_step,
)

PyTree = Any


class Plan:
    """The stages of an experiment, on its images and devices.

    Whatever can be wrong with a config is found when the plan is made.

    Attributes:
        spec: of the experiment.
        mesh: devices that share each batch.
        train: the training images.
        test: the test images.
        order: which images make up each batch.
        networks: what the networks are, and where their weights come from.
        stages: by name.
        shapes: of the variables of every network, by stage and role.
    """

    def __init__(self, spec: Experiment, workdir: epath.Path, mesh: Mesh):
        """Reads the images and builds the stages.

        Args:
            spec: of the experiment.
            workdir: folder in which the stages have theirs.
            mesh: devices to use.

        Raises:
            UsageError: for whatever the user can mend.
        """
        self.spec, self.mesh, data = spec, mesh, spec.data
        if spec.execution == "pmap" and jax.process_count() > 1:
            raise UsageError("execution = 'pmap' runs in one process only: set it to 'jit'.")
        check_divisible(data.batch_size, mesh, "data.batch_size")
        check_divisible(data.eval_batch_size, mesh, "data.eval_batch_size")
        train, self.test = load_splits(data.source, data.train_split, data.test_split, data.stream)
        self.train = class_fraction(train, data.train_fraction, data.subset_seed)
        self.order = BatchOrder(spec.seed, len(self.train), data.batch_size)
        self.networks = Networks(spec, workdir, self.train)
        self.stages = {name: self._stage(name) for name in spec.pipeline}
        self.shapes = {name: self._shapes(name) for name in spec.pipeline}
        for name in spec.pipeline:
            self._check_weights(name)
            self._check_method(name)

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """Content hashes of the training and of the test images."""
        return {"train": self.train.fingerprint(), "test": self.test.fingerprint()}

    def steps(self, name: str) -> int:
        """Length of a stage."""
        return max(1, round(self.spec.stages[name].epochs * self.order.steps_per_epoch))

    def example(self) -> dict[str, jax.Array]:
        """A batch of the right shapes, and of as many images as there are devices."""
        size = self.mesh.size
        image = jnp.zeros((size, *self.train.image_shape), jnp.uint8)
        return {"image": image, "label": jnp.zeros(size, jnp.int32), "index": jnp.arange(size)}

    def _stage(self, name: str) -> Stage:
        spec, data = self.spec.stages[name], self.spec.data
        axis_name = AXIS if self.spec.execution == "pmap" else None
        modules, views = {}, {}
        for role in spec.networks:
            card = self.networks.card(name, role)
            degradation = spec.networks[role].degradation
            if degradation is not None:
                degradation.check(self.train.image_shape[:2], f"stages.{name}.networks.{role}")
            views[role] = dataclasses.replace(card.view, degradation=degradation)
            try:
                modules[role] = card.module(axis_name)
            except UsageError as error:
                raise UsageError(f"stages.{name}.networks.{role}: {error}") from error
        return Stage(
            networks=modules,
            trained=spec.trained,
            method=spec.method,
            optimizer=optimizer_groups(
                spec.optimizers, spec.trained, self.steps(name), self.order.steps_per_epoch
            ),
            views=Views(views, data.augmentation, data.filter, spec.own_augmentation),
            seed=self.spec.seed,
        )

    def _shapes(self, name: str) -> dict[str, PyTree]:
        """Shapes of the variables of every network, found without computing anything."""
        stage, shapes = self.stages[name], {}
        for role in stage.networks:
            try:
                shapes[role] = jax.eval_shape(
                    lambda role=role: init_network(stage, role, self.example()["image"])
                )
            except UsageError as error:
                raise UsageError(f"stages.{name}.networks.{role}: {error}") from error
        return shapes

    def _check_weights(self, name: str) -> None:
        """Raises `UsageError` where weights will not fit the network that starts from them."""
        for role, spec in self.spec.stages[name].networks.items():
            if spec.init_from in self.stages and not _same_shapes(
                self.shapes[name][role], self.shapes[spec.init_from][spec.init_role]
            ):
                raise UsageError(
                    f"stages.{name}.networks.{role} cannot start from {spec.init_from!r}: the"
                    " shapes differ, use the same architecture and options."
                )

    def _check_method(self, name: str) -> None:
        """Traces the first step, so that networks that a method cannot use are found now."""
        stage = self.stages[name]
        # In the global view, since only inside `pmap` do its networks have their axis.
        networks = {role: self.networks.card(name, role).module() for role in stage.networks}
        stage = dataclasses.replace(stage, networks=networks)

        def first_step(variables):
            example = self.example()
            frozen = {role: variables[role] for role in stage.frozen}
            rows = {**example, "where": jnp.ones(len(example["index"]), bool)}
            statistics = batch_statistics(stage, frozen, {}, rows)
            state = init_state(stage, variables, example, statistics)
            return train_step(stage, state, frozen, example)

        try:
            jax.eval_shape(first_step, self.shapes[name])
        except ValueError as error:
            raise UsageError(f"stages.{name}.method: {error}") from error


def _same_shapes(one: PyTree, other: PyTree) -> bool:
    """Whether two trees of arrays have the same structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)
    return structure == other_structure and all(
        (a.shape, a.dtype) == (b.shape, b.dtype) for a, b in zip(leaves, others, strict=True)
    )
