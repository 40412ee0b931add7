"""The work of stages: multiply-adds per image, to compare the times of stages before they run."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.experiment.plan import Plan

_BACKWARD = 2
"""A backward pass has about twice the multiply-adds of the forward pass."""


def stage_work(plan: Plan, name: str) -> float:
    """Returns the multiply-adds of all steps of a stage: its networks, not the losses.

    Args:
        plan: the plan of the run.
        name: name of the stage.
    """
    stage = plan.stages[name]
    image = jax.ShapeDtypeStruct((1, *plan.images["train"].image_shape), jnp.uint8)
    total = 0
    for role, network in stage.networks.items():
        if role in stage.recorded:
            continue
        # In the global view: the networks of `pmap` have their axis only inside it.
        network = plan.roles.info(name, role).module()

        def forward(variables, image, role=role, network=network):
            inputs = stage.inputs(image)[role]
            return network.apply(variables, inputs, train=False)

        passes = 1 + _BACKWARD if role in stage.trained else 1
        total += passes * multiply_adds(forward, plan.shapes[name][role], image)
    return float(total) * plan.spec.data.batch_size * plan.steps(name)


def multiply_adds(function: Any, *arguments: Any) -> int:
    """Returns the multiply-adds of the convolutions and matrix products in a function.

    Args:
        function: a function that JAX can trace.
        *arguments: its arguments, or their shapes.
    """
    return sum(_count(equation) for equation in _equations(jax.make_jaxpr(function)(*arguments)))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a program and of the programs inside it, each once."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield from _equations(inner)


def _count(equation: Any) -> int:
    """Returns the multiply-adds of a convolution or a matrix product; 0 of others."""
    name = equation.primitive.name
    if name == "dot_general":
        (axes, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in axes)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        output_axis = equation.params["dimension_numbers"].rhs_spec[0]
        per_value = math.prod(kernel) // kernel[output_axis]
        return math.prod(equation.outvars[0].aval.shape) * per_value
    return 0
