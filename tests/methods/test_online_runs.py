"""Online methods in configs, on several devices, and in runs that are killed and resumed."""

import jax
import numpy as np
import pytest
import small_config
from interrupted import interrupted
from small_stage import train

from kd_jax.experiment.config_files import load_config
from kd_jax.experiment.run import Run
from kd_jax.experiment.specs import experiment
from kd_jax.methods import BYOT, DML, METHODS, ONE, OKDDip, Snapshot


@pytest.mark.parametrize("name", ["dml", "cl_ilr", "one", "okddip", "byot"])
def test_every_online_method_is_an_argument_of_one_config(name):
    (stage,) = experiment(load_config(f"baselines/cifar10:method={name}").to_dict()).stages.values()
    assert isinstance(stage.method, METHODS.get(name))
    assert set(stage.networks) == set(stage.method.roles)
    branches = {x.options.get("branches") for x in stage.networks.values()}
    assert branches == {getattr(stage.method, "branches", None)}
    assert ("branch_rescale" in stage.networks[stage.trained[0]].options) == (name == "cl_ilr")
    if name in ("cl_ilr", "one", "okddip"):
        assert stage.method.soft_weight.epochs == pytest.approx(80 * 40 / 300)


def test_each_cycle_of_snapshot_starts_from_the_network_that_teaches_it():
    config = load_config("baselines/cifar10:method=snapshot,generations=3,epochs=30")
    stages = experiment(config.to_dict()).stages
    assert list(stages) == ["cycle1", "cycle2", "student"]
    assert {stage.epochs for stage in stages.values()} == {10}
    for before, name in (("cycle1", "cycle2"), ("cycle2", "student")):
        assert isinstance(stages[name].method, Snapshot)
        networks = stages[name].networks
        assert {networks[role].init_from for role in ("teacher", "student")} == {before}
        assert networks["student"].init_head


@pytest.mark.long
@pytest.mark.parametrize("method", [DML(), ONE(), OKDDip(), BYOT(modules=1)])
def test_the_numbers_are_the_same_on_all_numbers_of_devices(method):
    expected = train("jit", 1, 2, method=method)
    for execution, devices in (("jit", 2), ("jit", 8), ("pmap", 8)):
        found = train(execution, devices, 2, method=method)
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def config(name, options):
    """Returns a run of one stage with an online method."""
    values = small_config.online_config().to_dict()
    stage = values["stages"].pop("ekd")
    method = METHODS.get(name)(**options)
    network = {"name": "tiny", "options": {"branches": getattr(method, "branches", 1)}}
    stage["method"] = {"name": name, **options}
    stage["networks"] = dict.fromkeys(method.roles, network)
    values["stages"]["online"] = stage
    return values, method


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "options"), [("dml", {"peers": ("a", "b")}), ("one", {}), ("byot", {"modules": 1})]
)
def test_a_killed_run_ends_with_the_same_numbers(name, options, tmp_path, monkeypatch):
    values, method = config(name, options)
    expected = Run(values, tmp_path / "whole").run()

    often = values | {"checkpoint_minutes": 1e-9}  # after every step
    interrupted(tmp_path / "killed", monkeypatch, 1, often)
    found = Run(values, tmp_path / "killed").run()
    assert small_config.numbers(found) == small_config.numbers(expected)
    (stage,) = expected["stages"]
    assert (stage["name"], stage["role"]) == ("online", method.trained_roles[0])
    first, *others = method.predictions
    assert {"accuracy", *(f"accuracy/{other}" for other in others)} <= set(stage["last"])
    assert f"accuracy/{first}" not in stage["last"]
