"""AFD, next to its formula."""

import jax
import numpy as np
import pytest
from compiling import FAST

from kd_jax import losses

RNG = np.random.default_rng(0)


def maps(*shapes):
    return [RNG.normal(size=(3, *shape)).astype(np.float32) for shape in shapes]


STUDENT, TEACHER = maps((4, 4, 2), (2, 2, 3)), maps((4, 4, 5), (2, 2, 4))
ATTENTION = RNG.dirichlet(np.ones(2), size=(3, 2)).astype(np.float32)


def value(x, size):
    """Returns the normalized mean of the squared channels, of the size of the teacher's map."""
    energy = np.square(x).mean(3)
    if len(energy[0]) > size:  # the mean of each window of 2x2
        energy = energy.reshape(3, size, 2, size, 2).mean((2, 4))
    elif len(energy[0]) < size:
        energy = energy.repeat(2, 1).repeat(2, 2)
    energy = energy.reshape(3, -1)
    return energy / np.linalg.norm(energy, axis=1, keepdims=True)


def test_all_pairs_of_layers_are_compared_at_the_size_of_the_teacher():
    expected = np.zeros(3)
    for t, teacher in enumerate(TEACHER):
        size = teacher.shape[1]
        for s, student in enumerate(STUDENT):
            gap = np.square(value(student, size) - value(teacher, size)).mean(1)
            expected += ATTENTION[:, t, s] * gap

    def total(x):
        found = losses.attended_layers(x, TEACHER, ATTENTION)
        return found.sum(), found

    run = jax.jit(jax.grad(total, has_aux=True), compiler_options=FAST)
    np.testing.assert_allclose(run(STUDENT)[1], expected, rtol=1e-5)
    gradient, _ = run([0 * x for x in STUDENT])
    assert all(np.isfinite(x).all() for x in gradient)


@pytest.mark.parametrize(
    ("student", "attention", "says"),
    [
        ([], ATTENTION, "AFD needs one map or more of each network"),
        (STUDENT, ATTENTION[:, :1], r"attention must be \[N, T, S\]; got attention \(3, 1, 2\)"),
        ([STUDENT[0][:2]], ATTENTION, r"maps must be .* got student \(2, 4, 4, 2\), teacher"),
    ],
)
def test_wrong_shapes_are_named(student, attention, says):
    with pytest.raises(ValueError, match=says):
        losses.attended_layers(student, TEACHER, attention)
