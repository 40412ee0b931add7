import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled, value_of

from kd_jax.losses import info_nce


def features(rows=8, width=6):
    rng = np.random.default_rng(0)
    student, noise = rng.normal(size=(2, rows, width))
    return student.astype(np.float32), (student + noise).astype(np.float32)


def formula(student, teacher, temperature, symmetric):
    """Computes -log(exp(s_ii) / sum_j exp(s_ij)), and the same for the transposed scores."""
    student, teacher = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher))
    scores = jnp.exp(student @ teacher.T / temperature)
    own = jnp.diagonal(scores)
    loss = -jnp.log(own / scores.sum(1))
    return ((loss - jnp.log(own / scores.sum(0))) / 2 if symmetric else loss).mean()


@pytest.mark.parametrize("symmetric", [False, True])
def test_agrees_with_its_formula(agrees_with_formula, symmetric):
    loss = functools.partial(info_nce, **({"symmetric": True} if symmetric else {}))
    expected = functools.partial(formula, temperature=0.07, symmetric=symmetric)
    agrees_with_formula(loss, expected, *features())


def test_one_trace_serves_all_temperatures(x64):
    loss = value_of(info_nce)
    for temperature in (0.01, 0.07, 2.0):
        expected = formula(*map(np.float64, features()), temperature, symmetric=False)
        got = loss(*features(), temperature=temperature)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert loss._cache_size() == 1


def test_zero_rows_have_cosine_0_and_no_gradient():
    student, teacher = features()
    student[2] = 0
    value, gradients = jax.device_get(compiled(info_nce)(student, teacher))
    directions = teacher / np.linalg.norm(teacher, axis=1, keepdims=True)
    scores = student @ directions.T / np.maximum(np.linalg.norm(student, axis=1), 1e-9)[:, None]
    losses = np.log(np.exp(scores / 0.07).sum(1)) - np.diagonal(scores) / 0.07
    assert losses[2] == pytest.approx(np.log(8))
    np.testing.assert_allclose(value, losses.mean(), rtol=1e-5)
    assert not gradients[0][2].any()
    assert np.isfinite(gradients).all()
    value, gradients = compiled(info_nce)(np.zeros_like(student), teacher)
    np.testing.assert_allclose(value, np.log(8), rtol=1e-6)
    assert not np.any(gradients)
