import copy
import re

import pytest
import small_config

from kd_jax.config import experiment
from kd_jax.errors import UsageError
from kd_jax.methods import HybridOrder
from kd_jax.training.optimizers import Cosine, Sgd


def changed(key, value):
    """The small config with one key set, or taken out by `...`."""
    values = copy.deepcopy(small_config.get_config().to_dict())
    *path, last = key.split(".")
    place = values
    for name in path:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return values


def test_a_config_becomes_typed_specifications():
    spec = experiment(small_config.get_config().to_dict())
    student = spec.stages["student"]
    assert student.method == HybridOrder(feature_weight=0.1, pair_weight=1.0)
    assert student.optimizers["default"] == Sgd(learning_rate=0.05, schedule=Cosine())
    assert student.trained == ("student",)
    assert spec.pipeline == ("teacher", "student")


def test_lists_stand_for_tuples_and_integers_for_floats():
    step = {"name": "step", "milestones": [1, 2]}
    spec = experiment(changed("stages.teacher.optimizers.default.schedule", step))
    assert spec.stages["teacher"].optimizers["default"].schedule.milestones == (1, 2)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("sed", 1, "config.sed is not used by Experiment: its keys are seed,"),
        ("seed", "1", "config.seed = '1' must be int"),
        ("seed", True, "config.seed = True must be int"),
        (
            "data",
            ...,
            "data.source.name is missing: choose one of digits, face_folder",
        ),
        ("data.batch_size", ..., "data.batch_size is missing"),
        (
            "data.source.name",
            "digit",
            "data.source.name = 'digit' is unknown: choose one of digits",
        ),
        ("data.source.path", "x", "data.source.path is not used by Digits: its keys are none"),
        ("data.filter", "cubic", "data: filter 'cubic' is unknown"),
        ("data.eval_batch_size", 0, "eval_batch_size must be 1 or more"),
        ("data.augmentation.flp", True, "data.augmentation.flp is not used"),
        ("data.augmentation.crop_padding", -1, "crop_padding must be 0 or more"),
        ("data.augmentation", 3, "data.augmentation = 3 must be a dictionary"),
        ("execution", "pmp", "execution = 'pmp' is unknown: choose one of pmap, jit"),
        (
            "pipeline",
            ("teacher", "studnt"),
            "pipeline = 'studnt' is unknown: choose one of student",
        ),
        ("pipeline", ("teacher",), "stages.student is not used: add 'student' to pipeline"),
        ("pipeline", ("student", "teacher"), "init_from = 'teacher' runs no earlier"),
        ("pipeline", ("teacher", "teacher"), "pipeline must name every stage at most once"),
        ("stages.student.method.name", "horkd", "method.name = 'horkd' is unknown"),
        ("stages.student.method", {}, "stages.student.method.name is missing"),
        ("stages.student.method.temperature", 4.0, "temperature is not used by HybridOrder"),
        ("stages.student.method.pair_weight", -1.0, "pair_weight must be 0 or more, not -1.0"),
        ("stages.student.method.reduction", "max", "reduction must be one of 'mean', 'sum'"),
        ("stages.student.epochs", 0.0, "epochs and evaluate_every must be greater than 0"),
        ("stages.student.networks.teacher", ..., "HybridOrder needs teacher, student"),
        ("stages.student.networks.student.frozen", True, "a frozen network needs init_from"),
        ("stages.student.networks.teacher.frozen", False, "frozen must be True for HybridOrder"),
        ("stages.student.networks.teacher.init_role", "assistant", "'assistant' is not trained by"),
        ("stages.student.networks.student.init_role", "teacher", "not used without init_from"),
        ("stages.student.networks.student.options", {"axis_name": "x"}, "is set by the run"),
        ("seed", -1, "seed must be 0 or more"),
        ("checkpoint_minutes", 0.0, "checkpoint_minutes greater than 0"),
        ("stages.teacher.epochs", float("inf"), "epochs finite"),
        ("stages.teacher.optimizers.default.warmup_epochs", -1.0, "warmup_epochs and weight_decay"),
        ("stages.teacher.optimizers.default.momentum", 9.0, "momentum must be at least 0"),
        ("stages.student.networks.student.width", 2.0, "width is not used by NetworkSpec"),
        ("stages.student.networks.teacher.init_checkpoint", "bst", "must be 'last' or 'best'"),
        ("stages.teacher.networks.student.name", ..., "a network without a name needs init_from"),
        ("stages.student.optimizers.default", ..., "optimizers.default is missing"),
        ("stages.student.optimizers.assistant", {"name": "sgd", "learning_rate": 1.0}, "assistant"),
        ("stages.student.optimizers.default.name", "adamw", "name = 'adamw' is unknown"),
        ("stages.student.optimizers.default.b1", 0.9, "b1 is not used by Sgd"),
        ("stages.student.optimizers.default.schedule.milestones", (1,), "not used by Cosine"),
        ("stages.student.optimizers.default.learning_rate", "fast", "'fast' must be float"),
    ],
)
def test_what_is_wrong_is_named_with_its_key_and_the_remedy(key, value, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        experiment(changed(key, value))


@pytest.mark.parametrize(
    ("method", "used"),
    [
        ({}, False),  # the guided modules are in the groups of their networks
        ({"evolving": False}, True),  # those of a network that is not trained are not
        ({"evolving": False, "teacher_modules": 0}, False),
    ],
)
def test_an_optimizer_of_adapters_that_there_are_not_is_refused(method, used):
    values = small_config.online_config().to_dict()
    stage = values["stages"]["ekd"]
    stage["method"] |= method
    stage["optimizers"]["adapters"] = {"name": "sgd", "learning_rate": 0.1}
    if "evolving" in method:
        stage["networks"]["teacher"] = {"init_from": "/there", "frozen": True}
    if used:
        assert "adapters" in experiment(values).stages["ekd"].optimizers
        return
    groups = "default, student" + ("" if method else ", teacher")
    says = f"optimizers.adapters is not used by .*Evolutionary: leave it out.* groups {groups}"
    with pytest.raises(UsageError, match=says):
        experiment(values)


@pytest.mark.parametrize("name", ["..", "a/b", "results.json", ""])
def test_a_stage_is_a_plain_folder_name(name):
    values = small_config.get_config().to_dict()
    values["stages"][name] = values["stages"]["teacher"]
    with pytest.raises(UsageError, match="a stage's name is letters, digits, _ and -"):
        experiment(values)
