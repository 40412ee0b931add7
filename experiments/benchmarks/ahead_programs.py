"""The programs that `ahead_of_time` compiles: the step of a stage, and a loss with its gradient."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from experiments.benchmarks.loss_cases import CASES
from kd_jax.core.devices import replicated, split
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.data import ImageSet, Source
from kd_jax.data.base import register
from kd_jax.data.resident import Resident, fits
from kd_jax.experiment.plan import Plan
from kd_jax.experiment.specs import experiment
from kd_jax.training import init_state, statistics_shapes
from kd_jax.training.execution import fused_steps, jit_program


class Subject(NamedTuple):
    """A program to compile.

    Attributes:
        title: words for the report.
        function: the function under `jax.jit`.
        arguments: shapes and dtypes of its arguments.
        images: number of images per step; None for a loss.
        steps: number of steps per call.
    """

    title: str
    function: Any
    arguments: tuple[Any, ...]
    images: int | None
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class _Shaped(ImageSet):
    """Images of which only number, size and classes are known; their pixels take no memory."""

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        channels = self.images.shape[-1]
        return (0.5,) * channels, (0.25,) * channels


@register("shaped")
@dataclasses.dataclass(frozen=True)
class Shaped(Source):
    """Images without pixels, to build the stages of a config for them.

    Attributes:
        number: number of training images; there are as many test images.
        height: height of the images.
        width: width of the images.
        num_classes: number of classes.
    """

    number: int = 50_000
    height: int = 32
    width: int = 32
    num_classes: int = 100

    def load(self, split: str) -> ImageSet:
        """Returns the images; every split has all of them."""
        del split
        shape = (self.number, self.height, self.width, 3)
        images = np.broadcast_to(np.zeros((), np.uint8), shape)
        labels = np.arange(self.number, dtype=np.int32) % self.num_classes
        return _Shaped(images, labels, self.num_classes)

    def open(self, split: str) -> Any:
        """Returns the same images: nothing is read from a disk."""
        return self.load(split)


def step(
    config: Mapping[str, Any],
    stage: str | None,
    mesh: Mesh,
    memory: float,
    batch_size: int | None,
    steps: int,
) -> Subject:
    """Returns the train step of a stage, exactly as `kd-jax train` compiles it.

    Args:
        config: plain values of a config; its images are replaced by shaped ones.
        stage: name of the stage; None is the last.
        mesh: devices to compile for.
        memory: bytes of memory of each device.
        batch_size: number of images per step over all devices; None keeps that of the config.
        steps: maximum number of steps in one call; 0 is the number that a run takes.
    """
    values = {key: value for key, value in config.items() if key != "num_devices"}
    data = dict(values["data"])
    if batch_size is not None:
        data["batch_size"] = batch_size
    data["eval_batch_size"] = mesh.size * max(1, 1024 // mesh.size)
    plan = Plan(experiment({**values, "data": data}), epath.Path("not-written"), mesh)
    name = stage or plan.names[-1]
    check_choice(name, plan.stages, "--stage")
    steps = steps or (1 if data.get("stream") else fused_steps(mesh))
    return Subject(
        title=f"{name} of {plan.spec.experiment}, batch {plan.order.batch_size}",
        function=jit_program(plan.stages[name], mesh),
        arguments=_arguments(plan, name, memory, steps),
        images=plan.order.batch_size,
        steps=steps,
    )


def _arguments(plan: Plan, name: str, memory: float, steps: int) -> tuple[Any, ...]:
    """Returns shapes and dtypes of the arguments of a program of `steps` steps."""
    stage, shapes, example = plan.stages[name], plan.shapes[name], jax.eval_shape(plan.example)
    frozen = {role: shapes[role] for role in stage.frozen}
    trained = {role: shapes[role] for role in stage.trained}
    statistics = statistics_shapes(stage, frozen, example)

    def first(frozen, trained, statistics):
        return init_state(
            stage, plan.example(), frozen, trained=trained, statistics=statistics, adapters={}
        )

    state = jax.eval_shape(first, frozen, trained, statistics)
    number, batch = len(plan.images["train"]), plan.order.batch_size
    shape = plan.images["train"].image_shape
    rows = {"index": jax.ShapeDtypeStruct((steps, batch), jnp.int32)}
    if plan.spec.data.stream:
        rows["image"] = jax.ShapeDtypeStruct((steps, batch, *shape), jnp.uint8)
        rows["label"] = jax.ShapeDtypeStruct((steps, batch), jnp.int32)
        return state, frozen, None, rows, steps
    mesh, width, whole = plan.mesh, math.prod(shape), replicated(plan.mesh)
    labels: Any = jax.ShapeDtypeStruct((number,), jnp.int32, sharding=whole)
    shared = not fits(number * width, memory)
    length, sharding = number, whole
    if shared:
        length, sharding = -(-number // mesh.size) * mesh.size, split(mesh)
    pixels: Any = jax.ShapeDtypeStruct((length, width), jnp.uint8, sharding=sharding)
    images = Resident(pixels, labels, shape, mesh if shared else None)
    return state, frozen, images, rows, steps


def loss(name: str, sizes: Sequence[int], mesh: Mesh) -> Subject:
    """Returns a loss with its gradient by the student; batches are split over the devices.

    Args:
        name: a name in `loss_cases.CASES`.
        sizes: sizes of its inputs, such as N and D.
        mesh: devices to compile for.
    """
    case = CASES[name]
    try:
        arrays = case.inputs(lambda *shape: np.ones(shape, np.float32), *sizes)
    except TypeError as error:
        raise UsageError(
            f"--sizes has {len(sizes)} numbers, but {name} takes others: see `loss_cases.SIZES`."
        ) from error
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
    whole, cut = replicated(mesh), split(mesh)

    def sharding(leaf: jax.ShapeDtypeStruct) -> Any:
        return cut if leaf.shape[:1] == (sizes[0],) else whole

    def function(*arrays: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # as in the train step
            return jax.value_and_grad(lambda *x: case.loss(*x).mean())(*arrays)

    return Subject(
        title=f"{name} {'x'.join(map(str, sizes))} with its gradient",
        function=jax.jit(function, in_shardings=jax.tree.map(sharding, shapes)),
        arguments=shapes,
        images=None,
    )
