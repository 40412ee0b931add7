"""Keys of a configuration: set from the command line, and listed."""

import re

import pytest
import small_config
import small_faces

from kd_jax.core.errors import UsageError
from kd_jax.data import SOURCES
from kd_jax.evaluation import EVALUATORS
from kd_jax.experiment.building import to_config
from kd_jax.experiment.keys import describe, describe_keys, override
from kd_jax.experiment.specs import Experiment, experiment
from kd_jax.methods import METHODS
from kd_jax.training import OPTIMIZERS, SCHEDULES

TEACHER, STUDENT = "stages.teacher", "stages.student"
MINIMAL = {
    "experiment": "minimal",
    "data": {"source": {"name": "digits"}, "batch_size": 16},
    "stages": {
        "teacher": {
            "networks": {"student": {"name": "tiny"}},
            "method": {"name": "supervised"},
            "optimizers": {"default": {"name": "sgd", "learning_rate": 0.1}},
            "epochs": 1,
        },
        "student": {
            "networks": {"teacher": {"init_from": "teacher"}, "student": {"name": "tiny"}},
            "method": {"name": "horkd"},
            "optimizers": {"default": {"name": "sgd", "learning_rate": 0.1}},
            "epochs": 1,
        },
    },
}
"""A config in which only required keys are spelled."""


def values_of(spec):
    """Returns the value of every key."""
    return {option.key: option.value for option in describe(spec)}


def overridden(config, *assignments):
    """Returns the specification after `KEY=VALUE` assignments."""
    pairs = dict(text.split("=", 1) for text in assignments)
    return experiment(override(Experiment, config, pairs))


def spelled():
    return to_config(experiment(MINIMAL))


@pytest.mark.parametrize("config", [MINIMAL, spelled()], ids=["unspelled", "spelled"])
def test_every_key_can_be_set(config):
    spec = experiment(config)
    for key, value in values_of(spec).items():
        assert overridden(config, f"{key}={value}") == spec, key


@pytest.mark.parametrize("config", [MINIMAL, spelled()], ids=["unspelled", "spelled"])
@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "3", 3),
        ("experiment", "mine", "mine"),
        ("experiment", "12", "12"),
        ("experiment", "None", "None"),
        ("num_devices", "2", 2),
        ("num_devices", "None", None),
        ("checkpoint_minutes", "1", 1),
        ("pipeline", "teacher,student", ["teacher", "student"]),
        ("pipeline", "('teacher', 'student')", ["teacher", "student"]),
        ("imports", "mine.py", ["mine.py"]),
        ("data.batch_size", "8", 8),
        ("data.stream", "true", True),
        ("data.stream", "False", False),
        ("data.validation_fraction", "2.5e-1", 0.25),
        ("data.augmentation.flip", "true", True),
        ("data.normalization", "{'mean': (0.5,), 'std': [0.25]}", None),
        (f"{TEACHER}.optimizers.default.momentum", "0.9", 0.9),
        (f"{TEACHER}.optimizers.default.momentum", "none", None),
        (f"{TEACHER}.optimizers.default.nesterov", "true", True),
        (f"{TEACHER}.optimizers.default.clip_norm", "1.5", 1.5),
        (f"{TEACHER}.optimizers.default.schedule.name", "cosine", "cosine"),
        (f"{STUDENT}.networks.student.options", "{'width': 2.0}", {"width": 2.0}),
        (f"{STUDENT}.networks.student.options.width", "2.0", {"width": 2.0}),
        (f"{STUDENT}.networks.student.options.dtype", "bfloat16", {"dtype": "bfloat16"}),
        (f"{STUDENT}.networks.teacher.resolution", "4", 4),
        (f"{STUDENT}.networks.teacher.init_role", "student", "student"),
        (f"{STUDENT}.networks.student.degradation.sizes", "3,5", [3, 5]),
        (f"{STUDENT}.networks.student.degradation.sizes", "3", [3]),
        (f"{STUDENT}.method.reduction", "sum", "sum"),
        (f"{STUDENT}.method.pair_weight", "2", 2),
        (f"{STUDENT}.evaluators.near.name", "retrieval", "retrieval"),
        (f"{STUDENT}.best", "-cross_entropy", "-cross_entropy"),
        (f"{STUDENT}.adapters_from", "/somewhere", "/somewhere"),
        (f"{STUDENT}.epochs", "0.5", 0.5),
    ],
)
def test_a_text_becomes_a_value_of_the_type_of_its_key(config, key, text, value):
    found = values_of(overridden(config, f"{key}={text}"))
    if ".options." in key:
        key = key.rpartition(".")[0]
    if key == "data.normalization":
        assert (found[f"{key}.mean"], found[f"{key}.std"]) == ([0.5], [0.25])
        return
    assert found[key] == value
    assert type(found[key]) is type(value)
    part = key.replace(".degradation.sizes", ".degradation").replace(".near.name", "")
    for other, before in values_of(experiment(config)).items():
        assert other.startswith(part) or found[other] == before


@pytest.mark.parametrize(
    "assignments",
    [
        [STUDENT + ".method.pair_weight={'end': 1.0, 'epochs': 2.0}"],
        [STUDENT + ".method.pair_weight.end=1.0", STUDENT + ".method.pair_weight.epochs=2.0"],
    ],
)
def test_a_weight_becomes_a_ramp(assignments):
    found = values_of(overridden(MINIMAL, *assignments))
    weight = {key.rpartition(".")[2]: value for key, value in found.items() if "pair_weight" in key}
    assert weight == {
        "end": 1.0,
        "epochs": 2.0,
        "start": 0.0,
        "per_epoch": False,
        "shape": "linear",
    }


def test_an_own_normalization_needs_both_values():
    both = ["data.normalization.mean=0.5", "data.normalization.std=0.25,0.5"]
    found = values_of(overridden(MINIMAL, *both))
    assert (found["data.normalization.mean"], found["data.normalization.std"]) == (
        [0.5],
        [0.25, 0.5],
    )
    with pytest.raises(UsageError, match=r"data\.normalization\.std is missing"):
        overridden(MINIMAL, both[0])


def test_a_new_name_of_a_choice_drops_the_keys_that_it_does_not_have(tmp_path):
    faces = small_faces.get_config(tmp_path)
    spec = overridden(faces, "data.source.path=/there", "data.source.name=folder")
    kept = {"name": "folder", "path": "/there", "fit": None}
    assert to_config(spec)["data"]["source"] == kept
    config = small_config.get_config().to_dict()
    key = f"{TEACHER}.optimizers.default"
    spec = overridden(config, f"{key}.name=adamw", f"{key}.b2=0.99", f"{key}.schedule.final=0.1")
    assert spec.stages["teacher"].optimizers["default"] == OPTIMIZERS.get("adamw")(
        learning_rate=0.05, b2=0.99, schedule=spec.stages["teacher"].optimizers["default"].schedule
    )
    assert values_of(spec)[f"{key}.schedule.final"] == 0.1


def test_an_override_changes_one_stage_only():
    """The stages of the config file share their optimizers."""
    config = small_config.get_config().to_dict()
    assert config["stages"]["teacher"]["optimizers"] is config["stages"]["student"]["optimizers"]
    spec = overridden(config, f"{TEACHER}.optimizers.default.learning_rate=0.01")
    rates = {name: stage.optimizers["default"].learning_rate for name, stage in spec.stages.items()}
    assert rates == {"teacher": 0.01, "student": 0.05}
    assert override(Experiment, config, {"seed": "5"}) is not config
    assert "seed" not in config


def test_a_new_optimizer_group_in_any_order():
    key = f"{STUDENT}.optimizers.student"
    assignments = [f"{key}.learning_rate=0.2", f"{key}.schedule.name=cosine", f"{key}.name=lion"]
    optimizer = overridden(MINIMAL, *assignments).stages["student"].optimizers["student"]
    assert type(optimizer) is OPTIMIZERS.get("lion")
    assert optimizer.learning_rate == 0.2
    assert type(optimizer.schedule).__name__ == "Cosine"


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("sed=1", "sed is not used by Experiment: its keys are seed, "),
        ("data.batchsize=1", "data.batchsize is not used by DataSpec: its keys are batch_size, "),
        ("data.source.path=x", "data.source.path is not used by Digits: its keys are none"),
        ("data.source.name=digit", "data.source.name = 'digit' is unknown: choose one of digits, "),
        ("data.source=digits", "data.source = 'digits' must be a dictionary"),
        ("data.batch_size=x", "data.batch_size = 'x' must be int"),
        ("data.batch_size=8.0", "data.batch_size = 8.0 must be int"),
        ("data.stream=1", "data.stream = 1 must be bool"),
        ("data.batch_size.x=1", "data.batch_size is a single value: it has no key 'x'"),
        ("pipeline=1", "pipeline = (1,) must be a list of str"),
        (
            "stages.studnt.epochs=1",
            "stages has no entry 'studnt': its entries are student, teacher",
        ),
        (f"{TEACHER}.optimizers.default.moment=0", "moment is not used by sgd"),
        (f"{TEACHER}.optimizers.student.learning_rate=1", "new one begins with --config."),
        (f"{TEACHER}.optimizers.default.schedule.final=1", "schedule.name is missing: set it"),
        (f"{STUDENT}.method.pair_weight.end=1", "method.pair_weight.epochs is missing"),
        (f"{STUDENT}.method.pair_weight=much", "pair_weight = 'much' must be a dictionary"),
    ],
)
def test_what_cannot_be_set_is_named_with_its_key(assignment, says):
    with pytest.raises(UsageError) as error:
        overridden(MINIMAL, assignment)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_new_stage_has_no_advice_on_a_name():
    with pytest.raises(UsageError) as error:
        overridden(MINIMAL, "stages.studnt.name=x")
    assert ".name=NAME" not in str(error.value)


def described(options):
    options = list(options)
    keys = [option.key for option in options]
    assert len(keys) == len(set(keys))
    return {option.key: option.text for option in options}


def test_all_keys_of_a_configuration_are_described_once(tmp_path):
    for config in (MINIMAL, small_faces.get_config(tmp_path)):
        texts = described(describe(experiment(config)))
        optax = set(vars(OPTIMIZERS.get("sgd")(learning_rate=1.0))) - {"learning_rate"}
        for key, text in texts.items():
            assert text or key.rpartition(".")[2] in optax, key
            assert "\n" not in text
    assert texts["stages.student.method.temperature"].startswith("T, at which")
    assert texts["seed"] == "seed of everything random."


@pytest.mark.parametrize(
    "registry", [EVALUATORS, METHODS, SCHEDULES, SOURCES], ids=lambda r: r.kind
)
def test_every_entry_describes_its_options(registry):
    for name in registry.built_in():
        texts = described(describe_keys(registry.get(name)))
        assert all(texts.values()), (name, texts)


def test_all_keys_that_a_config_may_have_are_described_once():
    options = list(describe_keys(Experiment))
    texts = described(options)
    assert all(texts.values())
    defaults = {option.key: option.value for option in options}
    assert defaults["data.eval_batch_size"] == 512
    assert defaults["data.batch_size"] == "required"
    assert "One of" in texts["stages.NAME.method.name"]
    assert "horkd" in texts["stages.NAME.method.name"]
    for key in values_of(experiment(MINIMAL)):
        generic = re.sub(r"(stages|networks|optimizers)\.\w+", r"\1.NAME", key)
        behind_a_choice = re.search(r"\.(method|default|schedule)\.(?!name$)", key)
        if not behind_a_choice:
            assert any(known == generic or known.startswith(f"{generic}.") for known in texts), key
