"""A stage: networks by role, a method and an optimizer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kd_jax.core.errors import UsageError, check_choice
from kd_jax.data.preprocessing import Views
from kd_jax.methods import Adapters, Method, StageInfo
from kd_jax.models import Outputs
from kd_jax.training.remat import REMAT, has_blocks

PyTree = Any


def check_numbers(accumulate: int, ema_decay: float) -> None:
    """Raises `ValueError` for a number of parts, or a decay, that no stage can have."""
    if accumulate < 1:
        raise ValueError(f"accumulate must be 1 or more, not {accumulate}")
    if not 0 <= ema_decay < 1:
        raise ValueError(
            f"ema_decay must be at least 0 and less than 1, such as 0.999, not {ema_decay}"
        )


@dataclasses.dataclass(frozen=True)
class Stage:
    """Networks that are trained, and the method that trains them.

    Attributes:
        networks: module of each role. The roles are those of the method. A module is called as
            `network.apply(variables, images, train=...)` and returns `Outputs`.
        method: the quantity to minimize.
        optimizer: optax transformation of the parameters `{group: tree}`, where the groups are the
            trained roles and `"adapters"`. See `optimizer_groups` for one optimizer per group.
        views: the images that each role sees of a batch. None: a batch holds ready inputs, one
            array for all roles, or a dictionary of one array per role.
        seed: seed of everything random in the stage.
        info: sizes of the training set and of the stage, for the methods that need them.
        accumulate: number of parts of a batch that a step computes one after another. Their
            gradients are averaged in float32. See `kd_jax.training.accumulation`.
        ema_decay: weight of the past in the moving averages of the trained values, 0 to 1, such as
            0.999; see `kd_jax.training.average`. 0 keeps no averages.
        remat: for trained roles, what the backward pass computes again: `none`, `convolutions` (all
            except the results of convolutions) or `blocks` (all except the results of blocks).

    Raises:
        UsageError: if the networks are not those of the method, or a part is of the wrong type.
    """

    networks: Mapping[str, nn.Module]
    method: Method
    optimizer: optax.GradientTransformation
    views: Views | None = None
    seed: int = 0
    info: StageInfo | None = None
    accumulate: int = 1
    ema_decay: float = 0.0
    remat: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.method, Method):
            raise UsageError(
                f"Stage: method is {self.method!r}, but must be a Method such as"
                " kd_jax.methods.KD()."
            )
        name, roles = type(self.method).__name__, self.method.roles
        for role in roles:
            if role not in self.networks:
                raise UsageError(f"Stage: networks has no {role!r}, which {name} needs: add it.")
        for role, network in self.networks.items():
            if role not in roles:
                raise UsageError(
                    f"Stage: networks has {role!r}, which {name} would never use: leave it out; its"
                    f" roles are {', '.join(roles)}."
                )
            if not isinstance(network, nn.Module):
                raise UsageError(f"Stage: networks[{role!r}] must be a flax.linen.Module.")
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise UsageError(
                "Stage: optimizer must be an optax.GradientTransformation, such as optax.sgd(0.1)."
            )
        seen = [role for role in roles if not takes_index(self.networks[role])]
        if self.views is not None and set(self.views.roles) != set(seen):
            raise UsageError(
                f"Stage: views are of {', '.join(self.views.roles)}, but the roles are"
                f" {', '.join(seen)}: give one view per role."
            )
        self._check_memory_options()

    def _check_memory_options(self) -> None:
        try:
            check_numbers(self.accumulate, self.ema_decay)
        except ValueError as error:
            raise UsageError(f"Stage: {error}.") from None
        for role, kind in self.remat.items():
            check_choice(role, self.trained, "Stage: the role of remat")
            check_choice(kind, REMAT, f"Stage: remat of {role}")
            if kind == "blocks" and not has_blocks(self.networks[role]):
                raise UsageError(
                    f"Stage: remat of {role} = 'blocks' needs a network with the field remat: set"
                    " 'convolutions'."
                )

    @property
    def trained(self) -> tuple[str, ...]:
        """Returns the roles whose networks are trained, in the order of `networks`."""
        return tuple(role for role in self.networks if role not in self.method.frozen_roles)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Returns the roles whose networks stay as they are."""
        return tuple(role for role in self.networks if role in self.method.frozen_roles)

    @property
    def recorded(self) -> tuple[str, ...]:
        """Returns the roles whose networks take the index of an image instead of the image."""
        return tuple(role for role, network in self.networks.items() if takes_index(network))

    def inputs(
        self, image: jax.Array | Mapping[str, jax.Array], index: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Returns the inputs of the networks in evaluation.

        Args:
            image: `batch["image"]`: uint8 `[N, H, W, C]` where the stage has views; else float
                inputs, one array for all roles or one per role.
            index: `batch["index"]`, int32 `[N]`, for networks that take the index of an image in
                the training set. Without it they have no input.
        """
        indices = {} if index is None else dict.fromkeys(self.recorded, index)
        if self.views is not None:
            return {**self.views.evaluation(jnp.asarray(image)), **indices}
        seen = [role for role in self.networks if role not in self.recorded]
        if not isinstance(image, Mapping):
            return {**dict.fromkeys(seen, image), **indices}
        if missing := [role for role in seen if role not in image]:
            raise UsageError(
                f"batch['image'] has no input for the role {missing[0]!r}: give one array per role,"
                " or one array for all."
            )
        return {**{role: image[role] for role in seen}, **indices}

    def check_frozen(self, frozen: Mapping[str, PyTree]) -> None:
        """Raises `UsageError` unless `frozen` has variables for exactly the frozen roles."""
        name = type(self.method).__name__
        for role in self.frozen:
            if role not in frozen:
                raise UsageError(
                    f"frozen has no variables for the role {role!r}, which {name} does not train:"
                    " add them."
                )
        for role in frozen:
            if role in self.trained:
                raise UsageError(
                    f"frozen has variables for the role {role!r}, but {name} trains this network:"
                    " pass them as its first variables to init_state(trained=...)."
                )
            if role not in self.networks:
                raise UsageError(
                    f"frozen has variables for {role!r}, but the roles of {name} are"
                    f" {', '.join(self.networks)}: leave them out."
                )

    def predict(
        self, variables: Mapping[str, PyTree], adapters: Adapters, image: jax.Array
    ) -> dict[str, Outputs]:
        """Returns the outputs that are evaluated, by name: those of `Method.predict`.

        Args:
            variables: variables of every network.
            adapters: the method's adapters.
            image: the images, as in `inputs`.
        """
        return self.method.predict(adapters, self.outputs(variables, image))

    def outputs(
        self,
        variables: Mapping[str, PyTree],
        image: jax.Array | Mapping[str, jax.Array],
        index: jax.Array | None = None,
    ) -> dict[str, Outputs]:
        """Returns the outputs, in evaluation, of the networks with variables and an input.

        Args:
            variables: variables by role.
            image: the images, as in `inputs`.
            index: the indices, as in `inputs`.

        Raises:
            UsageError: if a network does not return `Outputs`.
        """
        inputs = self.inputs(image, index)
        return {
            role: check_outputs(role, network.apply(variables[role], inputs[role], train=False))
            for role, network in self.networks.items()
            if role in variables and role in inputs
        }


def takes_index(network: nn.Module) -> bool:
    """Returns whether the input of a network is the index of an image; see `Recorded`."""
    return bool(getattr(network, "takes_index", False))


def check_outputs(role: str, outputs: Any) -> Outputs:
    """Returns the result of the network of a role; raises `UsageError` if it is not `Outputs`."""
    if not isinstance(outputs, Outputs):
        raise UsageError(
            f"The network of the role {role!r} returns {type(outputs).__name__}: return"
            " kd_jax.models.Outputs(logits, embedding, ...)."
        )
    return outputs
