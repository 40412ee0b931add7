"""Descriptions of networks, as checkpoints store them."""

import dataclasses
import json

import jax.numpy as jnp
import pytest
import small_stage

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.pretrained import NetworkInfo

INFO = NetworkInfo("tiny", {"width": 2.0}, 5, (8, 6), "box", (0.5,), (0.25,), ("mine.py",))


def test_json_and_back():
    values = json.loads(json.dumps(dataclasses.asdict(INFO)))
    assert NetworkInfo.from_json(values) == INFO
    assert values["size"] == [8, 6]  # it is not changed


def test_descriptions_of_version_0_1():
    values = json.loads(json.dumps(dataclasses.asdict(INFO)))
    values["deviation"] = values.pop("std")
    del values["imports"]
    assert NetworkInfo.from_json(values) == dataclasses.replace(INFO, imports=())


def test_the_network_and_its_view():
    module = INFO.module()
    assert isinstance(module, small_stage.Tiny)
    assert (module.num_classes, module.width, module.axis_name) == (5, 2.0, None)
    assert INFO.module("data").axis_name == "data"
    assert INFO.view.size == (8, 6)
    assert INFO.view.normalization(jnp.full((1, 8, 6, 1), 255.0))[0, 0, 0, 0] == 2.0


def test_a_module_that_registers_the_network_is_imported_when_it_is_needed(tmp_path):
    path = tmp_path / "registers_late.py"
    info = dataclasses.replace(INFO, name="late", imports=(str(path),))
    says = rf"network 'late' needs the module .*{path} is not a file.*--import=FILE"
    with pytest.raises(UsageError, match=says):
        info.module()
    path.write_text(
        "import kd_jax, small_stage\nkd_jax.register_network('late', small_stage.Tiny)\n"
    )
    assert isinstance(info.module(), small_stage.Tiny)
    assert models.NETWORKS.origin("late") == str(path)


def test_a_network_that_nothing_registers():
    info = dataclasses.replace(INFO, name="unknown", imports=())
    with pytest.raises(UsageError, match="'unknown' is unknown"):
        info.module()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": None}, "lacks name:"),
        ({"size": None}, "lacks size:"),
        ({"color": "red"}, "has the wrong color = 'red':"),
        ({"name": 3}, "has the wrong name = 3:"),
        ({"options": []}, r"wrong options = \[\]"),
        ({"options": {"num_classes": 3}}, "wrong options"),
        ({"num_classes": 0}, "wrong num_classes = 0"),
        ({"num_classes": "5"}, "wrong num_classes = '5'"),
        ({"size": [8]}, r"wrong size = \[8\]"),
        ({"size": [8, -6]}, "wrong size"),
        ({"size": 8}, "wrong size"),
        ({"filter": "magic"}, "wrong filter = 'magic'"),
        ({"filter": ["box"]}, "wrong filter"),
        ({"mean": []}, r"wrong mean = \[\]"),
        ({"mean": [float("nan")]}, "wrong mean"),
        ({"std": [0.5, 0.5]}, r"wrong std = \[0\.5, 0\.5\]"),
        ({"std": "0.5"}, "wrong std"),
        ({"imports": "mine.py"}, "wrong imports"),
    ],
)
def test_descriptions_of_other_programs_are_refused(changes, says):
    values = json.loads(json.dumps(dataclasses.asdict(INFO))) | changes
    values = {key: value for key, value in values.items() if value is not None}
    with pytest.raises(UsageError, match=says) as error:
        NetworkInfo.from_json(values)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("values", [None, [], 3, "network"])
def test_what_is_no_description_is_refused(values):
    with pytest.raises(UsageError, match="the description of a network is"):
        NetworkInfo.from_json(values)


def test_options_that_a_network_cannot_take():
    info = dataclasses.replace(INFO, name="recorded", options={"depth": 3})
    with pytest.raises(UsageError, match="'recorded' cannot be made with the options"):
        info.module()
