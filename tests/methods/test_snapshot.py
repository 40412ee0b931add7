"""Snapshot distillation: the formula, and no gradient by the teacher."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from kd_jax.methods import Adapters, Snapshot
from kd_jax.models import Outputs

STUDENT, TEACHER = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 1])


def loss(teacher, **options):
    outputs = {"student": Outputs(STUDENT, STUDENT), "teacher": Outputs(teacher, teacher)}
    return Snapshot(**options)(Adapters(), outputs, {"label": LABELS})


def test_only_the_teacher_has_a_temperature():
    value, terms, _ = loss(TEACHER, temperature=2.0, hard_weight=0.5, soft_weight=0.25)
    predicted = log_softmax(STUDENT.astype(np.float64), 1)
    hard = -predicted[np.arange(4), LABELS].mean()
    soft = -(softmax(TEACHER.astype(np.float64) / 2, 1) * predicted).sum(1).mean()
    np.testing.assert_allclose(terms["cross_entropy"], hard, rtol=1e-6)
    np.testing.assert_allclose(terms["soft_target_cross_entropy"], soft, rtol=1e-6)
    np.testing.assert_allclose(value, 0.5 * hard + 0.25 * soft, rtol=1e-6)


def test_the_teacher_has_no_gradient():
    assert not jax.grad(lambda x: loss(x)[0])(TEACHER).any()


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"hard_weight": -1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Snapshot(**options)
