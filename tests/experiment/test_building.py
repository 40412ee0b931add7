"""Specifications and plain values: to build, to write out, to set and to list them."""

import dataclasses
from typing import Annotated, Any

import pytest
import small_config
import small_faces

from kd_jax.core.errors import UsageError
from kd_jax.core.registry import Registry
from kd_jax.experiment.building import build, to_config
from kd_jax.experiment.config_files import load_config
from kd_jax.experiment.specs import experiment
from kd_jax.methods import METHODS, Ramp

SMALL = small_config.get_config().to_dict()


def rebuilt(spec):
    return build(type(spec), to_config(spec), "")


@pytest.mark.parametrize("name", ["small", "online", "faces"])
def test_what_is_written_out_is_built_again(tmp_path, name):
    configs = {
        "small": SMALL,
        "online": small_config.online_config().to_dict(),
        "faces": small_faces.get_config(tmp_path),
    }
    spec = experiment(configs[name])
    assert rebuilt(spec) == spec
    assert to_config(rebuilt(spec)) == to_config(spec)


@pytest.mark.parametrize("name", ["quickstart", "ekd/cifar100"])
def test_a_packaged_config_is_built_again(name):
    spec = experiment(load_config(name).to_dict())
    assert rebuilt(spec) == spec


def test_defaults_are_written_out():
    written = to_config(experiment(SMALL))
    assert written["data"]["filter"] == "bicubic"
    assert written["pipeline"] == ["teacher", "student"]
    assert written["stages"]["teacher"]["optimizers"]["default"]["nesterov"] is False
    assert written["stages"]["student"]["networks"]["teacher"]["init_checkpoint"] == "last"


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_has_a_default_for_every_option(name):
    method = METHODS.get(name)()
    assert rebuilt(method) == method


def test_a_ramp_is_built_of_its_keys():
    horkd = {"name": "horkd", "pair_weight": {"end": 1, "epochs": 2.0}}
    spec = experiment(small_config.changed({"stages.student.method": horkd}))
    assert spec.stages["student"].method.pair_weight == Ramp(end=1.0, epochs=2.0)
    assert rebuilt(spec) == spec


SHAPES: Registry[type] = Registry("shape")


@SHAPES.register("square")
@dataclasses.dataclass(frozen=True)
class Square:
    side: float


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 1

    def __post_init__(self):
        if self.size < 0:
            raise ValueError("size must be 0 or more")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner | None
    shape: Annotated[Square, SHAPES]
    names: tuple[str, ...] = ()
    several: dict[str, Inner] = dataclasses.field(default_factory=dict)
    free: dict[str, Any] = dataclasses.field(default_factory=dict)
    anything: Any = None


GOOD = {"inner": None, "shape": {"name": "square", "side": 2}}


def test_every_kind_of_value_is_built_and_written_out():
    values = {
        "inner": {"size": 2},
        "shape": {"name": "square", "side": 1.5},
        "names": ["a", "b"],
        "several": {"one": {"size": 3}},
        "free": {"x": {"y": [1, 2]}},
        "anything": "word",
    }
    spec = build(Outer, values, "")
    assert spec == Outer(
        Inner(2), Square(1.5), ("a", "b"), {"one": Inner(3)}, {"x": {"y": [1, 2]}}, "word"
    )
    assert to_config(spec) == values
    assert build(Outer, GOOD, "").inner is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"innr": 1}, "key.innr is not used by Outer: its keys are inner, "),
        ({"inner": 1}, "key.inner = 1 must be a dictionary"),
        ({"inner": {"size": 2.0}}, "key.inner.size = 2.0 must be int"),
        ({"inner": {"size": True}}, "key.inner.size = True must be int"),
        ({"inner": {"size": -1}}, "key.inner: size must be 0 or more."),
        ({"shape": {"side": 1.0}}, "key.shape.name is missing: choose one of square"),
        ({"shape": {"name": "square"}}, "key.shape.side is missing: give it a value"),
        ({"shape": {"name": "squre"}}, "key.shape.name = 'squre' is unknown: choose one of square"),
        ({"shape": None}, "key.shape = None must be a dictionary"),
        ({"names": "word"}, "key.names = 'word' must be a list of str"),
        ({"names": [1]}, "key.names = (1,) must be a list of str"),
        ({"several": {"one": {"size": "2"}}}, "key.several.one.size = '2' must be int"),
        ({"several": 3}, "key.several = 3 must be a dictionary"),
        ({"free": 3}, "key.free = 3 must be a dictionary"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(changes, says):
    with pytest.raises(UsageError) as error:
        build(Outer, GOOD | changes, "key")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (
            "seed",
            2**64,
            r"^seed = 18446744073709551616 must be greater than -2\*\*64 and less than",
        ),
        ("data.batch_size", 2**31, r"^data\.batch_size = 2147483648 must be .* less than 2\*\*31"),
        ("checkpoint_minutes", float("nan"), r"^checkpoint_minutes = nan must be a finite number"),
        ("checkpoint_minutes", 1e308, r"^checkpoint_minutes = 1e\+308 must be at most 3\.403e\+38"),
        ("experiment", "", "^experiment = '' must be one or more printable characters"),
        ("experiment", "a\0", r"^experiment = 'a.x00' must be one or more printable characters"),
        ("pipeline", "teacher", "^pipeline = 'teacher' must be a list of str"),
        ("stages", {1: {}}, "^stages has the key 1: each key must be a word"),
        (
            "stages.teacher.method",
            {"name": ["kd"]},
            r"^stages\.teacher\.method\.name must be one word",
        ),
        (
            "stages.teacher.networks.student.options",
            {"widths": [1.0, float("inf")]},
            r"^stages\.teacher\.networks\.student\.options\.widths = inf must be a finite number",
        ),
        (
            "stages.teacher.networks.student.options",
            {"width": object},
            r"options\.width = <class 'object'> must be made of numbers, words",
        ),
    ],
)
def test_values_that_no_run_can_use_are_refused_by_key(key, value, says):
    with pytest.raises(UsageError, match=says) as error:
        experiment(small_config.changed({key: value}))
    assert len(str(error.value).splitlines()) == 1


def test_a_number_that_python_does_not_print_is_refused():
    with pytest.raises(UsageError, match=r"^data\.batch_size = \(int\) must be"):
        experiment(small_config.changed({"data.batch_size": 10**5000}))


def test_a_config_is_a_dictionary():
    with pytest.raises(UsageError, match=r"^config = None must be a dictionary"):
        experiment(None)


def test_any_error_of_a_class_is_one_sentence():
    @dataclasses.dataclass
    class Broken:
        number: int

        def __post_init__(self):
            raise TypeError("one\n  two")

    with pytest.raises(UsageError, match=r"^key cannot be used \(TypeError: one two\): check"):
        build(Broken, {"number": 0}, "key")
