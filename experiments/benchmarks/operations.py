"""Counts the operations of a traced program, before any compiler changes it."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.extend import core

_FREE = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "iota",
    "pad",
    "reshape",
    "rev",
    "scatter",
    "sharding_constraint",
    "slice",
    "squeeze",
    "stop_gradient",
    "transpose",
}
"""Operations that only move numbers."""


class Operations(NamedTuple):
    """Numbers of operations.

    Attributes:
        products: multiplications and additions of convolutions and matrix products.
        others: all others, one per number of a result; reductions one per number of their input.
    """

    products: float
    others: float

    def __mul__(self, times: float) -> "Operations":  # type: ignore[override]
        return Operations(self.products * times, self.others * times)


def count(jaxpr: core.Jaxpr, iterations: int = 1) -> Operations:
    """Counts the operations of a program.

    Of several branches the one with the most products counts.

    Args:
        jaxpr: the program.
        iterations: number of iterations of the outer loop, if it is not known before it runs.
    """
    total = [0.0, 0.0]
    for equation in jaxpr.eqns:
        for i, number in enumerate(_equation(equation, iterations)):
            total[i] += number
    return Operations(*total)


def _equation(equation: Any, iterations: int) -> Operations:
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        return max(count(branch.jaxpr, iterations) for branch in params["branches"])
    if name == "while":
        return count(params["body_jaxpr"].jaxpr) * iterations
    inner = [count(jaxpr, iterations) for jaxpr in _inner(params)]
    if inner:
        times = 1
        if name == "scan":
            times = params["length"]
        elif name == "shard_map":  # the program of one device
            times = params["mesh"].size
        return Operations(sum(n.products for n in inner), sum(n.others for n in inner)) * times
    result = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return Operations(2 * result * math.prod(shape[axis] for axis in contracted), 0)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        zeros = math.prod(params["lhs_dilation"])  # inserted zeros are no work
        return Operations(2 * result * math.prod(kernel) / features / zeros, 0)
    if name in _FREE:
        return Operations(0, 0)
    if name.startswith(("reduce_", "arg", "cum")):
        return Operations(0, math.prod(equation.invars[0].aval.shape))
    return Operations(0, result)


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yields the programs that an equation runs."""
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
