"""Helpers for config files: their argument, their parts, and how they are found."""

import pytest
from ml_collections import ConfigDict

from kd_jax.core.errors import UsageError
from kd_jax.experiment.config_files import (
    face_source,
    find_config,
    from_stage,
    load_config,
    packaged_configs,
    parse_argument,
    sibling,
    stage,
)
from kd_jax.experiment.recipes import RECIPES
from kd_jax.experiment.specs import experiment

DEFAULTS = {"student": "resnet18", "resolution": 16, "width": 1.0, "baselines": False}


def test_values_take_the_type_of_their_default():
    arg = parse_argument("student=vgg11,width=2,baselines=true,smoke", **DEFAULTS)
    assert vars(arg) == {
        "student": "vgg11",
        "resolution": 16,
        "width": 2.0,
        "baselines": True,
        "smoke": True,
    }
    assert type(arg.width) is float
    assert vars(parse_argument(None, **DEFAULTS)) == {**DEFAULTS, "smoke": False}
    assert vars(parse_argument("", **DEFAULTS)) == {**DEFAULTS, "smoke": False}


def test_a_tuple_lists_the_choices_of_a_value():
    assert parse_argument(None, method=("horkd", "kd")).method == "horkd"
    assert parse_argument("method=kd", method=("horkd", "kd")).method == "kd"


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("resoluton=8", "'resoluton' is unknown: choose one of resolution, "),
        ("resolution=low", "resolution='low' must be int"),
        ("baselines=yes", "must be bool"),
        ("student", "'student' needs a value"),
        ("method=kdd", "argument method = 'kdd' is unknown: choose one of kd, horkd"),
    ],
)
def test_a_bad_argument_is_named(argument, says):
    with pytest.raises(UsageError, match=says):
        parse_argument(argument, method=("horkd", "kd"), **DEFAULTS)


def test_stages_share_no_part():
    optimizers = RECIPES["ekd"].optimizers("resnet8", 100)
    student = {"name": "resnet8"}
    made = stage(
        {"name": "kd"}, optimizers, 100, teacher=from_stage("one"), student=student, best="x"
    )
    assert made["networks"] == {"teacher": {"init_from": "one"}, "student": student}
    assert made["networks"]["student"] is not student
    assert made["optimizers"] == optimizers
    assert made["optimizers"]["default"] is not optimizers["default"]
    assert (made["epochs"], made["best"]) == (100, "x")


def test_a_source_of_faces():
    assert face_source("there", size=(4, 3)) == {
        "name": "face_folder",
        "path": "there",
        "size": (4, 3),
    }


CONFIG = "from ml_collections import ConfigDict\n"


def test_a_config_is_a_path_or_comes_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"quickstart", "horkd/cifar100"} <= set(packaged_configs())
    assert find_config("quickstart") == find_config("configs/quickstart.py")
    assert load_config("quickstart").experiment == "quickstart"
    assert load_config("quickstart:method=kd").stages.student.method.name == "kd"
    (tmp_path / "mine.py").write_text(
        f"{CONFIG}def get_config():\n  return ConfigDict(dict(a=1))\n"
    )
    assert load_config("mine.py").a == 1
    assert load_config(str(tmp_path / "mine.py")) == ConfigDict({"a": 1})
    (tmp_path / "quickstart").write_text(f"{CONFIG}def get_config():\n  return ConfigDict()\n")
    assert load_config("quickstart") == ConfigDict()  # a file of this name comes first


def test_a_packaged_config_is_a_whole_experiment():
    spec = experiment(load_config("quickstart:smoke").to_dict())
    assert spec.pipeline[:2] == ("teacher", "assistant")
    assert {stage.epochs for stage in spec.stages.values()} == {1}


def test_definitions_of_a_file_in_the_same_folder(tmp_path):
    (tmp_path / "one.py").write_text("SIZE = 3\n")
    assert sibling(str(tmp_path / "two.py"), "one.py").SIZE == 3


@pytest.mark.parametrize(
    ("text", "reference", "says"),
    [
        ("", "none.py", "--config=none.py is no file, and no config of the package: .* quickstart"),
        ("", "mine.py", r"--config=mine.py cannot be read \(KeyError"),
        ("x = = 1", "mine.py", "cannot be read .SyntaxError"),
        ("def get_config(): return 1 / 0", "mine.py", "cannot be read .ZeroDivisionError"),
        ("def get_config(): return {}", "mine.py", "must return a ConfigDict, not dict: end it"),
        ("def get_config(): pass", "mine.py", "get_config must return a ConfigDict, not None"),
        ("def get_config(): assert False", "mine.py", r"\(AssertionError in line 1 of mine\.py\)"),
        ("raise ValueError('one\\n two')", "mine.py", r"cannot be read \(ValueError: one two\)"),
        ("raise SystemExit(3)", "mine.py", r"cannot be read \(SystemExit: 3\)"),
        ("def get_config(): return {}", "mine.py:smoke", "mine.py:smoke cannot be read .TypeError"),
        ("", "quickstart:smok", "'smok' is unknown: choose one of smoke"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch, text, reference, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=says) as error:
        load_config(reference)
    assert len(str(error.value).splitlines()) == 1
