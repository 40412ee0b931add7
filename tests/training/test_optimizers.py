import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.training.optimizers import Adam, Constant, Cosine, Sgd, Step, optimizer_groups

STEPS, EPOCH = 40, 10


def rates(optimizer):
    rate = optimizer.rate(STEPS, EPOCH)
    return np.array([rate(jnp.asarray(step)) for step in range(STEPS)])


def test_steps_drop_when_their_epochs_are_completed():
    found = rates(Sgd(learning_rate=0.1, schedule=Step((2, 3.5), 0.1)))
    np.testing.assert_allclose(found[[0, 19, 20, 34, 35]], [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-5)


def test_cosine_and_constant():
    found = rates(Sgd(learning_rate=0.2, schedule=Cosine(final=0.1)))
    expected = 0.2 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(rates(Adam(learning_rate=0.3, schedule=Constant())), 0.3, rtol=1e-6)


def test_warmup_is_linear_and_moves_no_milestone():
    found = rates(Sgd(learning_rate=0.1, schedule=Step((2,)), warmup_epochs=0.5))
    np.testing.assert_allclose(found[:6], 0.1 * np.array([0, 1, 2, 3, 4, 5]) / 5, rtol=1e-5)
    np.testing.assert_allclose(found[[19, 20]], [0.1, 0.01], rtol=1e-5)


def quadratic(optimizer, steps=12):
    """Minimises |x - (1, -2)|^2 + x_0 x_1 from (3, 4)."""
    transform = optimizer_groups({"default": optimizer}, ("student",), STEPS, EPOCH)
    params = {"student": {"x": jnp.array([3.0, 4.0])}, "adapters": {}}
    state = transform.init(params)

    def loss(params):
        x = params["student"]["x"]
        return jnp.sum((x - jnp.array([1.0, -2.0])) ** 2) + x[0] * x[1]

    for _ in range(steps):
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return np.asarray(params["student"]["x"])


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (Sgd(learning_rate=0.03, weight_decay=0.1), [1.34257943, -5.42000914]),
        (Sgd(learning_rate=0.03, weight_decay=0.1, nesterov=True), [2.07484335, -4.51766019]),
        (Sgd(learning_rate=0.03, weight_decay=0.1, momentum=0.0), [1.43197683, 0.29245673]),
        (Adam(learning_rate=0.03, weight_decay=0.1), [2.6420275, 3.64104191]),
        (Adam(learning_rate=0.03, weight_decay=0.1, decoupled=True), [2.54240111, 3.5056481]),
    ],
)
def test_as_pytorch(optimizer, expected):
    """After 12 steps of `torch.optim` SGD, Adam and AdamW, PyTorch 2.13 in float64."""
    with jax.numpy_dtype_promotion("standard"):  # optax' Adam raises a float to an integer
        found = quadratic(optimizer)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_clipping_bounds_the_first_step():
    found = quadratic(Sgd(learning_rate=1.0, momentum=0.0, clip_norm=0.5), steps=1)
    np.testing.assert_allclose(np.linalg.norm(found - np.array([3.0, 4.0])), 0.5, rtol=1e-5)


def test_a_group_may_have_its_own_optimizer():
    transform = optimizer_groups(
        {"default": Sgd(learning_rate=1.0), "adapters": Sgd(learning_rate=0.1)},
        ("student",),
        STEPS,
        EPOCH,
    )
    params = {"student": jnp.ones(2), "adapters": {"map": jnp.ones(2)}}
    updates, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_allclose(updates["student"], -1.0)
    np.testing.assert_allclose(updates["adapters"]["map"], -0.1)


def test_the_adapters_of_a_trained_role_are_in_its_group():
    rates = {"default": 1.0, "teacher": 0.5, "adapters": 0.1}
    transform = optimizer_groups(
        {group: Sgd(learning_rate=rate) for group, rate in rates.items()},
        ("student", "teacher"),
        STEPS,
        EPOCH,
    )
    params = {"student": jnp.ones(1), "teacher": jnp.ones(1)}
    params["adapters"] = {name: {"map": jnp.ones(1)} for name in ("student", "teacher", "other")}
    updates, _ = transform.update(params, transform.init(params), params)
    expected = {"student": -1.0, "teacher": -0.5, "other": -0.1}
    for name, rate in expected.items():
        np.testing.assert_allclose(updates["adapters"][name]["map"], rate)
    np.testing.assert_allclose([updates["student"], updates["teacher"]], [[-1.0], [-0.5]])
