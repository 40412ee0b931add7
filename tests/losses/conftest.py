import math
import pathlib

import jax
import numpy as np
import pytest
from compiling import FAST


@pytest.fixture(scope="session")
def golden():
    """Inputs, values and gradients with respect to the student, in float64; maps are NHWC.

    By RepDistiller at b84f547 (PyTorch), run unchanged: `rkd_distance`, `rkd_angle`, `pkt`, `cc` on
    embeddings, `kd` (T = 4) on logits, `sp`, `nst`, `ft`, `at`, `at_pool`, `ab` on maps; `hint` is
    a plain mean squared error. By literal loops over the papers' equations: `horkd_sum_*` and
    `mkmmd_sum_*`, sums with the number of tuples in `count_*`, `soft_ce` (T = 4) and
    `normalized_feature_l2_mean`.
    """
    with np.load(pathlib.Path(__file__).with_name("official_losses.npz")) as archive:
        return {k: np.moveaxis(x, 1, -1) if x.ndim == 4 else x for k, x in archive.items()}


@pytest.fixture(scope="session")
def waves():
    """Inputs sin(w i + c), numbered in the order NCHW, for `agrees_with_table`."""

    def wave(w, c, *shape):
        x = np.sin(w * np.arange(math.prod(shape)) + c).reshape(shape)
        return np.moveaxis(x, 1, -1) if len(shape) == 4 else x

    return {
        "s": wave(0.7, 0.1, 8, 16),
        "t": wave(0.3, 0.5, 8, 16),
        "ls": 3 * wave(0.9, 0.3, 8, 10),
        "lt": 4 * wave(0.4, 0.7, 8, 10),
        "fs": wave(0.37, 0.2, 8, 6, 8, 8),
        "ft": wave(0.23, 0.9, 8, 6, 8, 8),
        "ft4": wave(0.23, 0.9, 8, 6, 4, 4),
    }


@pytest.fixture
def agrees():
    """Compares with a golden value and gradient, to 1e-10 in float64 and 1e-5 in float32."""

    def check(got, value, gradient, dtype):
        tolerance = 1e-10 if dtype == np.float64 else 1e-5
        assert got[0].dtype == got[1].dtype == dtype
        np.testing.assert_allclose(got[0], value, rtol=tolerance)
        np.testing.assert_allclose(got[1], gradient, rtol=0, atol=tolerance * abs(gradient).max())

    return check


@pytest.fixture
def agrees_with_table(x64):
    """Compares a mean loss and its gradient's norm with printed ones, to their nine digits.

    Both by RepDistiller at b84f547 (PyTorch, float64) on the inputs of `waves`.
    """

    def check(loss, student, teacher, value, norm):
        mean = jax.value_and_grad(lambda s, t: loss(s, t).mean())
        got, gradient = jax.jit(mean, compiler_options=FAST)(student, teacher)
        np.testing.assert_allclose([got, np.linalg.norm(gradient)], [value, norm], rtol=1e-8)

    return check


@pytest.fixture
def agrees_with_literal(x64):
    """Compares value and both gradients with those of a formula written out, in float64."""

    def check(loss, literal, student, teacher):
        def gradients(formula):
            mean = jax.value_and_grad(lambda s, t: formula(s, t).mean(), argnums=(0, 1))
            doubles = (np.asarray(x, np.float64) for x in (student, teacher))
            return jax.device_get(jax.jit(mean, compiler_options=FAST)(*doubles))

        got, expected = gradients(loss), gradients(literal)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-10, atol=1e-12)
        for one, other in zip(got[1], expected[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * abs(other).max() + 1e-14)

    return check


@pytest.fixture
def leaves_rows_out():
    """Compares a batch with masked rows, whatever stands in them, with the batch without them.

    `grad(student, teacher, where=...)` gives the value and both gradients.
    """

    def check(grad, student, teacher, where):
        student, teacher = student.copy(), teacher.copy()
        expected, gradients = jax.device_get(grad(student[where], teacher[where]))
        for filling in (0, 1e4, np.nan):
            student[~where] = teacher[~where] = filling
            value, got = jax.device_get(grad(student, teacher, where=where))
            np.testing.assert_allclose(value, expected, rtol=1e-5)
            for one, other in zip(got, gradients, strict=True):
                bound = 1e-5 * max(abs(other).max(), 0.1)
                np.testing.assert_allclose(one[where], other, rtol=0, atol=bound)
                assert not one[~where].any()

    return check
