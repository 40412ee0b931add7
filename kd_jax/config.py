"""What a config says: the specification of an experiment, its stages and their networks."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from kd_jax.building import Values, build, choose, one_of
from kd_jax.data import (
    SOURCES,
    Augmentation,
    Degradation,
    Normalisation,
    Source,
    check_filter,
)
from kd_jax.errors import UsageError
from kd_jax.methods import METHODS, Method
from kd_jax.training import EXECUTIONS, OPTIMIZERS, SCHEDULES, Optimizer


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The images of an experiment: `config.data`.

    Attributes:
        source: where they come from.
        batch_size: of training, over all devices.
        eval_batch_size: of evaluation, over all devices.
        train_split: what is trained on, in TFDS' notation.
        test_split: what is evaluated.
        augmentation: of training.
        filter: with which lower resolutions are made.
        train_fraction: share of the training images of each class that is used, in all stages.
        subset_seed: of the choice of that share; smaller shares lie within larger ones.
        stream: decode the training images batch by batch, while others are computed; if not, they
            lie on every device as a whole.
        normalisation: mean and deviation of each channel on the scale 0 to 1, of networks that
            start from random weights; None takes those of the training images.
    """

    source: Source
    batch_size: int
    eval_batch_size: int = 512
    train_split: str = "train"
    test_split: str = "test"
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    filter: str = "bicubic"
    train_fraction: float = 1.0
    subset_seed: int = 0
    stream: bool = False
    normalisation: Normalisation | None = None

    def __post_init__(self):
        check_filter(self.filter)
        if self.eval_batch_size < 1:
            raise ValueError("eval_batch_size must be 1 or more")
        if not 0 < self.train_fraction <= 1:
            raise ValueError("train_fraction must be greater than 0 and at most 1")
        if not 0 <= self.subset_seed < 2**64:
            raise ValueError("subset_seed must be 0 or more, and less than 2**64")


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """One network of a stage: `config.stages.STAGE.networks.ROLE`.

    Attributes:
        name: architecture; None takes that of `init_from`.
        options: of the architecture, as `kd_jax.models.create` takes them.
        degradation: what happens to some of the images that it sees in training.
        resolution: height of what it sees; None is the stored size, or, where the architecture
            comes from `init_from`, what it saw there.
        frozen: keep its weights as they are.
        init_from: where its first weights come from: the name of an earlier stage, or the path of a
            finished stage's folder; None starts from random weights.
        init_role: which network of that stage.
        init_checkpoint: `"last"` or `"best"` (on the test images) of that stage.
    """

    name: str | None = None
    options: dict = dataclasses.field(default_factory=dict)
    resolution: int | None = None
    degradation: Degradation | None = None
    frozen: bool = False
    init_from: str | None = None
    init_role: str = "student"
    init_checkpoint: str = "last"

    def __post_init__(self):
        if self.init_checkpoint not in ("last", "best"):
            raise ValueError("init_checkpoint must be 'last' or 'best'")
        for option in ("num_classes", "axis_name"):
            if option in self.options:
                raise ValueError(f"options.{option} is set by the run: leave it out")
        if self.init_from is None and (self.init_role, self.init_checkpoint) != ("student", "last"):
            raise ValueError("init_role and init_checkpoint are not used without init_from")
        if self.init_from is None and (self.frozen or self.name is None):
            needs = "a frozen network" if self.frozen else "a network without a name"
            raise ValueError(f"{needs} needs init_from, the stage that its weights come from")


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One stage: `config.stages.STAGE`.

    The network whose accuracy the stage is judged by has the role `student`, in the stage that
    trains a teacher too.

    Attributes:
        networks: by role; the roles are the method's.
        method: what is minimised.
        optimizers: by group: `default`, or a trained role's name, or `adapters`, where the method
            has some that lie under no trained role.
        epochs: length; a fraction is rounded to steps, one at least.
        evaluate_every: epochs between evaluations.
        own_augmentation: every network sees its own augmented copy of the images, not the same.
    """

    networks: dict[str, NetworkSpec]
    method: Method
    optimizers: dict[str, Optimizer]
    epochs: float
    evaluate_every: float = 1.0
    own_augmentation: bool = False

    def __post_init__(self):
        roles = self.method.roles
        if set(self.networks) != set(roles):
            raise ValueError(
                f"the networks are {', '.join(sorted(self.networks))}, but"
                f" {type(self.method).__name__} needs {', '.join(roles)}"
            )
        for role, network in self.networks.items():
            frozen = role in self.method.frozen_roles
            if network.frozen != frozen:
                name = type(self.method).__name__
                raise ValueError(f"networks.{role}.frozen must be {frozen} for {name}")
        adapters = (g if g in self.trained else "adapters" for g in self.method.adapter_groups)
        groups = sorted({"default", *self.trained, *adapters})
        for group in self.optimizers:
            if group not in groups:
                raise ValueError(
                    f"optimizers.{group} is not used by this stage of"
                    f" {type(self.method).__name__}: leave it out, or name one of the groups"
                    f" {', '.join(groups)}"
                )
        if "default" not in self.optimizers:
            raise ValueError("optimizers.default is missing")
        if not (0 < self.epochs < math.inf and self.evaluate_every > 0):
            raise ValueError("epochs and evaluate_every must be greater than 0, epochs finite")

    @property
    def trained(self) -> tuple[str, ...]:
        """Roles that are trained."""
        return tuple(role for role, network in self.networks.items() if not network.frozen)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole config.

    Attributes:
        experiment: name, for the results.
        data: the images.
        stages: by name.
        pipeline: names of the stages in the order in which they run.
        seed: of everything random.
        execution: `"jit"` (global view over a mesh) or `"pmap"`.
        num_devices: how many devices to use; None is all.
        checkpoint_minutes: greatest time between two saves; every evaluation saves too.
    """

    experiment: str
    data: DataSpec
    stages: dict[str, StageSpec]
    pipeline: tuple[str, ...]
    seed: int = 0
    execution: str = "jit"
    num_devices: int | None = None
    checkpoint_minutes: float = 10.0

    def __post_init__(self):
        one_of(self.execution, EXECUTIONS, "execution")
        if not (0 <= self.seed < 2**63 and self.checkpoint_minutes > 0):
            raise ValueError(
                "seed must be 0 or more, and less than 2**63, checkpoint_minutes greater than 0"
            )
        for name in self.stages:
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(f"stages.{name}: a stage's name is letters, digits, _ and -")
        for name in self.pipeline:
            one_of(name, self.stages, "pipeline")
        if len(set(self.pipeline)) < len(self.pipeline) or not self.pipeline:
            raise ValueError("pipeline must name every stage at most once, and one at least")
        unused = set(self.stages) - set(self.pipeline)
        if unused:
            raise ValueError(
                f"stages.{min(unused)} is not used: add {min(unused)!r} to pipeline or leave it out"
            )
        for place, name in enumerate(self.pipeline):
            for role, network in self.stages[name].networks.items():
                source = network.init_from
                if source in self.stages and source not in self.pipeline[:place]:
                    raise ValueError(
                        f"stages.{name}.networks.{role}.init_from = {source!r} runs no earlier"
                        f" than {name!r}: move it forward in pipeline"
                    )
                if source in self.stages and network.init_role not in self.stages[source].trained:
                    raise ValueError(
                        f"stages.{name}.networks.{role}.init_role = {network.init_role!r} is not"
                        f" trained by {source!r}, which trains"
                        f" {', '.join(self.stages[source].trained)}"
                    )


def _mapping(values: Any, where: str) -> Values:
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} = {values!r} must be a dictionary.")
    return values


def _optimizer(values: Values, where: str) -> Optimizer:
    values = dict(values)
    parts = {}
    if "schedule" in values:
        schedule = _mapping(values.pop("schedule"), f"{where}.schedule")
        parts["schedule"] = choose(SCHEDULES, schedule, f"{where}.schedule")
    return choose(OPTIMIZERS, values, where, **parts)


def _part(cls: type, values: Values, key: str, where: str) -> Values:
    """The values, in which those of one key are made a dataclass; None leaves it out."""
    if values.get(key) is None:
        return values
    where = f"{where}.{key}"
    return {**values, key: build(cls, _mapping(values[key], where), where)}


def _network(values: Values, where: str) -> NetworkSpec:
    return build(NetworkSpec, _part(Degradation, values, "degradation", where), where)


def _stage(values: Values, where: str) -> StageSpec:
    def each(key, make):
        group = _mapping(values.get(key, {}), f"{where}.{key}")
        return {
            name: make(_mapping(item, f"{where}.{key}.{name}"), f"{where}.{key}.{name}")
            for name, item in group.items()
        }

    parts = {
        "networks": each("networks", _network),
        "optimizers": each("optimizers", _optimizer),
        "method": choose(METHODS, _mapping(values.get("method", {}), where), f"{where}.method"),
    }
    return build(StageSpec, {**values, **parts}, where)


def experiment(config: Values) -> Experiment:
    """Checks a whole config and makes its specification.

    Args:
        config: plain dictionaries, as from `ConfigDict.to_dict()`.

    Raises:
        UsageError: for the first thing that is wrong, with its key and the remedy.
    """
    data = dict(_mapping(config.get("data", {}), "data"))
    source = _mapping(data.get("source", {}), "data.source")
    data["source"] = choose(SOURCES, source, "data.source")
    data = _part(Augmentation, data, "augmentation", "data")
    data = _part(Normalisation, data, "normalisation", "data")
    stages = _mapping(config.get("stages", {}), "stages")
    return build(
        Experiment,
        {
            **config,
            "data": build(DataSpec, data, "data"),
            "stages": {
                name: _stage(_mapping(values, f"stages.{name}"), f"stages.{name}")
                for name, values in stages.items()
            },
        },
        "config",
    )
