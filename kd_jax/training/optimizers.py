"""Optimizers of optax by their names, learning-rate schedules, and one optimizer per group."""

import dataclasses
import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax.numpy as jnp
import optax

from kd_jax.core.errors import check_choice
from kd_jax.core.registry import Registry
from kd_jax.training.state import ADAPTERS


class Schedule:
    """A learning rate over the steps of a stage."""

    def build(self, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """Returns the rate at each step, counted from 0.

        Args:
            rate: base rate.
            steps: number of steps of the stage.
            steps_per_epoch: number of steps per epoch.
        """
        raise NotImplementedError


SCHEDULES: Registry[type[Schedule]] = Registry("schedule")
"""All learning-rate schedules by name."""


@SCHEDULES.register("constant")
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The base rate at every step."""

    def build(self, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Schedule`."""
        del steps, steps_per_epoch
        return optax.constant_schedule(rate)


@SCHEDULES.register("step")
@dataclasses.dataclass(frozen=True)
class Step(Schedule):
    """The rate is multiplied by a factor after each milestone.

    Attributes:
        milestones: numbers of completed epochs after which the rate drops.
        factor: factor of each drop.
    """

    milestones: tuple[float, ...]
    factor: float = 0.1

    def __post_init__(self):
        if not all(0 <= epoch < math.inf for epoch in self.milestones):
            raise ValueError(f"milestones must be 0 or more and finite, not {self.milestones}")
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor must be greater than 0 and at most 1, not {self.factor}")

    def build(self, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Schedule`."""
        drops: dict[int, float] = {}
        for epoch in self.milestones:
            if (step := round(epoch * steps_per_epoch)) <= steps:  # others may not fit an int32
                drops[step] = drops.get(step, 1.0) * self.factor
        return optax.piecewise_constant_schedule(rate, drops)


@SCHEDULES.register("cosine")
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from the base rate down.

    Attributes:
        final: last rate, as a multiple of the base rate.
    """

    final: float = 0.0

    def __post_init__(self):
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must be 0 to 1, not {self.final}")

    def build(self, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """See `Schedule`."""
        del steps_per_epoch
        return optax.cosine_decay_schedule(rate, max(steps, 1), alpha=self.final)


SCHEDULES.seal()

_AVERAGES = ("momentum", "b1", "b2", "b3", "decay", "rho")
"""Options that are the weight of the past in a moving average."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimizer of one group of parameters.

    The subclass `adamw`, for example, has the arguments of `optax.adamw` as further options, with
    optax's defaults.

    Attributes:
        learning_rate: base rate.
        schedule: change of the rate over the stage.
        warmup_epochs: number of first epochs in which the rate grows linearly from 0. The schedule
            starts at the same time, so milestones do not move.
        weight_decay: factor of the parameter. It is added to the gradient before all else, as in
            PyTorch's SGD and Adam, for every parameter (batch norm and biases included). An
            optimizer of optax that has a weight decay of its own uses it in its own way.
        clip_norm: greatest norm of the group's gradient. None does not clip.
    """

    learning_rate: float
    schedule: Annotated[Schedule, SCHEDULES] = dataclasses.field(default_factory=Constant)
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self):
        for name, value in (("learning_rate", self.learning_rate), ("clip_norm", self.clip_norm)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be greater than 0 and finite, not {value}")
        for name in ("warmup_epochs", "weight_decay"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, not {value}")
        for name in _AVERAGES:
            value = getattr(self, name, None)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, not {value}")

    def rate(self, steps: int, steps_per_epoch: int) -> optax.Schedule:
        """Returns the learning rate at each step."""
        schedule = self.schedule.build(self.learning_rate, steps, steps_per_epoch)
        warmup = round(self.warmup_epochs * steps_per_epoch)

        def rate(step):
            step = jnp.asarray(step, jnp.float32)  # optax mixes it with floats
            ramp = jnp.minimum(step / warmup, 1.0) if warmup else 1.0
            return ramp * schedule(step)

        return rate

    def build(self, steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
        """Returns the transformation of the group's gradients."""
        clip = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        return optax.chain(*clip, *self.rule(self.rate(steps, steps_per_epoch)))

    def rule(self, rate: optax.Schedule) -> list[optax.GradientTransformation]:
        """Returns the transformations after clipping."""
        raise NotImplementedError


def register_schedule(name: str, schedule: type[Schedule] | None = None) -> Any:
    """Adds a schedule of your own, a frozen dataclass; use it as a decorator or call it."""
    return SCHEDULES.register(name, schedule)


class Optimizers(Registry[type[Optimizer]]):
    """All optimizers: those of optax, and those that a user registers."""

    def __init__(self):
        """Finds the optimizers of optax."""
        super().__init__("optimizer")
        for name, function in vars(optax).items():
            if _is_optimizer(name, function):
                self.register(name, _from_optax(name, function))
        self.seal()


def _is_optimizer(name: str, function: Any) -> bool:
    """Returns whether a member of optax needs a learning rate, or its schedule, and no more.

    L-BFGS is left out: its update also needs the loss as a function.
    """
    if name.startswith(("_", "scale_by_", "lbfgs")) or not inspect.isfunction(function):
        return False
    parameters = list(inspect.signature(function).parameters.values())
    return (
        bool(parameters)
        and parameters[0].name == "learning_rate"
        and "Callable" in str(parameters[0].annotation)  # a schedule is possible
        and all(p.default is not p.empty for p in parameters[1:])
    )


def _from_optax(name: str, function: Callable[..., Any]) -> type[Optimizer]:
    """Makes the options of an optimizer from its arguments in optax.

    Arguments whose default is not a plain value, such as a dtype, keep their default.
    """
    own = {
        parameter.name: parameter
        for parameter in list(inspect.signature(function).parameters.values())[1:]
        if parameter.default is None or isinstance(parameter.default, bool | int | float | str)
    }

    def rule(self: Optimizer, rate: optax.Schedule) -> list[optax.GradientTransformation]:
        decay = []
        if "weight_decay" not in own and self.weight_decay:
            decay = [optax.add_decayed_weights(self.weight_decay)]
        return [*decay, function(rate, **{key: getattr(self, key) for key in own})]

    def check(self: Optimizer) -> None:
        Optimizer.__post_init__(self)
        for key in own:
            _check_own(key, getattr(self, key))

    cls = dataclasses.make_dataclass(
        name,
        [(p.name, _kind(p), dataclasses.field(default=p.default)) for p in own.values()],
        bases=(Optimizer,),
        namespace={"rule": rule, "__post_init__": check},
        frozen=True,
        kw_only=True,
    )
    texts = re.findall(r"^  (\w+): (.*(?:\n {3,}.*)*)", inspect.getdoc(function) or "", re.M)
    lines = [f"    {key}: {' '.join(text.split())}" for key, text in texts if key in own]
    cls.__doc__ = "\n".join([f"The optimizer `optax.{name}`.", "", "Attributes:", *lines])
    cls.__module__ = __name__
    return cls


def _check_own(name: str, value: Any) -> None:
    """Raises `ValueError` for a value that no optimizer of optax can use."""
    if name.endswith("dtype") and value is not None:
        check_choice(value, ("float32", "bfloat16", "float16"), name)
    if isinstance(value, int | float) and not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more and finite, not {value}")


def _kind(parameter: inspect.Parameter) -> Any:
    """Returns the annotation of an argument of optax, as precisely as it can be known.

    Arrays, functions and trees are left out, since a config cannot hold them.
    """
    if parameter.name.endswith("dtype"):
        return str | None
    if parameter.name.endswith("mask") and not isinstance(parameter.default, bool):
        return bool | None
    if parameter.name in ("key", "seed"):
        return int | None
    if isinstance(parameter.default, bool | str):
        return type(parameter.default)
    if parameter.default is not None:
        optional = type(None) in typing.get_args(parameter.annotation)
        return float | None if optional else float
    return float | None if "float" in str(parameter.annotation) else Any


OPTIMIZERS = Optimizers()
"""All optimizers by name: `sgd`, `adamw`, `lion`, `lamb` and the others of optax."""


def register_optimizer(name: str, optimizer: type[Optimizer] | None = None) -> Any:
    """Adds an optimizer of your own, a frozen dataclass with the method `rule`.

    The optimizers of optax are there already. Use it as a decorator or call it.
    """
    return OPTIMIZERS.register(name, optimizer)


def names() -> tuple[str, ...]:
    """Returns the names of all optimizers."""
    return OPTIMIZERS.names()


def optimizer_groups(
    optimizers: Mapping[str, Optimizer], roles: tuple[str, ...], steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Returns one transformation for the parameters `{group: tree}` of a stage.

    Args:
        optimizers: optimizers by group; `"default"` serves the groups that are not named.
        roles: roles of the trained networks. The groups are these and the method's adapters.
            Adapters that a method keeps under the name of a trained role belong to its group.
        steps: number of steps of the stage.
        steps_per_epoch: number of steps per epoch.
    """
    groups = (*roles, ADAPTERS)
    chosen = {group: optimizers.get(group, optimizers["default"]) for group in groups}
    return optax.partition(
        {group: optimizer.build(steps, steps_per_epoch) for group, optimizer in chosen.items()},
        functools.partial(_labels, roles),
    )


def _labels(roles: tuple[str, ...], params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the group of every network, and of every part of the adapters."""
    adapters = {name: name if name in roles else ADAPTERS for name in params[ADAPTERS]}
    return {**{role: role for role in roles}, ADAPTERS: adapters}
