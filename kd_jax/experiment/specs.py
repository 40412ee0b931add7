"""Specifications: all options of an experiment, their types, defaults and meanings.

This file and the classes that it names are the only home of an option. Config files, the command
line and `--help` follow from them.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from kd_jax.core.errors import check_choice
from kd_jax.evaluation import EVALUATORS, Evaluator
from kd_jax.experiment.building import build, is_of
from kd_jax.experiment.data_spec import DataSpec
from kd_jax.experiment.network_spec import NetworkSpec
from kd_jax.experiment.pipeline import order_of
from kd_jax.methods import METHODS, Method
from kd_jax.methods.label_losses import LABEL_LOSSES, default_options
from kd_jax.pretrained.info import RECORDED
from kd_jax.training import OPTIMIZERS, Optimizer
from kd_jax.training.execution import EXECUTIONS
from kd_jax.training.hooks import HOOKS, Hook
from kd_jax.training.stage import check_numbers


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One stage: `config.stages.STAGE`.

    Attributes:
        networks: the networks by role. The roles are those of the method.
        method: the quantity that the stage minimizes.
        optimizers: optimizers by group: `default`, the name of a trained role, or `adapters`, if
            the method has adapters that belong to no trained role.
        epochs: length of the stage. A fraction is rounded to steps, at least one.
        evaluate_every: number of epochs between evaluations.
        own_augmentation: each network sees its own augmented copy of the images. If false, all
            see the same copy.
        adapters_from: earlier stage, or folder of a finished stage, whose adapters of the same
            names are the first ones. None starts from random adapters.
        evaluators: further evaluations by name. The accuracy on the test images is always there.
        best: metric that chooses the best checkpoint; a leading `-` prefers small values. None is
            `validation/accuracy` with a validation split, else `accuracy`.
        accumulate: number of parts of a batch that a step computes one after another, for batches
            that do not fit into the memory. Batch norm, and losses that couple the images of a
            batch, see one part at a time.
        ema_decay: weight of the past, such as 0.999, in moving averages of the trained networks,
            which are then evaluated and stored in their place. 0 keeps no averages.
    """

    networks: dict[str, NetworkSpec]
    method: Annotated[Method, METHODS]
    optimizers: dict[str, Annotated[Optimizer, OPTIMIZERS]]
    epochs: float
    evaluate_every: float = 1.0
    own_augmentation: bool = False
    adapters_from: str | None = None
    evaluators: dict[str, Annotated[Evaluator, EVALUATORS]] = dataclasses.field(
        default_factory=dict
    )
    best: str | None = None
    accumulate: int = 1
    ema_decay: float = 0.0

    def __post_init__(self):
        roles, name = self.method.roles, type(self.method).__name__
        if set(self.networks) != set(roles):
            raise ValueError(
                f"the networks are {', '.join(sorted(self.networks))}, but {name} needs"
                f" {', '.join(roles)}"
            )
        for role, network in self.networks.items():
            frozen = role in self.method.frozen_roles
            if network.frozen not in (None, frozen):
                raise ValueError(f"networks.{role}.frozen must be {frozen} for {name}")
            if frozen and network.remat != "none":
                raise ValueError(
                    f"networks.{role} is frozen in {name} and has no backward pass: leave remat out"
                )
            if network.name == RECORDED and not frozen:
                raise ValueError(f"networks.{role} is trained by {name}: it cannot be recorded")
            if frozen and network.init_from is None and network.name != RECORDED:
                raise ValueError(
                    f"networks.{role} is frozen in {name}: set init_from, the stage, folder or file"
                    " that its weights come from"
                )
        frozen, replace = self.method.frozen_roles, dataclasses.replace
        networks = {r: replace(n, frozen=r in frozen) for r, n in self.networks.items()}
        object.__setattr__(self, "networks", networks)
        groups = self.groups
        for group in self.optimizers:
            if group not in groups:
                raise ValueError(
                    f"optimizers.{group} is not used by this stage of {name}: leave it out, or name"
                    f" one of the groups {', '.join(groups)}"
                )
        if "default" not in self.optimizers:
            raise ValueError("optimizers.default is missing: name an optimizer")
        for key in ("epochs", "evaluate_every"):
            if not 0 < (value := getattr(self, key)) < math.inf:
                raise ValueError(f"{key} must be greater than 0 and finite, not {value}")
        check_numbers(self.accumulate, self.ema_decay)
        for group, optimizer in self.optimizers.items():
            if optimizer.warmup_epochs > self.epochs:
                raise ValueError(
                    f"optimizers.{group}.warmup_epochs must be at most epochs = {self.epochs:g},"
                    f" not {optimizer.warmup_epochs:g}"
                )
        self._check_loss()
        for evaluator in self.evaluators:
            if not re.fullmatch(r"\w+", evaluator):
                raise ValueError(f"evaluators.{evaluator}: a name is letters, digits and _")

    def _check_loss(self) -> None:
        """Raises `ValueError` for an option of a label loss that is not of its default's type."""
        loss: Any = getattr(self.method, "loss", None)
        options: Any = getattr(self.method, "options", None)
        if not isinstance(options, Mapping) or loss not in LABEL_LOSSES:
            return
        for name, default in default_options(loss).items():
            kind = type(default)
            if not is_of(options.get(name, default), kind):
                raise ValueError(
                    f"method.options.{name} = {options[name]!r} must be {kind.__name__}"
                )

    @property
    def trained(self) -> tuple[str, ...]:
        """Returns the roles that are trained."""
        return tuple(role for role in self.networks if role not in self.method.frozen_roles)

    @property
    def groups(self) -> list[str]:
        """Returns the optimizer groups that the stage uses."""
        adapters = (g if g in self.trained else "adapters" for g in self.method.adapter_groups)
        return sorted({"default", *self.trained, *adapters})

    @property
    def sources(self) -> tuple[str, ...]:
        """Returns all values of `init_from` and `adapters_from`."""
        networks = (network.init_from for network in self.networks.values())
        return tuple(s for s in (*networks, self.adapters_from) if s is not None)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole config.

    Attributes:
        experiment: name of the experiment, for the results.
        data: the images.
        stages: the stages by name.
        pipeline: names of the stages in the order in which they run. If it is empty, all stages
            run, each after the stages that its networks come from.
        seed: seed of everything random.
        execution: `jit` (global view over a mesh of devices) or `pmap` (one program per device).
        num_devices: number of devices to use. None is all.
        checkpoint_minutes: greatest time between two saves. A state that is the best, and the last
            one, are saved too.
        imports: the user's own modules, files or module names, that are imported first.
        hooks: receivers of the metrics of running stages by any name, such as TensorBoard. They
            change no number.
    """

    experiment: str
    data: DataSpec
    stages: dict[str, StageSpec]
    pipeline: tuple[str, ...] = ()
    seed: int = 0
    execution: str = "jit"
    num_devices: int | None = None
    checkpoint_minutes: float = 10.0
    imports: tuple[str, ...] = ()
    hooks: dict[str, Annotated[Hook, HOOKS]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_choice(self.execution, EXECUTIONS, "execution")
        if not 0 <= self.seed < 2**63:
            raise ValueError("seed must be at least 0 and less than 2**63")
        if not 0 < self.checkpoint_minutes < math.inf:
            raise ValueError(
                f"checkpoint_minutes must be greater than 0 and finite, not"
                f" {self.checkpoint_minutes}"
            )
        if not self.stages:
            raise ValueError("stages must not be empty: name one stage or more")
        for name in self.stages:
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(f"stages.{name}: the name of a stage is letters, digits, _ and -")
        if not self.pipeline:
            object.__setattr__(self, "pipeline", order_of(self.stages))
        if self.data.test_split is None and not self.data.validation_fraction:
            for name, stage in self.stages.items():
                if not stage.evaluators:
                    raise ValueError(
                        f"stages.{name} evaluates nothing without data.test_split: set"
                        " data.validation_fraction, or the evaluators of the stage"
                    )
        self._check_pipeline()
        for place, name in enumerate(self.pipeline):
            self._check_sources(name, self.pipeline[:place])

    def _check_pipeline(self) -> None:
        for name in self.pipeline:
            check_choice(name, self.stages, "pipeline")
        if len(set(self.pipeline)) < len(self.pipeline):
            raise ValueError("pipeline must name every stage once")
        if unused := set(self.stages) - set(self.pipeline):
            raise ValueError(
                f"stages.{min(unused)} is not used: add {min(unused)!r} to pipeline or leave it out"
            )

    def _check_sources(self, name: str, earlier: tuple[str, ...]) -> None:
        """Raises `ValueError` where a stage starts from a stage or a role that is not there."""
        for source in self.stages[name].sources:
            if source in self.stages and source not in earlier:
                raise ValueError(
                    f"stages.{name} starts from {source!r}, which does not run before it: move"
                    f" {source!r} forward in pipeline"
                )
        for role, network in self.stages[name].networks.items():
            start = self.stages.get(network.init_from or "")
            known = start.trained if start else ()
            if start and network.init_role is not None and network.init_role not in known:
                raise ValueError(
                    f"stages.{name}.networks.{role}.init_role = {network.init_role!r} is not"
                    f" trained by {network.init_from!r}, which trains {', '.join(known)}"
                )


def experiment(config: Mapping[str, Any]) -> Experiment:
    """Checks a whole config and makes its specification.

    Args:
        config: plain dictionaries, as from `ConfigDict.to_dict()`.

    Raises:
        UsageError: for the first thing that is wrong, with its key and the remedy.
    """
    return build(Experiment, config, "")
