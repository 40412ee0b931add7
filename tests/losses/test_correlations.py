"""DIST and z-scores of logits, next to their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 5)).astype(np.float32)


def softmax(x):
    x = np.exp(x.astype(np.float64))
    return x / x.sum(1, keepdims=True)


def correlation(x, y):
    x, y = (v - v.mean(1, keepdims=True) for v in (x, y))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return (x * y).sum(1) / (norms + 1e-8)


def compiled(loss):
    return jax.jit(jax.value_and_grad(loss), compiler_options=FAST)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_relations_are_those_of_the_formula(temperature):
    both = [softmax(x / temperature) for x in (STUDENT, TEACHER)]
    options = {"temperature": temperature}
    image_relation = jax.jit(losses.inter_class_relation, compiler_options=FAST)
    class_relation = jax.jit(losses.intra_class_relation, compiler_options=FAST)
    images = image_relation(STUDENT, TEACHER, **options)
    expected = temperature**2 * (1 - correlation(*both))
    np.testing.assert_allclose(images, expected, rtol=1e-5)
    classes = class_relation(STUDENT, TEACHER, **options)
    expected = temperature**2 * (1 - correlation(*(p.T for p in both)).mean())
    np.testing.assert_allclose(classes, expected, rtol=1e-5)


def test_masked_images_are_left_out_even_if_they_are_nan():
    where = np.arange(6) < 4
    broken = np.where(where[:, None], STUDENT, np.nan)

    def loss(x):
        return losses.intra_class_relation(x, TEACHER, where=where)

    value, gradient = compiled(loss)(broken)
    columns = (softmax(x[:4]).T for x in (STUDENT, TEACHER))
    np.testing.assert_allclose(value, 1 - correlation(*columns).mean(), rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[4:])


def test_over_devices_it_is_the_loss_of_the_whole_batch():
    def share(x, y):
        return jax.value_and_grad(losses.intra_class_relation)(x, y, axis_name="d")

    value, gradient = compiled(lambda x: losses.intra_class_relation(x, TEACHER))(STUDENT)
    pairs = (x.reshape(2, 3, 5) for x in (STUDENT, TEACHER))
    values, gradients = jax.pmap(share, axis_name="d")(*pairs)
    np.testing.assert_allclose(values, [value, value], rtol=1e-5)
    # The average over the devices is the gradient of weights that they share.
    np.testing.assert_allclose(gradients.reshape(6, 5) / 2, gradient, rtol=1e-4, atol=1e-7)


def test_equal_predictions_have_small_gradients():
    def total(x):
        pair = jnp.asarray(TEACHER)
        kl = losses.soft_target_kl(losses.standardized_logits(x), pair).mean()
        images = losses.inter_class_relation(x, pair).mean()
        return kl + images + losses.intra_class_relation(x, pair)

    run = compiled(total)
    for rows in (np.zeros((6, 5)), np.full((6, 5), 1e4), STUDENT[:1].repeat(6, 0)):
        value, gradient = run(jnp.asarray(rows, jnp.float32))
        assert np.isfinite(value)
        assert np.abs(gradient).max() < 10


def test_z_scores_have_mean_0_and_standard_deviation_1():
    expected = (STUDENT - STUDENT.mean(1, keepdims=True)) / STUDENT.std(1, ddof=1, keepdims=True)
    scores = jax.jit(losses.standardized_logits, compiler_options=FAST)
    np.testing.assert_allclose(scores(STUDENT), expected, atol=1e-6)
    assert not np.any(scores(np.full((6, 5), 7.0, np.float32)))
    with pytest.raises(ValueError, match=r"logits must be \[N, C\], C > 1; got logits \(2, 1\)"):
        losses.standardized_logits(np.zeros((2, 1)))
