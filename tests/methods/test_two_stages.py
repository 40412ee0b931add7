"""Methods of several stages, and the config that runs them."""

import jax
import numpy as np
import pytest
import small_config
from interrupted import interrupted
from methods import tiny_networks as tiny

from kd_jax.core.errors import UsageError
from kd_jax.experiment.config_files import load_config
from kd_jax.experiment.run import Run
from kd_jax.experiment.specs import experiment
from kd_jax.methods import AB, FSP, FT, KD, METHODS, Adapters, FitNet, Supervised

BATCH = tiny.batch()
BOTH = {role: tiny.network(tiny.weights(role), BATCH["image"]) for role in ("student", "teacher")}


def test_the_paraphraser_stays_that_of_the_first_step():
    """Weight decay changes the parameters, but not the factors of the teacher."""
    method = FT()
    adapters = method.init(jax.random.key(0), BOTH, BATCH, {}, None)
    adapters = adapters.replace(params=tiny.filled(adapters.params, 0))
    run = jax.jit(lambda adapters, step: method(adapters, BOTH, BATCH | {"step": step}))
    first, _, state = run(adapters, 0)
    jax.tree.map(
        np.testing.assert_array_equal, state["paraphraser"], adapters.params["paraphraser"]
    )
    decayed = {**adapters.params, "paraphraser": state["paraphraser"]}
    decayed["paraphraser"] = jax.tree.map(lambda x: x / 2, decayed["paraphraser"])
    again, _, kept = run(Adapters(decayed, state), 1)
    np.testing.assert_allclose(again, first, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, kept, state)


def test_connectors_are_for_maps_of_other_shapes():
    assert set(AB().init(jax.random.key(0), BOTH, BATCH, {}, None).params) == {"connector2"}


def test_fsp_needs_networks_of_one_width():
    says = r"method fsp needs .* the student has \[4, 4, 6, 8\] and the teacher \[4, 4, 7, 8\]"
    with pytest.raises(UsageError, match=says):
        FSP()(Adapters(), BOTH, BATCH)


# ------------------------------------------------------------------------------------- config


def spec_of(method):
    return experiment(load_config(f"baselines/cifar10:method={method}").to_dict())


OFFLINE = "horkd kdim kd fitnet at sp cc vid rkd pkt nst crd ft ab fsp dkd reskd afd dist info_nce"


@pytest.mark.parametrize("name", [*OFFLINE.split(), "reviewkd", "mean_kd", "ekd"])
def test_every_offline_method_is_an_argument_of_one_config(name):
    stages = list(spec_of(name).stages.values())
    assert METHODS.get(name) in {type(stage.method) for stage in stages}
    assert stages[-1].networks["student"].resolution == 16


def test_methods_of_several_stages_have_their_chains():
    fitnet = spec_of("fitnet_stages").stages
    assert (fitnet["first"].method, fitnet["student"].method) == (FitNet(hard_weight=0.0), KD())
    assert (fitnet["first"].epochs, fitnet["student"].epochs) == (5, 40)  # 30 and 240 / 6
    student = spec_of("ab").stages["student"]
    assert student.method == Supervised()
    assert (student.networks["student"].init_from, student.networks["student"].init_head) == (
        "first",
        False,
    )
    assert spec_of("ft").stages["student"].adapters_from == "first"
    born_again = spec_of("born_again,generations=3").stages
    teachers = [stage.networks["teacher"].init_from for stage in born_again.values()]
    assert teachers == ["runs/resnet20", "generation1", "generation2"]
    assert spec_of("takd").stages["student"].networks["teacher"].init_from == "first"
    several = spec_of("mean_kd,teacher=one+two").stages["student"].networks
    assert [several[f"teacher{i}"].init_from for i in (1, 2)] == ["one", "two"]
    both = spec_of("kd+crd").stages["student"].method
    assert {name: x.hard_weight for name, x in both.terms.items()} == {"kd": 0.1, "crd": 0.0}
    with pytest.raises(UsageError, match="config argument method = 'kdd' is unknown"):
        spec_of("kdd")


# --------------------------------------------------------------------------------------- runs


def chain():
    """Returns a teacher, the two stages of FT, and a stage of CRD."""
    config = small_config.get_config().to_dict()
    teacher, student = (config["stages"][name] for name in ("teacher", "student"))
    methods = {
        "first": {"name": "paraphraser"},
        "ft": {"name": "ft"},
        "crd": {"name": "crd", "negatives": 8, "width": 4},
    }
    config["stages"] = {"teacher": teacher} | {
        name: student | {"method": method} for name, method in methods.items()
    }
    config["stages"]["ft"]["adapters_from"] = "first"
    for stage in config["stages"].values():
        stage |= {"epochs": 0.4, "evaluate_every": 1.0}
    return config


@pytest.mark.long  # tests/experiment/test_resume.py kills runs with other methods
def test_a_run_that_is_killed_in_two_stages_ends_with_the_same_numbers(tmp_path, monkeypatch):
    often = chain() | {"checkpoint_minutes": 1e-9}
    with small_config.compiled_once(tmp_path / "programs"):
        expected = small_config.numbers(Run(chain(), tmp_path / "whole").run())
        for saves in (10, 5):  # 4 steps per stage, each saved
            interrupted(tmp_path / "killed", monkeypatch, saves, often)
        assert (tmp_path / "killed" / "crd").exists()
        found = small_config.numbers(Run(chain(), tmp_path / "killed").run())
    assert found == expected
