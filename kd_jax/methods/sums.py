"""The sum of any methods."""

import dataclasses
import math
import zlib
from typing import Annotated

import jax

from kd_jax.methods.base import METHODS, Adapters, Method, Ramp, Weight, register, weight_at
from kd_jax.methods.kd import KD


@register("sum")
@dataclasses.dataclass(frozen=True)
class Sum(Method):
    """The weighted sum of methods, such as `{"kd": {"name": "kd"}, "sp": {"name": "sp"}}`.

    Each method keeps its own options, adapters and state. Most methods contain a cross-entropy on
    the labels: set `hard_weight` to 0 in all but one. The roles are those of all methods; a network
    is frozen if no method trains it. Of the outputs that several methods evaluate under one name,
    that of the first term is taken, in the alphabetical order of their names. All adapters are in
    the optimizer group `adapters`.

    Attributes:
        terms: the methods, by names for the log.
        weights: weights of the methods, by the same names; 1 for those that are not named.
    """

    terms: dict[str, Annotated[Method, METHODS]] = dataclasses.field(
        default_factory=lambda: {"kd": KD()}
    )
    weights: dict[str, Weight] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.terms:
            raise ValueError("terms must have one method or more")
        # A ConfigDict sorts its keys, and a sum of floats depends on their order.
        object.__setattr__(self, "terms", dict(sorted(self.terms.items())))
        for name, weight in self.weights.items():
            if name not in self.terms:
                raise ValueError(
                    f"weights.{name} is not used: the terms are {', '.join(self.terms)}"
                )
            if not isinstance(weight, Ramp) and not 0 <= weight < math.inf:
                raise ValueError(f"weights.{name} must be 0 or more and finite, not {weight}")

    @property
    def roles(self) -> tuple[str, ...]:
        """Returns the roles of all methods."""
        return tuple(dict.fromkeys(role for x in self.terms.values() for role in x.roles))

    @property
    def frozen_roles(self) -> tuple[str, ...]:
        """Returns the roles that no method trains."""
        trained = {role for x in self.terms.values() for role in x.trained_roles}
        return tuple(role for role in self.roles if role not in trained)

    @property
    def adapter_groups(self) -> tuple[str, ...]:
        """Returns the group of the adapters, if a method has any."""
        return ("adapters",) if any(x.adapter_groups for x in self.terms.values()) else ()

    @property
    def predictions(self) -> tuple[str, ...]:
        """Returns the names of the outputs of all methods."""
        return tuple(dict.fromkeys(name for x in self.terms.values() for name in x.predictions))

    def statistics(self, outputs, batch, where):
        """Computes the statistics of all methods, by their names."""
        return {name: x.statistics(outputs, batch, where) for name, x in self.terms.items()}

    def init(self, key, outputs, batch, statistics, info):
        """Makes the adapters of all methods, by their names."""
        made = {
            name: method.init(
                jax.random.fold_in(key, zlib.crc32(name.encode())),
                outputs,
                batch,
                (statistics or {}).get(name, {}),
                info,
            )
            for name, method in self.terms.items()
        }
        return Adapters(
            {name: adapters.params for name, adapters in made.items() if adapters.params},
            {name: adapters.state for name, adapters in made.items() if adapters.state},
        )

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        parts, terms, state = [], {}, {}
        for name, method in self.terms.items():
            parts_of = self._own(adapters, name)
            loss, own, new = method(parts_of, outputs, batch, axis_name=axis_name)
            if name in adapters.state:
                state[name] = new
            parts.append(weight_at(self.weights.get(name, 1.0), batch) * loss)
            terms |= {f"{name}/{term}": value for term, value in own.items()}
        return sum(parts[1:], start=parts[0]), terms, state

    def predict(self, adapters, outputs):
        """Returns the outputs that the methods evaluate."""
        found = {}
        for name, method in reversed(self.terms.items()):
            found |= method.predict(self._own(adapters, name), outputs)
        return found

    def _own(self, adapters: Adapters, name: str) -> Adapters:
        """Returns the adapters of one method."""
        return Adapters(adapters.params.get(name, {}), adapters.state.get(name, {}))
