"""The order of stages that a config does not write."""

from collections.abc import Mapping
from typing import Protocol

from kd_jax.core.errors import UsageError


class _Stage(Protocol):
    @property
    def sources(self) -> tuple[str, ...]: ...


def order_of(stages: Mapping[str, _Stage]) -> tuple[str, ...]:
    """Returns the stages, each after those it starts from; written order where both fit."""
    order: list[str] = []
    while len(order) < len(stages):
        ready = [
            name
            for name, stage in stages.items()
            if name not in order and all(s in order or s not in stages for s in stage.sources)
        ]
        if not ready:
            circle = sorted(set(stages) - set(order))
            raise UsageError(
                f"The stages {', '.join(circle)} start from one another in a circle: change one"
                " init_from."
            )
        order.append(ready[0])
    return tuple(order)
