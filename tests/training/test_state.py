"""The first state of a stage. Nothing is compiled here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stage import BATCH, INFO, INPUTS, LABELS, dense_frozen, dense_stage

from kd_jax.core.errors import UsageError
from kd_jax.methods import HORKD, Adapters, Method
from kd_jax.training import dataset_statistics, init_network, init_state
from kd_jax.training.state import named_key

SMALL = HORKD(centers="batch", pair_weight=0.0, triplet_weight=0.0)


@pytest.fixture(scope="module")
def parts():
    """A stage whose method has a learned map, its frozen variables and a random first state."""
    stage = dense_stage(SMALL)
    frozen = dense_frozen(stage)
    return stage, frozen, init_state(stage, BATCH, frozen)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_trained_networks_start_from_given_or_random_variables(parts):
    stage, frozen, state = parts
    assert int(state.step) == 0
    assert set(state.params) == {"student", "adapters"}
    equal(state.variables("student"), init_network(stage, "student", INPUTS))
    given = jax.tree.map(lambda x: x + 1, state.variables("student"))
    other = init_state(stage, BATCH, frozen, trained={"student": given})
    equal(other.variables("student"), given)
    says = r"trained has variables for 'teacher', which this stage never trains"
    with pytest.raises(UsageError, match=says):
        init_state(stage, BATCH, frozen, trained={"teacher": frozen["teacher"]})


def test_adapters_start_from_given_or_random_parameters(parts):
    stage, frozen, state = parts
    assert state.adapters.params["map"]["kernel"].shape == (6, 8)
    given = {"map": jax.tree.map(lambda x: x + 1, state.adapters.params["map"]), "other": 3}
    equal(init_state(stage, BATCH, frozen, adapters={"other": 3}).params, state.params)
    other = init_state(stage, BATCH, frozen, adapters=given)
    equal(other.adapters.params, {"map": given["map"]})
    wrong = {"map": jax.tree.map(lambda x: x[..., :-1], given["map"])}
    with pytest.raises(UsageError, match="The adapter 'map' has other shapes than this stage need"):
        init_state(stage, BATCH, frozen, adapters=wrong)


def test_horkd_asks_for_its_statistics():
    stage = dense_stage(HORKD())
    frozen = dense_frozen(stage)
    says = r"HORKD needs the class centers .*: pass statistics=dataset_statistics\(stage, frozen, "
    for nothing in ({}, None):
        with pytest.raises(UsageError, match=says):
            init_state(stage, BATCH, frozen, statistics=nothing)
    whole = [{"image": INPUTS, "label": LABELS}]
    state = init_state(
        stage, BATCH, frozen, statistics=dataset_statistics(stage, frozen, whole)
    ).method_state
    assert state["centers"].shape == (5, 8)
    assert state["present"].all()


@dataclasses.dataclass(frozen=True)
class Bank(Method):
    """Keeps one value per training image and another per class."""

    roles = ("student",)

    def init(self, key, outputs, batch, statistics, info):
        assert outputs["student"].logits.shape == (16, 5)
        assert statistics == {}
        assert set(batch) == {"image", "label", "index"}
        first = jax.random.normal(key, (info.num_images,))
        return Adapters(
            state={"images": first, "epochs": jnp.zeros((info.steps, info.steps_per_epoch))}
        )


def test_init_knows_the_sizes_and_has_a_key_of_the_seed():
    stage = dense_stage(Bank(), info=INFO)
    state = init_state(stage, BATCH).method_state
    assert state["epochs"].shape == (6, 3)
    expected = jax.random.normal(named_key(0, "adapters"), (48,))
    np.testing.assert_array_equal(state["images"], expected)
    other = init_state(dataclasses.replace(stage, seed=1), BATCH).method_state
    assert (other["images"] != state["images"]).all()
