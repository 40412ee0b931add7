import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models import norms

UNIT = {
    "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
    "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_has_pytorchs_constants_and_float32_statistics(dtype):
    x = jnp.asarray(100 + np.random.default_rng(0).normal(size=(64, 2, 2, 3)), dtype)
    norm = norms.batch_norm(train=True, axis_name=None)()
    y, state = norm.apply(UNIT, x, mutable=["batch_stats"])
    assert y.dtype == dtype
    x = np.asarray(x, np.float32)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    if dtype == jnp.float32:
        np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_batch_norm_averages_over_the_axis():
    x = jax.random.normal(jax.random.key(0), (8, 2, 2, 2, 3))
    ours, whole = (norms.batch_norm(train=True, axis_name=name)() for name in ("data", None))
    step = jax.pmap(lambda x: ours.apply(UNIT, x, mutable=["batch_stats"])[0], axis_name="data")
    expected, _ = whole.apply(UNIT, x.reshape(16, 2, 2, 3), mutable=["batch_stats"])
    np.testing.assert_allclose(step(x).reshape(16, 2, 2, 3), expected, atol=1e-5)


def batches(mean=100.0, std=1.0, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return jnp.asarray(mean + std * rng.normal(size=(64, 2, 2, 3)), dtype)


def test_on_the_cpu_it_is_flax_to_the_last_digit():
    theirs = nn.BatchNorm(
        use_running_average=False,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=jnp.float32,
    )
    ours = norms.batch_norm(train=True, axis_name=None)()
    x = batches()
    assert jax.tree.structure(ours.init(jax.random.key(0), x)) == jax.tree.structure(UNIT)

    def results(norm):
        def loss(x):
            y, state = norm.apply(UNIT, x, mutable=["batch_stats"])
            return (y**3).sum(), state

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(x)

    jax.tree.map(np.testing.assert_array_equal, results(ours), results(theirs))


@pytest.mark.parametrize(
    ("mean", "std", "shift"), [(0, 1, 0), (3, 1, 0), (1000, 0.1, 1000), (1000, 0.1, 999.95)]
)
def test_one_pass_is_as_exact_as_two(mean, std, shift):
    x, ones = batches(mean, std), jnp.ones(3)
    shift = jnp.full(3, shift, jnp.float32)
    y, *moments = norms.in_one_pass(x, shift, ones, 0 * ones)
    wide = np.asarray(x, np.float64)
    exact = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    for found, right in zip(moments, exact, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    expected = (wide - exact[0]) / np.sqrt(exact[1] + 1e-5)
    np.testing.assert_allclose(y, expected, atol=max(2e-5, 1e-6 * mean / std))

    def loss(way, x):
        return (way(x, shift, ones, 0 * ones)[0] ** 3).sum()

    one, two = (
        jax.grad(lambda x, w=way: loss(w, x))(x) for way in (norms.in_one_pass, norms.in_two_passes)
    )
    np.testing.assert_allclose(one, two, atol=2e-4 * abs(two).max() * max(1, mean / std / 1e3))


def test_one_pass_joins_devices_once():
    x, ones = batches(), jnp.ones(3)
    program = jax.make_jaxpr(
        lambda x: norms.in_one_pass(x, ones, ones, ones, axis_name="data")[0],
        axis_env=[("data", 2)],
    )(x)
    assert str(program).count("psum") == 1
    assert float(norms.in_one_pass(jnp.full_like(x, 7), ones, ones, ones)[2].max()) == 0
