"""Recipes, against the numbers of the papers and repositories that they are from."""

import pytest

from kd_jax.core.errors import UsageError
from kd_jax.experiment.config_files import load_config
from kd_jax.experiment.recipes import RECIPES
from kd_jax.experiment.specs import experiment

# Epochs, batch size, Nesterov's momentum, and the learning rate from an epoch on. Sources: EKD,
# section III-C, and 200 assumed epochs; the defaults of RepDistiller's `train_student.py`, of
# `train.py` of DefangChen/OKDDip, and of `run_distill_classification.py` of lenscloth/RKD. The
# weight decay is 5e-4 in all three repositories.
NUMBERS = {
    "ekd": (200, 64, False, {0: 0.1, 75: 1e-2, 130: 1e-3, 180: 1e-4}),
    "repdistiller": (240, 64, False, {0: 0.05, 150: 5e-3, 180: 5e-4, 210: 5e-5}),
    "okddip": (300, 128, True, {0: 0.1, 150: 1e-2, 225: 1e-3}),
    "rkd": (200, 128, False, {0: 0.1, 60: 2e-2, 120: 4e-3, 160: 8e-4}),
}


@pytest.mark.parametrize("config", ["ekd/cifar100", "horkd/cifar100"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_config_has_the_numbers_of_its_recipe(config, name):
    epochs, batch_size, nesterov, rates = NUMBERS[name]
    spec = experiment(load_config(f"{config}:recipe={name}").to_dict())
    assert spec.data.batch_size == batch_size
    for stage in spec.stages.values():
        optimizer = stage.optimizers["default"]
        assert stage.epochs == epochs
        assert (optimizer.momentum, optimizer.nesterov) == (0.9, nesterov)
        assert optimizer.weight_decay == 5e-4
        rate = optimizer.rate(epochs, 1)
        times = (0, 59, 60, 149, 150, 180, epochs - 1)
        expected = [max((e, r) for e, r in rates.items() if e <= i)[1] for i in times]
        assert [float(rate(i)) for i in times] == pytest.approx(expected)


def test_small_networks_of_repdistiller_have_a_smaller_learning_rate():
    reference = "ekd/cifar100:recipe=repdistiller,teacher=vgg11,student=shufflenet_v1,fixed=true"
    stages = experiment(load_config(reference).to_dict()).stages
    rates = {name: stage.optimizers["default"].learning_rate for name, stage in stages.items()}
    assert rates == {"teacher": 0.05, "ekd": 0.01}
    assert RECIPES["ekd"].optimizers("shufflenet_v1", 200)["default"]["learning_rate"] == 0.1


def test_milestones_scale_with_the_number_of_epochs():
    spec = experiment(load_config("ekd/cifar100:epochs=100,recipe=okddip").to_dict())
    assert spec.stages["ekd"].epochs == 100
    assert spec.stages["ekd"].optimizers["default"].schedule.milestones == (50, 75)


def test_an_unknown_recipe_is_one_sentence():
    with pytest.raises(UsageError, match="argument recipe = 'rkdd' is unknown: choose one of rkd"):
        load_config("ekd/cifar100:recipe=rkdd")
