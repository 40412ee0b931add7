import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.experiment.building import build, to_config
from kd_jax.methods import EKD, HORKD, KD, METHODS, Adapters, KDim, Method, Ramp, Supervised
from kd_jax.methods import names as method_names
from kd_jax.methods import register as register_method
from kd_jax.methods.base import check_weights, is_used, weighted_sum
from kd_jax.models import Outputs

TRANSFER = ("fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "nst")


def test_every_method_has_its_name_and_can_be_made_without_options():
    ours = {"ekd": EKD, "horkd": HORKD, "kd": KD, "kdim": KDim, "supervised": Supervised}
    for name, method in ours.items():
        assert METHODS.get(name) is method
    assert {*ours, *TRANSFER} <= set(method_names())
    for name in ours.keys() | TRANSFER:
        method = METHODS.get(name)()
        assert dataclasses.is_dataclass(method)
        assert method.trained_roles[0] == "student"
        assert method.predictions == method.trained_roles
        assert set(method.trained_roles) | set(method.frozen_roles) == set(method.roles)


@pytest.mark.parametrize(
    ("ramp", "values"),
    [
        (Ramp(end=2.0, epochs=4.0), {0: 0.0, 1: 0.5, 2.5: 1.25, 4: 2.0, 100: 2.0}),
        (Ramp(end=0.5, epochs=0.5, start=1.5), {0: 1.5, 0.25: 1.0, 0.5: 0.5, 3: 0.5}),
        # `sigmoid_rampup(epoch, 80)` of the code of ONE, with whole epochs.
        (
            Ramp(end=2.0, epochs=80.0, per_epoch=True, shape="sigmoid"),
            {0.9: 2 * np.exp(-5), 40.5: 2 * np.exp(-5 / 4), 80: 2.0, 300: 2.0},
        ),
    ],
)
def test_a_ramp_changes_and_is_then_constant(ramp, values):
    for epoch, expected in values.items():
        np.testing.assert_allclose(ramp(epoch), expected, rtol=1e-6)
    found = jax.jit(ramp)(jnp.asarray(list(values), jnp.float32))
    np.testing.assert_allclose(found, list(values.values()), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"end": -1.0, "epochs": 1.0}, "start and end must be 0 or more, not 0.0 and -1.0"),
        ({"end": 1.0, "epochs": 1.0, "start": float("nan")}, "start and end must be 0 or more"),
        ({"end": float("inf"), "epochs": 1.0}, "start and end must be 0 or more"),
        ({"end": 1.0, "epochs": 0.0}, "epochs must be greater than 0 and finite, not 0.0"),
        ({"end": 1.0, "epochs": float("inf")}, "epochs must be greater than 0 and finite, not inf"),
        ({"end": 1.0, "epochs": 1.0, "shape": "cosine"}, "shape = 'cosine' is unknown"),
    ],
)
def test_impossible_ramps_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Ramp(**options)


def test_a_config_has_a_number_or_a_dictionary_for_a_weight():
    values = {"hard_weight": 1, "soft_weight": {"start": 0.1, "end": 2.0, "epochs": 5}}
    method = build(KD, values, "method")
    assert method == KD(hard_weight=1, soft_weight=Ramp(start=0.1, end=2.0, epochs=5))
    assert build(KD, to_config(method), "method") == method


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ({"end": 1.0}, r"method\.soft_weight\.epochs is missing"),
        ({"end": 1.0, "epochs": 1.0, "begin": 0.0}, r"method\.soft_weight\.begin is not used by"),
        ({"end": 1.0, "epochs": -1.0}, r"method\.soft_weight: epochs must be greater than 0"),
        ("2 * epoch", r"method\.soft_weight = '2 \* epoch' must be"),
        (-1.0, r"^method: soft_weight must be 0 or more and finite, not -1\.0\.$"),
    ],
)
def test_wrong_weights_in_a_config_name_their_key(weight, says):
    with pytest.raises(UsageError, match=says):
        build(KD, {"soft_weight": weight}, "method")


def test_a_weighted_sum_is_over_the_terms_that_have_a_weight():
    terms = {"one": jnp.asarray(2.0), "two": jnp.asarray(3.0), "logged": jnp.asarray(np.nan)}
    weights = {"one": 0.5, "two": Ramp(end=1.0, epochs=2.0), "absent": 7.0}
    found = weighted_sum(terms, weights, {"epoch": jnp.asarray(1.0)})
    np.testing.assert_allclose(found, 0.5 * 2 + 0.5 * 3)
    assert weighted_sum({"one": jnp.asarray(2.0)}, weights, {}) == 1.0
    with pytest.raises(ValueError, match=r"a Ramp needs the epoch .* pass info=StageInfo"):
        weighted_sum(terms, weights, {})


def test_a_weight_of_zero_is_not_used_but_a_ramp_is():
    assert [is_used(weight) for weight in (0, 0.0, 0.1, Ramp(1.0, 1.0))] == [
        False,
        False,
        True,
        True,
    ]


@dataclasses.dataclass(frozen=True)
class Weighted(Method):
    one_weight: float | Ramp = 0.0
    two_weight: float | Ramp = 0.0

    roles = ("peer", "student", "teacher")
    frozen_roles = ("teacher",)


def test_one_weight_at_least_must_count():
    check_weights(Weighted(one_weight=1.0))
    check_weights(Weighted(two_weight=Ramp(1.0, 1.0)))
    with pytest.raises(ValueError, match="one of one_weight, two_weight must be greater than 0"):
        check_weights(Weighted())
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="two_weight must be 0 or more and finite, not"):
            check_weights(Weighted(1.0, weight))


def test_by_default_the_trained_roles_are_predicted_and_the_student_is_first():
    method = Weighted()
    assert method.trained_roles == method.predictions == ("student", "peer")
    outputs = {role: Outputs(jnp.zeros((1, 2)), jnp.ones((1, 3))) for role in method.roles}
    found = method.predict(Adapters(), outputs)
    assert tuple(found) == method.predictions
    assert found["peer"] is outputs["peer"]
    assert method.init(jax.random.key(0), outputs, {}, {}, None) == Adapters()
    assert method.statistics(outputs, {}, jnp.ones(1, bool)) == {}


def test_a_users_own_method_is_in_every_config(monkeypatch):
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    assert register_method("weighted")(Weighted) is Weighted
    assert METHODS.get("weighted") is Weighted
    assert METHODS.name_of(Weighted) == "weighted"
    with pytest.raises(UsageError, match="'kd' is a method of kd_jax"):
        register_method("kd", Weighted)
