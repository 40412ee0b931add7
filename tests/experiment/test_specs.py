"""The specification of an experiment: its checks, its derived values, and its errors."""

import re

import pytest
import small_config
from small_config import changed

from kd_jax.core.errors import UsageError
from kd_jax.experiment.specs import experiment
from kd_jax.methods import HORKD
from kd_jax.training import OPTIMIZERS
from kd_jax.training.optimizers import Cosine

TEACHER, STUDENT = "stages.teacher", "stages.student"
HIGH, LOW = f"{STUDENT}.networks.teacher", f"{STUDENT}.networks.student"
SGD = {"name": "sgd", "learning_rate": 0.1}


def test_a_config_becomes_typed_specifications():
    spec = experiment(changed({}))
    student = spec.stages["student"]
    assert student.method == HORKD(feature_weight=0.1, pair_weight=1.0, triplet_weight=0.0)
    sgd = OPTIMIZERS.get("sgd")
    assert student.optimizers["default"] == sgd(learning_rate=0.05, momentum=0.9, schedule=Cosine())
    assert student.trained == ("student",)
    assert student.groups == ["adapters", "default", "student"]
    assert student.sources == ("teacher",)


def test_lists_are_tuples_and_integers_are_floats():
    step = {"name": "step", "milestones": [1, 2]}
    spec = experiment(
        changed({f"{TEACHER}.optimizers.default.schedule": step, f"{TEACHER}.epochs": 1})
    )
    assert spec.stages["teacher"].optimizers["default"].schedule.milestones == (1, 2)


# ------------------------------------------------------------------------------- derived values


def chain(**sources):
    """Returns a config of supervised stages, each of which starts from the stages of its value."""
    config = changed({})
    first = config["stages"]["teacher"]
    config["stages"] = {
        name: {**first, "networks": {"student": {"name": "tiny", "init_from": source}}}
        for name, source in sources.items()
    }
    return config


@pytest.mark.parametrize(
    ("sources", "order"),
    [
        ({"a": None, "b": None}, ("a", "b")),
        ({"b": None, "a": None}, ("b", "a")),
        ({"last": "middle", "middle": "first", "first": None}, ("first", "middle", "last")),
        ({"b": "a", "c": None, "a": None}, ("c", "a", "b")),
        ({"a": "/folder/of/another/run"}, ("a",)),
    ],
)
def test_the_pipeline_follows_from_the_sources(sources, order):
    assert experiment(chain(**sources)).pipeline == order


def test_a_given_pipeline_stays():
    config = chain(a=None, b=None, c="a")
    config["pipeline"] = ["b", "a", "c"]
    assert experiment(config).pipeline == ("b", "a", "c")


def test_adapters_decide_the_pipeline_too():
    config = chain(a=None, b=None)
    config["stages"]["a"]["adapters_from"] = "b"
    assert experiment(config).pipeline == ("b", "a")


@pytest.mark.parametrize(
    "sources", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "a"}]
)
def test_a_circle_is_refused(sources):
    says = f"The stages {', '.join(sorted(sources))} start from one another in a circle"
    with pytest.raises(UsageError, match=says):
        experiment(chain(**sources))


def test_frozen_follows_the_method():
    config = changed({f"{HIGH}.frozen": True})
    assert experiment(config).stages["student"].trained == ("student",)
    config = small_config.online_config().to_dict()
    assert set(experiment(config).stages["ekd"].trained) == {"teacher", "student"}
    config["stages"]["ekd"]["method"]["evolving"] = False
    config["stages"]["ekd"]["networks"]["teacher"] = {"init_from": "/there"}
    assert experiment(config).stages["ekd"].trained == ("student",)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        # keys and types
        ("sed", 1, "sed is not used by Experiment: its keys are seed,"),
        ("seed", "1", "seed = '1' must be int"),
        ("data", ..., "data is missing"),
        ("data", {}, "data.source is missing"),
        ("data.batch_size", ..., "data.batch_size is missing"),
        ("data.source", {}, "data.source.name is missing: choose one of cars196, class_folders"),
        ("data.source.name", "digit", "source.name = 'digit' is unknown: choose one of digits"),
        ("data.augmentation.flp", True, "data.augmentation.flp is not used"),
        ("data.augmentation", 3, "data.augmentation = 3 must be a dictionary"),
        (f"{LOW}.width", 2.0, "width is not used by NetworkSpec"),
        (f"{STUDENT}.method.temperature", 4.0, "method.temperature is not used by HORKD"),
        (f"{STUDENT}.optimizers.default.name", "adamv", "default.name = 'adamv' is unknown"),
        (f"{STUDENT}.optimizers.default.b1", 0.9, "default.b1 is not used by sgd"),
        (f"{STUDENT}.optimizers.default.learning_rate", "fast", "'fast' must be float"),
        (f"{STUDENT}.evaluators", {"near": {"name": "nearest"}}, "near.name = 'nearest'"),
        (f"{LOW}.degradation", {"share": 1}, "degradation.share is not used"),
        # ranges and choices, with the key of the part
        ("data.eval_batch_size", 0, "data: eval_batch_size must be 1 or more"),
        ("data.validation_fraction", 1.0, "data: validation_fraction must be"),
        ("data.augmentation.crop_padding", -1, "data.augmentation: crop_padding must be 0 or more"),
        ("execution", "pmp", "execution = 'pmp' is unknown: choose one of pmap, jit"),
        ("seed", -1, "seed must be at least 0"),
        ("data.normalization", {"mean": [0.5], "std": [0.0]}, "normalization.std must be greater"),
        ("data.normalization", {"mean": [127], "std": [0.5]}, "normalization.mean must be on the"),
        (f"{LOW}.options", {"dtype": "float64"}, "options.dtype = 'float64' needs the setting"),
        (
            f"{TEACHER}.method",
            {"name": "supervised", "loss": "a_softmax", "options": {"gamma": "x"}},
            "method.options.gamma = 'x' must be float",
        ),
        ("checkpoint_minutes", 0.0, "checkpoint_minutes must be greater than 0"),
        ("stages", {}, "stages must not be empty"),
        (f"{STUDENT}.method.pair_weight", -1.0, "pair_weight must be 0 or more"),
        (f"{STUDENT}.method.reduction", "max", "student.method: reduction = 'max' is unknown"),
        (f"{STUDENT}.epochs", 0.0, "epochs must be greater than 0 and finite"),
        (f"{STUDENT}.accumulate", 0, "accumulate must be 1 or more, not 0"),
        (f"{STUDENT}.ema_decay", 1.0, "at least 0 and less than 1, such as 0.999, not 1.0"),
        (f"{TEACHER}.epochs", float("inf"), "epochs = inf must be a finite number"),
        (f"{TEACHER}.optimizers.default.warmup_epochs", -1.0, "warmup_epochs must be 0 or more"),
        (f"{TEACHER}.optimizers.default.warmup_epochs", 9.0, "warmup_epochs must be at most"),
        (f"{TEACHER}.optimizers.default.momentum", 9.0, "momentum must be at least 0"),
        (f"{TEACHER}.optimizers.default.clip_norm", -1.0, "clip_norm must be greater than 0"),
        (f"{STUDENT}.evaluators", {"a/b": {"name": "retrieval"}}, "name is letters, digits and _"),
        (f"{STUDENT}.evaluators", {"near": {"name": "retrieval", "split": "tst"}}, "split = 'tst'"),
        # stages and their order
        ("pipeline", ["teacher", "studnt"], "pipeline = 'studnt' is unknown: choose one of"),
        ("pipeline", ["teacher"], "stages.student is not used: add 'student' to pipeline"),
        ("pipeline", ["student", "teacher"], "starts from 'teacher', which does not run before it"),
        ("pipeline", ["teacher", "teacher", "student"], "pipeline must name every stage once"),
        # networks
        (HIGH, ..., "HORKD needs teacher, student"),
        (f"{STUDENT}.networks.third", {"name": "tiny"}, "HORKD needs teacher, student"),
        (f"{LOW}.frozen", True, "student.frozen must be False for HORKD"),
        (f"{HIGH}.frozen", False, "teacher.frozen must be True for HORKD"),
        (HIGH, {"name": "tiny"}, "teacher is frozen in HORKD: set"),
        (f"{HIGH}.init_role", "assistant", "'assistant' is not trained by"),
        (f"{LOW}.init_role", "teacher", "not used without init_from"),
        (f"{LOW}.init_head", False, "not used without init_from"),
        (f"{LOW}.init_checkpoint", "best", "not used without init_from"),
        (f"{HIGH}.init_checkpoint", "bst", "init_checkpoint = 'bst' is unknown"),
        (f"{LOW}.remat", "block", "remat = 'block' is unknown: choose one of blocks"),
        (f"{HIGH}.remat", "blocks", "teacher is frozen in HORKD and has no backward pass"),
        (f"{LOW}.options", {"axis_name": "x"}, "axis_name is set by the run"),
        (f"{LOW}.options", {"num_classes": 2}, "num_classes is set by the run"),
        (f"{TEACHER}.networks.student.name", ..., "a network without a name needs init_from"),
        # optimizers
        (f"{STUDENT}.optimizers", {}, "optimizers.default is missing"),
        (f"{STUDENT}.optimizers", {"default": SGD, "third": SGD}, "optimizers.third is not used"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_key(key, value, says):
    with pytest.raises(UsageError, match=re.escape(says)) as error:
        experiment(changed({key: value}))
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("method", "used"),
    [
        ({}, False),  # the guided modules are in the groups of their networks
        ({"evolving": False}, True),  # those of a network that is not trained are not
        ({"evolving": False, "teacher_modules": 0}, False),
    ],
)
def test_an_optimizer_of_adapters_that_do_not_exist_is_refused(method, used):
    values = small_config.online_config().to_dict()
    stage = values["stages"]["ekd"]
    stage["method"] |= method
    stage["optimizers"]["adapters"] = SGD
    if "evolving" in method:
        stage["networks"]["teacher"] = {"init_from": "/there", "frozen": True}
    if used:
        assert "adapters" in experiment(values).stages["ekd"].optimizers
        return
    groups = "default, student" + ("" if method else ", teacher")
    says = f"optimizers.adapters is not used by .*EKD: leave it out.* groups {groups}"
    with pytest.raises(UsageError, match=says):
        experiment(values)


@pytest.mark.parametrize("name", ["..", "a/b", "results.json", ""])
def test_a_stage_is_a_plain_folder_name(name):
    values = changed({})
    values["stages"][name] = values["stages"]["teacher"]
    with pytest.raises(UsageError, match="the name of a stage is letters, digits, _ and -"):
        experiment(values)
