import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.core.devices import AXIS
from kd_jax.methods import Adapters, KDim, Ramp
from kd_jax.models import LinearMap, Outputs

N, C = 8, 5
BATCH = {"label": jnp.asarray(np.arange(N) % C, jnp.int32), "index": jnp.arange(N)}


def outputs(seed, width=6):
    one, other = jax.random.split(jax.random.key(seed))
    return Outputs(jax.random.normal(other, (N, C)), jax.random.normal(one, (N, width)), (), ())


BOTH = {"teacher": outputs(0), "student": outputs(1)}
WEIGHTS = {"hard_weight": 0.7, "soft_weight": 0.5, "feature_weight": 2.0, "temperature": 3.0}


@pytest.mark.parametrize("features", ["mk_mmd", "l2"])
def test_the_loss_is_equation_9_or_6(features):
    loss, terms, state = KDim(features=features, **WEIGHTS)(Adapters(), BOTH, BATCH)
    student, teacher = BOTH["student"], BOTH["teacher"]
    hard = losses.cross_entropy(student.logits, BATCH["label"]).mean()
    soft = losses.soft_target_cross_entropy(student.logits, teacher.logits, temperature=3.0).mean()
    near = {
        "mk_mmd": lambda: losses.mk_mmd(student.embedding, teacher.embedding),
        "l2": lambda: losses.normalized_feature_l2(student.embedding, teacher.embedding).mean(),
    }[features]()
    assert terms == {"cross_entropy": hard, "soft_cross_entropy": soft, features: near}
    np.testing.assert_allclose(loss, 0.7 * hard + 0.5 * soft + 2.0 * near, rtol=1e-6)
    assert state == {}


@pytest.mark.parametrize("soft_labels", ["mk_mmd", "l2"])
def test_the_soft_labels_can_be_compared_as_distributions_or_per_image(soft_labels):
    """KDim, section 2.2: "We also try to apply MK-MMD for the soft label"."""
    loss, terms, _ = KDim(soft_labels=soft_labels, **WEIGHTS)(Adapters(), BOTH, BATCH)
    student, teacher = (jax.nn.softmax(BOTH[role].logits / 3.0) for role in ("student", "teacher"))
    soft = {
        "mk_mmd": lambda: losses.mk_mmd(student, teacher),
        "l2": lambda: losses.normalized_feature_l2(student, teacher).mean(),
    }[soft_labels]()
    assert set(terms) == {"cross_entropy", f"soft_{soft_labels}", "mk_mmd"}
    np.testing.assert_allclose(terms[f"soft_{soft_labels}"], soft, rtol=1e-5)
    rest = 0.7 * terms["cross_entropy"] + 2.0 * terms["mk_mmd"]
    np.testing.assert_allclose(loss, rest + 0.5 * soft, rtol=1e-5)


def test_a_weight_may_be_a_ramp():
    method = dataclasses.replace(KDim(**WEIGHTS), feature_weight=Ramp(end=4.0, epochs=2.0))
    loss, _, _ = method(Adapters(), BOTH, {**BATCH, "epoch": 1.0})
    expected, _, _ = KDim(**WEIGHTS)(Adapters(), BOTH, BATCH)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("weight", ["soft_weight", "feature_weight"])
def test_a_weight_of_zero_leaves_its_term_out(weight):
    method = dataclasses.replace(KDim(**WEIGHTS), **{weight: 0.0})
    _, terms, _ = method(Adapters(), BOTH, BATCH)
    name = {"soft_weight": "soft_cross_entropy", "feature_weight": "mk_mmd"}[weight]
    assert name not in terms
    assert len(terms) == 2


@pytest.mark.parametrize("features", ["mk_mmd", "l2"])
def test_embeddings_of_different_widths_get_a_learned_map(features):
    both = {"teacher": outputs(0, 9), "student": outputs(1)}
    method = KDim(features=features)
    adapters = method.init(jax.random.key(0), both, BATCH, {}, None)
    mapped = LinearMap(9).apply({"params": adapters.params["map"]}, both["student"].embedding)
    _, terms, _ = method(adapters, both, BATCH)
    same = {**both, "student": dataclasses.replace(both["student"], embedding=mapped)}
    assert terms[features] == method(Adapters(), same, BATCH)[1][features]
    assert KDim(feature_weight=0.0).init(jax.random.key(0), both, BATCH, {}, None) == Adapters()


def test_the_teacher_gets_no_gradient():
    def loss(teacher):
        return KDim()(Adapters(), {**BOTH, "teacher": teacher}, BATCH)[0]

    grads = jax.grad(loss)(BOTH["teacher"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("devices", "options"),
    [(2, {}), (8, {}), (2, {"features": "l2"}), (8, {"features": "l2", "soft_labels": "mk_mmd"})],
)
def test_under_pmap_value_and_gradient_are_those_of_the_whole_batch(devices, options):
    method = KDim(**options)

    def loss(embedding, rest, batch, axis_name=None):
        logits = rest["student"].logits + embedding[:, :C]
        student = dataclasses.replace(rest["student"], embedding=embedding, logits=logits)
        return method(Adapters(), {**rest, "student": student}, batch, axis_name=axis_name)[0]

    value, grad = jax.jit(jax.value_and_grad(loss))(BOTH["student"].embedding, BOTH, BATCH)

    def shares(tree):
        return jax.tree.map(lambda x: x.reshape(devices, N // devices, *x.shape[1:]), tree)

    spread = jax.pmap(jax.value_and_grad(functools.partial(loss, axis_name=AXIS)), axis_name=AXIS)(
        *map(shares, (BOTH["student"].embedding, BOTH, BATCH))
    )
    np.testing.assert_allclose(spread[0].mean(), value, rtol=1e-5)
    np.testing.assert_allclose(
        np.asarray(spread[1]).reshape(N, -1) / devices, grad, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "l1"}, "features = 'l1' is unknown: choose one of l2, mk_mmd"),
        ({"soft_labels": "kl"}, "soft_labels = 'kl' is unknown: choose one of cross_entropy"),
        ({"variance": "none"}, "variance = 'none' is unknown: choose one of all, cross, distinct"),
        ({"multipliers": ()}, "multipliers must be greater than 0"),
        ({"multipliers": (1.0, 0.0)}, "multipliers must be greater than 0"),
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"soft_weight": -1.0}, "soft_weight must be 0 or more"),
        ({"loss": "softmax"}, "loss = 'softmax' is unknown: choose one of"),
        ({"loss": "arcface", "options": {"gamma": 1.0}}, "options.gamma is not used by arcface"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KDim(**options)
