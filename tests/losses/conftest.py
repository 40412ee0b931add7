import pathlib

import jax
import numpy as np
import pytest
from compiling import FAST


@pytest.fixture(scope="session")
def golden():
    """Inputs, values and gradients by the student, in float64; maps are NHWC.

    `rkd_distance`, `rkd_angle`, `pkt`, `cc` (embeddings), `kd` (logits, T = 4), `sp`, `nst`, `ft`,
    `at`, `at_pool` and `ab` (maps) are results of RepDistiller at b84f547 (PyTorch, unchanged).
    `hint` is a mean squared error. `horkd_sum_*` and `mkmmd_sum_*` (sums, with the number of tuples
    in `count_*`), `soft_ce` (T = 4) and `normalized_feature_l2_mean` are results of loops over the
    equations of the papers.
    """
    with np.load(pathlib.Path(__file__).with_name("official_losses.npz")) as archive:
        return {k: np.moveaxis(x, 1, -1) if x.ndim == 4 else x for k, x in archive.items()}


@pytest.fixture
def agrees(golden, x64):
    """Compares the value and the student's gradient with golden ones, in both precisions."""

    def check(loss, student, teacher, value, gradient):
        grad = jax.jit(jax.value_and_grad(loss), compiler_options=FAST)
        for dtype, tolerance in [(np.float64, 1e-10), (np.float32, 1e-5)]:
            got = grad(*(golden[k].astype(dtype) for k in (student, teacher)))
            assert got[0].dtype == got[1].dtype == dtype
            np.testing.assert_allclose(got[0], value, rtol=tolerance)
            bound = tolerance * abs(gradient).max()
            np.testing.assert_allclose(got[1], gradient, rtol=0, atol=bound)

    return check


@pytest.fixture
def agrees_with_formula(x64):
    """Compares the mean loss and both gradients with those of a written-out formula, in float64."""

    def check(loss, formula, student, teacher):
        def gradients(loss):
            mean = jax.value_and_grad(lambda s, t: loss(s, t).mean(), argnums=(0, 1))
            doubles = (np.asarray(x, np.float64) for x in (student, teacher))
            return jax.device_get(jax.jit(mean, compiler_options=FAST)(*doubles))

        got, expected = gradients(loss), gradients(formula)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-10, atol=1e-12)
        for one, other in zip(got[1], expected[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * abs(other).max() + 1e-14)

    return check
