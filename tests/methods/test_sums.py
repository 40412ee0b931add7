"""Sums of methods, several teachers, and residual students."""

import jax
import numpy as np
import pytest
from methods import tiny_networks as tiny

from kd_jax import losses
from kd_jax.experiment.building import build, to_config
from kd_jax.methods import (
    AFD,
    CC,
    EKD,
    HORKD,
    KD,
    METHODS,
    PKT,
    Adapters,
    MeanKD,
    Ramp,
    ResKD,
    Sum,
    Supervised,
)

BATCH = tiny.batch()
ROLES = ("student", "teacher", "same_width")
BOTH = {role: tiny.network(tiny.weights(role), BATCH["image"]) for role in ROLES}
BASE = BOTH | {
    "base": BOTH["same_width"],
    "teacher1": BOTH["teacher"],
    "teacher2": BOTH["same_width"],
}


def test_a_sum_is_the_weighted_sum_of_its_terms():
    terms = {"kd": KD(), "cc": CC(hard_weight=0.0, width=3)}
    method = Sum(terms, {"cc": Ramp(2.0, 4.0)})
    adapters = method.init(jax.random.key(0), BOTH, BATCH, {}, None)
    loss, log, state = method(adapters, BOTH, BATCH | {"epoch": 2.0})
    (kd, _, _), (cc, own, _) = (
        each(Adapters(adapters.params.get(name, {})), BOTH, BATCH) for name, each in terms.items()
    )
    np.testing.assert_allclose(loss, kd + 1.0 * cc, rtol=1e-6)
    np.testing.assert_allclose(
        log["cc/correlation_congruence"], own["correlation_congruence"], rtol=1e-6
    )
    assert (method.roles, method.frozen_roles) == (("teacher", "student"), ("teacher",))
    assert (set(adapters.params), state, method.adapter_groups) == ({"cc"}, {}, ("adapters",))


def test_each_term_has_its_statistics_state_and_roles():
    method = Sum({"horkd": HORKD(), "ekd": EKD(), "alone": Supervised()})
    assert method.frozen_roles == ()  # EKD trains the teacher
    assert method.predictions == ("student", "teacher")
    found = method.statistics(BOTH, BATCH, np.ones(tiny.IMAGES, bool))
    assert found["ekd"] == found["alone"] == {}
    adapters = Sum({"horkd": HORKD()}).init(
        jax.random.key(0), BOTH, BATCH, {"horkd": found["horkd"]}, None
    )
    assert set(adapters.state["horkd"]) == {"centers", "present"}


def test_every_registered_method_can_be_a_term():
    for name in METHODS.built_in():
        term = METHODS.get(name)()
        assert Sum({"own": term}).trained_roles == term.trained_roles
        values = {"terms": {"own": {"name": name}}}
        assert build(Sum, values, "method") == Sum({"own": term})


def test_the_plain_values_of_a_sum_are_read_back():
    method = Sum({"kd": KD(temperature=2.0), "pkt": PKT()}, {"pkt": 0.5})
    assert build(Sum, to_config(method), "method") == method


@pytest.mark.parametrize(
    ("terms", "weights", "says"),
    [
        ({}, {}, "terms must have one method or more"),
        ({"kd": KD()}, {"sp": 1.0}, "weights.sp is not used: the terms are kd"),
        ({"kd": KD()}, {"kd": -1.0}, "weights.kd must be 0 or more and finite, not -1.0"),
    ],
)
def test_impossible_sums_are_refused(terms, weights, says):
    with pytest.raises(ValueError, match=says):
        Sum(terms, weights)


def test_the_residual_student_completes_the_frozen_one():
    """The sum of the logits learns as KD, and is evaluated."""
    method = ResKD()
    combined = BOTH["student"].logits + BASE["base"].logits
    np.testing.assert_array_equal(method.predict(Adapters(), BASE)["student"].logits, combined)
    expected = KD()(
        Adapters(),
        {"student": BOTH["student"].replace(logits=combined), "teacher": BOTH["teacher"]},
        BATCH,
    )[0]
    np.testing.assert_allclose(method(Adapters(), BASE, BATCH)[0], expected, rtol=1e-6)
    grads = jax.grad(lambda base: method(Adapters(), BASE | {"base": base}, BATCH)[0])(BASE["base"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
    assert (method.trained_roles, method.predictions) == (("student",), ("student",))


@pytest.mark.parametrize(("weights", "shares"), [(None, (0.5, 0.5)), ((1.0, 3.0), (0.25, 0.75))])
def test_several_teachers_are_one_by_the_mean_of_their_logits(weights, shares):
    method = MeanKD(teacher_weights=weights)
    teachers = [BASE[role].logits for role in method.frozen_roles]
    mean = shares[0] * teachers[0] + shares[1] * teachers[1]
    soft = losses.soft_target_kl(BOTH["student"].logits, mean).mean()
    _, terms, _ = method(Adapters(), BASE, BATCH)
    np.testing.assert_allclose(terms["soft_target_kl"], soft, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (ResKD, {"bases": ("teacher",)}, "bases must be one name or more, each once, without"),
        (ResKD, {"bases": ()}, "bases must be one name or more"),
        (MeanKD, {"teachers": ("student",)}, "teachers must be one name or more, each once"),
        (MeanKD, {"teacher_weights": (1.0,)}, "teacher_weights must have one number per teacher"),
        (MeanKD, {"teacher_weights": (0.0, 0.0)}, "teacher_weights must be 0 or more and finite"),
        (AFD, {"teacher_every": 0}, "teacher_every must be 1 or more, not 0"),
    ],
)
def test_impossible_options_are_refused(method, options, says):
    with pytest.raises(ValueError, match=says):
        method(**options)


def test_afd_takes_every_nth_block():
    teacher = BOTH["teacher"].replace(blocks=BOTH["teacher"].blocks * 2)
    params = jax.eval_shape(
        lambda: AFD(width=4, teacher_every=2).init(
            jax.random.key(0), BOTH | {"teacher": teacher}, BATCH, {}, None
        )
    ).params["attention"]
    assert params["teacher_positions"].shape == (3, 4)
    assert params["bilinear"]["kernel"].shape == (4, 12)
    assert params["query0"]["kernel"].shape[0] == teacher.blocks[1].shape[-1]
