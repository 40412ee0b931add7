"""Cost of a trained network: time per batch, parameters, multiply-adds and memory."""

import math
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from kd_jax.core.errors import UsageError
from kd_jax.models import Outputs
from kd_jax.pretrained.exporting import forward
from kd_jax.pretrained.weights import Trained

_LEAST_RUNS = 10
_MOST_RUNS = 200
_SECONDS = 1.0
"""Time of all runs of a batch size after which no further one begins."""
_WARM = 3


class Cost(NamedTuple):
    """The cost of a network on images of its own resolution.

    Attributes:
        parameters: number of trained parameters.
        multiply_adds: those of all convolutions and matrix products for one image, counted in the
            traced network. Additions, activations and normalization are left out, as usual.
        weight_bytes: size of parameters and batch statistics.
        milliseconds: by batch size, the median time from uint8 images on the device to logits,
            probabilities and embedding.
        working_bytes: by batch size, the memory that the program needs in addition to weights,
            images and outputs, as XLA reports it; None if it does not.
    """

    parameters: int
    multiply_adds: int
    weight_bytes: int
    milliseconds: dict[int, float]
    working_bytes: dict[int, int | None]


def measure(trained: Trained, batch_sizes: Iterable[int]) -> Cost:
    """Measures a network on the default device.

    Each program runs three times first. Then the times of 10 to 200 runs are measured, for about a
    second.

    Args:
        trained: the network.
        batch_sizes: numbers of images per batch.

    Raises:
        UsageError: if the device has too little memory for a batch.
    """
    leaves = jax.tree.leaves(trained.variables)
    milliseconds, working = {}, {}
    for batch_size in batch_sizes:
        milliseconds[batch_size], working[batch_size] = _timed(trained, batch_size)
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])),
        multiply_adds=multiply_adds(trained),
        weight_bytes=sum(leaf.nbytes for leaf in leaves),
        milliseconds=milliseconds,
        working_bytes=working,
    )


def _timed(trained: Trained, batch_size: int) -> tuple[float, int | None]:
    """Returns the median time of a batch in milliseconds, and the working memory in bytes."""

    def run(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        return forward(Trained.of(trained.info, variables))(images)

    rng = np.random.default_rng(0)
    shape = (batch_size, *trained.info.size, len(trained.info.mean))
    images = jax.device_put(rng.integers(0, 256, shape, dtype=np.uint8))
    try:
        program = jax.jit(run).lower(trained.variables, images).compile()
        for _ in range(_WARM):
            jax.block_until_ready(program(trained.variables, images))
        times: list[float] = []
        while len(times) < _LEAST_RUNS or (sum(times) < _SECONDS and len(times) < _MOST_RUNS):
            start = time.perf_counter()
            jax.block_until_ready(program(trained.variables, images))
            times.append(time.perf_counter() - start)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(
            f"The memory of the device is too small for {batch_size} images: choose smaller"
            " --batch_sizes."
        ) from error
    memory = program.memory_analysis()
    return 1000 * statistics.median(times), getattr(memory, "temp_size_in_bytes", None)


def multiply_adds(trained: Trained) -> int:
    """Counts the multiply-adds of the convolutions and matrix products of one image.

    Positions of a window outside of the image count too, as in other counters.
    """
    info = trained.info
    view = jax.ShapeDtypeStruct((1, *info.size, len(info.mean)), jnp.float32)

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        outputs = cast(Outputs, trained.network.apply(variables, images, train=False))
        return outputs.logits

    traced = jax.make_jaxpr(logits)(trained.variables, view)
    return sum(map(_products, _equations(traced.jaxpr)))


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Yields the operations of a program and of the functions that it calls.

    Of the branches of a condition, only the last one counts: the convolutions of kd_jax have one
    for the CPU and one for other devices, with equal results.
    """
    for equation in jaxpr.eqns:
        values = list(equation.params.values())
        if equation.primitive.name == "cond":
            values = [equation.params["branches"][-1]]
        inner = [found for value in values for found in _programs(value)]
        if not inner:
            yield equation
        for program in inner:
            yield from _equations(program)


def _programs(value: Any) -> Iterator[core.Jaxpr]:
    """Yields the programs among the parameters of an operation."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value


def _products(equation: core.JaxprEqn) -> int:
    """Returns the number of multiply-adds of an operation."""
    name, parameters = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        features = parameters["dimension_numbers"].rhs_spec[0]
        return math.prod(_shape(equation.outvars[0])) * math.prod(kernel) // kernel[features]
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = _shape(equation.invars[0])
        terms = math.prod(shape[axis] for axis in contracted)
        return math.prod(_shape(equation.outvars[0])) * terms
    return 0


def _shape(variable: Any) -> tuple[int, ...]:
    """Returns the shape of a variable of a program."""
    shape: tuple[int, ...] = variable.aval.shape
    return shape
