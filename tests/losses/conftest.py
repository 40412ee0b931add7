import pathlib

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden():
    """Inputs, values and gradients with respect to the student, in float64.

    `kd` by RepDistiller at b84f547 (PyTorch), run unchanged; `horkd_sum_*` by literal loops over
    the paper's equations, with the number of tuples in `count_*`.
    """
    with np.load(pathlib.Path(__file__).with_name("official_losses.npz")) as archive:
        return dict(archive)


@pytest.fixture
def agrees():
    """Compares with a golden value and gradient, to 1e-10 in float64 and 1e-5 in float32."""

    def check(got, value, gradient, dtype):
        tolerance = 1e-10 if dtype == np.float64 else 1e-5
        assert got[0].dtype == got[1].dtype == dtype
        np.testing.assert_allclose(got[0], value, rtol=tolerance)
        np.testing.assert_allclose(got[1], gradient, rtol=0, atol=tolerance * abs(gradient).max())

    return check
