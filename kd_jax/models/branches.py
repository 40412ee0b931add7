"""Branches: copies of a network's last stage that share all earlier stages.

ONE (Lan, Zhu & Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", NeurIPS 2018) and
OKDDip (Chen et al., "Online Knowledge Distillation with Diverse Peers", AAAI 2020) train such
copies together, and each copy learns from the others. The first branch is the network itself: its
outputs alone need no computation of the others.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from kd_jax.core.errors import UsageError
from kd_jax.models.outputs import Outputs


def check_branches(branches: int) -> None:
    """Checks the number of branches.

    Raises:
        UsageError: if it is not a whole number of at least 1.
    """
    if not isinstance(branches, int) or branches < 1:
        raise UsageError(
            f"branches = {branches!r} is not a whole number of at least 1: take 1 for the network"
            " alone."
        )


def shared_by_branches(state: Any, branches: int, rescale: bool) -> Any:
    """Returns the input of the branches, which is unchanged.

    With `rescale`, its gradient is divided by the number of branches: the backpropagation rescaling
    of CL-ILR (Song & Chai, "Collaborative Learning for Deep Neural Networks", NeurIPS 2018).

    Args:
        state: arrays that all branches see.
        branches: number of branches.
        rescale: divide the gradient.
    """
    if not rescale:
        return state

    @jax.custom_vjp
    def same(state: Any) -> Any:
        return state

    def backward(_: None, gradient: Any) -> tuple[Any]:
        return (jax.tree.map(lambda x: x / branches, gradient),)

    same.defvjp(lambda state: (state, None), backward)
    return same(state)


def branch_outputs(count: int, branch: Callable[[str], Outputs]) -> Outputs:
    """Computes the outputs of a network with branches.

    Args:
        count: number of branches, the network's own included.
        branch: computes the last stage and everything after it. Its argument is the prefix of the
            names of all modules there: `""` for the network's own branch, then `"branch2_"`,
            `"branch3_"` and so on. The prefix keeps the parameters apart, and with them the initial
            values.

    Returns:
        The outputs of the network's own branch. With more than one branch, the field `branches`
        holds the outputs of all, the network's own first.
    """
    own, *copies = (branch(f"branch{i + 1}_" if i else "") for i in range(count))
    return dataclasses.replace(own, branches=(own, *copies)) if copies else own
