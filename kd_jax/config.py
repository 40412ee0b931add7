"""From a config's dictionaries to checked specifications: no key is unknown, none unused."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from kd_jax.data import SOURCES, Augmentation, Source, check_filter
from kd_jax.errors import UsageError
from kd_jax.methods import METHODS, Method
from kd_jax.training import EXECUTIONS, OPTIMIZERS, SCHEDULES, Optimizer

Values = Mapping[str, Any]


def one_of(value: str, known, where: str) -> str:
    """Returns `value` if it is known; else raises `UsageError` with the nearest choices first."""
    if value in known:
        return value
    close = difflib.get_close_matches(str(value), known, n=3)
    choices = ", ".join([*close, *sorted(set(known) - set(close))])
    raise UsageError(f"{where} = {value!r} is unknown: choose one of {choices}.")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; a tuple's items are checked too."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_is(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(item, arguments[0]) for item in value)
    if origin is not None or not isinstance(kind, type):
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def build(cls: type, values: Values, where: str) -> Any:
    """Makes a dataclass of a config's values.

    Args:
        cls: the dataclass; its annotations say what each key must be.
        values: the config's keys; a list stands for a tuple.
        where: the config key that the values stand under, to name in errors.

    Raises:
        UsageError: if a key is unknown or missing, or a value is not of its type or range.
    """
    kinds = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for key, value in values.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=3)
            choices = ", ".join([*close, *sorted(set(fields) - set(close))]) or "none"
            raise UsageError(
                f"{where}.{key} is not used by {cls.__name__}: its keys are {choices}."
            )
        if not _is(value, kinds[key]):
            kind = fields[key].type
            name = kind.__name__ if isinstance(kind, type) else kind
            raise UsageError(f"{where}.{key} = {value!r} must be {name}.")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"{where}.{name} is missing: give it a value.")
    try:
        return cls(**values)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{where}: {error}.") from error


def choose(table: Mapping[str, type], values: Values, where: str, **parts: Any) -> Any:
    """Makes the class that `values["name"]` names in a table, of the other values.

    Args:
        table: classes by name.
        values: the config's keys, `name` among them.
        where: the config key that the values stand under.
        **parts: fields that have been made already.
    """
    values = dict(values)
    if "name" not in values:
        raise UsageError(f"{where}.name is missing: choose one of {', '.join(sorted(table))}.")
    cls = table[one_of(values.pop("name"), table, f"{where}.name")]
    return build(cls, values | parts, where)


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
    """

    source: Source
    batch_size: int
    eval_batch_size: int = 512
    train_split: str = "train"
    test_split: str = "test"
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    filter: str = "bicubic"

    def __post_init__(self):
        check_filter(self.filter)
        if self.eval_batch_size < 1:
            raise ValueError("eval_batch_size must be 1 or more")


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """One network of a stage: `config.stages.STAGE.networks.ROLE`.

    Attributes:
        name: architecture; None takes that of `init_from`.
        options: of the architecture, as `kd_jax.models.create` takes them.
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
    frozen: bool = False
    init_from: str | None = None
    init_role: str = "student"
    init_checkpoint: str = "last"

    def __post_init__(self):
        if self.init_checkpoint not in ("last", "best"):
            raise ValueError("init_checkpoint must be 'last' or 'best'")
        if self.init_from is None and (self.frozen or self.name is None):
            needs = "a frozen network" if self.frozen else "a network without a name"
            raise ValueError(f"{needs} needs init_from, the stage that its weights come from")


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One stage: `config.stages.STAGE`.

    Attributes:
        networks: by role; the roles are the method's.
        method: what is minimised.
        optimizers: by group: `default`, or a role's name, or `adapters`.
        epochs: length; a fraction is rounded to steps, one at least.
        evaluate_every: epochs between evaluations.
    """

    networks: dict[str, NetworkSpec]
    method: Method
    optimizers: dict[str, Optimizer]
    epochs: float
    evaluate_every: float = 1.0

    def __post_init__(self):
        roles = self.method.roles
        if set(self.networks) != set(roles):
            raise ValueError(
                f"the networks are {', '.join(sorted(self.networks))}, but"
                f" {type(self.method).__name__} needs {', '.join(roles)}"
            )
        if self.networks["student"].frozen:
            raise ValueError("networks.student.frozen is set, but a stage trains its student")
        groups = {"default", "adapters", *self.trained}
        for group in self.optimizers:
            if group not in groups:
                raise ValueError(
                    f"optimizers.{group} is not used: the groups are {', '.join(sorted(groups))}"
                )
        if "default" not in self.optimizers:
            raise ValueError("optimizers.default is missing")
        if not (self.epochs > 0 and self.evaluate_every > 0):
            raise ValueError("epochs and evaluate_every must be greater than 0")

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


def _stage(values: Values, where: str) -> StageSpec:
    def each(key, make):
        group = _mapping(values.get(key, {}), f"{where}.{key}")
        return {
            name: make(_mapping(item, f"{where}.{key}.{name}"), f"{where}.{key}.{name}")
            for name, item in group.items()
        }

    parts = {
        "networks": each("networks", lambda v, w: build(NetworkSpec, v, w)),
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
    parts: dict[str, Any] = {
        "source": choose(SOURCES, _mapping(data.pop("source", {}), "data.source"), "data.source")
    }
    if "augmentation" in data:
        augmentation = _mapping(data.pop("augmentation"), "data.augmentation")
        parts["augmentation"] = build(Augmentation, augmentation, "data.augmentation")
    stages = _mapping(config.get("stages", {}), "stages")
    return build(
        Experiment,
        {
            **config,
            "data": build(DataSpec, data | parts, "data"),
            "stages": {
                name: _stage(_mapping(values, f"stages.{name}"), f"stages.{name}")
                for name, values in stages.items()
            },
        },
        "config",
    )
