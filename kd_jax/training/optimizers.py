"""Optimizers and learning-rate schedules, as the papers' PyTorch code defines them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from kd_jax.training.stage import ADAPTERS


class Schedule:
    """A learning rate relative to the base rate."""

    def build(self, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """The rate at each step (counted from 0) of a stage of `steps` steps."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The base rate throughout."""

    def build(self, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Schedule`."""
        del steps, steps_per_epoch
        return optax.constant_schedule(rate)


@dataclasses.dataclass(frozen=True)
class Step(Schedule):
    """The rate drops by `factor` when each of the `milestones` (in epochs) is completed."""

    milestones: tuple[float, ...]
    factor: float = 0.1

    def build(self, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Schedule`."""
        del steps
        drops: dict[int, float] = {}
        for epoch in self.milestones:
            step = round(epoch * steps_per_epoch)
            drops[step] = drops.get(step, 1.0) * self.factor
        return optax.piecewise_constant_schedule(rate, drops)


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from the base rate down to `final` times it."""

    final: float = 0.0

    def build(self, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Schedule`."""
        del steps_per_epoch
        return optax.cosine_decay_schedule(rate, max(steps, 1), alpha=self.final)


SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "cosine": Cosine, "step": Step}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What all optimizers share.

    Attributes:
        learning_rate: base rate.
        schedule: how the rate changes over the stage.
        warmup_epochs: the rate grows linearly from 0 over these first epochs; the schedule's own
            clock starts with them, so milestones stay where they are.
        weight_decay: times the parameter, for every parameter (batch norm and biases included, as
            in PyTorch).
        clip_norm: greatest norm of a group's gradient; None does not clip.
    """

    learning_rate: float
    schedule: Schedule = dataclasses.field(default_factory=Constant)
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self):
        if not (self.learning_rate > 0 and self.warmup_epochs >= 0 and self.weight_decay >= 0):
            raise ValueError(
                "learning_rate must be greater than 0, warmup_epochs and weight_decay 0 or more"
            )

    def rate(self, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """The learning rate at each step."""
        schedule = self.schedule.build(self.learning_rate, steps, steps_per_epoch)
        warmup = round(self.warmup_epochs * steps_per_epoch)

        def rate(step):
            step = jnp.asarray(step, jnp.float32)  # optax mixes it with floats
            ramp = jnp.minimum(step / warmup, 1.0) if warmup else 1.0
            return ramp * schedule(step)

        return rate

    def build(self, steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
        """The transformation of one group's gradients."""
        clip = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        return optax.chain(*clip, *self._rule(self.rate(steps, steps_per_epoch)))

    def _rule(self, rate: optax.Schedule) -> list[optax.GradientTransformation]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer):
    """`torch.optim.SGD`: weight decay is added to the gradient, then comes momentum."""

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1, not {self.momentum}")

    def _rule(self, rate):
        decay = [optax.add_decayed_weights(self.weight_decay)] if self.weight_decay else []
        return [*decay, optax.sgd(rate, self.momentum or None, self.nesterov)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """`torch.optim.Adam` (weight decay is added to the gradient), or AdamW if `decoupled`."""

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    decoupled: bool = False

    def _rule(self, rate):
        decay = [optax.add_decayed_weights(self.weight_decay)] if self.weight_decay else []
        scale = [optax.scale_by_adam(self.b1, self.b2, self.epsilon)]
        rule = [*scale, *decay] if self.decoupled else [*decay, *scale]
        return [*rule, optax.scale_by_learning_rate(rate)]


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": Sgd}


def optimizer_groups(
    optimizers: Mapping[str, Optimizer], roles: tuple[str, ...], steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """One transformation for the parameters `{group: tree}` of a stage.

    Args:
        optimizers: by group; `"default"` serves the groups that are not named.
        roles: of the trained networks; the groups are these and the method's adapters. Adapters
            that a method keeps under a trained role's name belong to that role's group.
        steps: length of the stage.
        steps_per_epoch: length of an epoch.
    """
    groups = (*roles, ADAPTERS)
    chosen = {group: optimizers.get(group, optimizers["default"]) for group in groups}
    return optax.partition(
        {group: optimizer.build(steps, steps_per_epoch) for group, optimizer in chosen.items()},
        functools.partial(_labels, roles),
    )


def _labels(roles: tuple[str, ...], params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The group of every network, and of every part of the adapters."""
    adapters = {name: name if name in roles else ADAPTERS for name in params[ADAPTERS]}
    return {**{role: role for role in roles}, ADAPTERS: adapters}
