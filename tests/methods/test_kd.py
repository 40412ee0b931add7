import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.methods import KD, Adapters, Ramp, Supervised
from kd_jax.models import Outputs

N, C = 6, 5
LABELS = jnp.asarray(np.arange(N) % C, jnp.int32)
BATCH = {"label": LABELS, "index": jnp.arange(N)}
TEACHER, STUDENT = (
    Outputs(jax.random.normal(jax.random.key(i), (N, C)), jnp.zeros((N, 3))) for i in range(2)
)
BOTH = {"teacher": TEACHER, "student": STUDENT}


def test_supervised_is_cross_entropy():
    loss, terms, _ = Supervised()(Adapters(), {"student": STUDENT}, BATCH)
    expected = losses.cross_entropy(STUDENT.logits, LABELS).mean()
    assert loss == terms["cross_entropy"] == expected


@pytest.mark.parametrize("soft", [0.5, Ramp(end=1.0, epochs=4.0)])
def test_both_terms_are_weighted(soft):
    method = KD(temperature=2.0, hard_weight=0.3, soft_weight=soft)
    loss, terms, state = method(Adapters(state={"x": 1}), BOTH, {**BATCH, "epoch": 2.0})
    expected = losses.soft_target_kl(STUDENT.logits, TEACHER.logits, temperature=2.0).mean()
    np.testing.assert_allclose(terms["soft_target_kl"], expected, rtol=1e-6)
    np.testing.assert_allclose(loss, 0.3 * terms["cross_entropy"] + 0.5 * expected, rtol=1e-6)
    assert state == {"x": 1}


def test_the_teacher_gets_no_gradient():
    grads = jax.grad(lambda x: KD()(Adapters(), {**BOTH, "teacher": x}, BATCH)[0])(TEACHER)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"temperature": float("inf")}, "temperature must be greater than 0 and finite, not inf"),
        ({"soft_weight": -0.1}, "soft_weight must be 0 or more"),
        ({"soft_weight": 0.0, "hard_weight": 0.0}, "one of hard_weight, soft_weight must be great"),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        KD(**options)
