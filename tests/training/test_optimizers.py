import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.experiment.building import build
from kd_jax.training import OPTIMIZERS, SCHEDULES, Optimizer, optimizer_groups
from kd_jax.training.optimizers import (
    Constant,
    Cosine,
    Schedule,
    Step,
    register_optimizer,
    register_schedule,
)

STEPS, EPOCH = 40, 10
OPTIMIZER = Optimizer.__annotations__  # fields that all optimizers have
SGD, ADAMW = OPTIMIZERS.get("sgd"), OPTIMIZERS.get("adamw")


@pytest.fixture(autouse=True)
def promotion():
    """Some optimizers of optax mix floats and integers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def rates(optimizer):
    rate = optimizer.rate(STEPS, EPOCH)
    return np.array([rate(jnp.asarray(step)) for step in range(STEPS)])


def test_steps_drop_when_their_epochs_are_completed():
    found = rates(SGD(learning_rate=0.1, schedule=Step((2, 3.5), 0.1)))
    np.testing.assert_allclose(found[[0, 19, 20, 34, 35]], [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-5)


def test_milestones_that_round_to_one_step_multiply():
    found = rates(SGD(learning_rate=1.0, schedule=Step((2, 2.01), 0.5)))
    np.testing.assert_allclose(found[[19, 20]], [1.0, 0.25], rtol=1e-6)


def test_cosine_and_constant():
    found = rates(SGD(learning_rate=0.2, schedule=Cosine(final=0.1)))
    expected = 0.2 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(rates(ADAMW(learning_rate=0.3)), 0.3, rtol=1e-6)
    assert ADAMW(learning_rate=0.3).schedule == Constant()


def test_warmup_is_linear_and_moves_no_milestone():
    found = rates(SGD(learning_rate=0.1, schedule=Step((2,)), warmup_epochs=0.5))
    np.testing.assert_allclose(found[:6], 0.1 * np.array([0, 1, 2, 3, 4, 5]) / 5, rtol=1e-5)
    np.testing.assert_allclose(found[[19, 20]], [0.1, 0.01], rtol=1e-5)


def quadratic(transform, steps=12):
    """Minimizes |x - (1, -2)|^2 + x_0 x_1 from (3, 4)."""
    params = {"student": {"x": jnp.array([3.0, 4.0])}, "adapters": {}}
    state = transform.init(params)

    def loss(params):
        x = params["student"]["x"]
        return jnp.sum((x - jnp.array([1.0, -2.0])) ** 2) + x[0] * x[1]

    @jax.jit
    def step(params, state):
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return np.asarray(params["student"]["x"])


def minimum(optimizer, steps=12):
    return quadratic(optimizer_groups({"default": optimizer}, ("student",), STEPS, EPOCH), steps)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("sgd", {"momentum": 0.9}, [1.34257943, -5.42000914]),
        ("sgd", {"momentum": 0.9, "nesterov": True}, [2.07484335, -4.51766019]),
        ("sgd", {"momentum": 0.0}, [1.43197683, 0.29245673]),
        ("sgd", {}, [1.43197683, 0.29245673]),  # optax's default
        ("adam", {}, [2.6420275, 3.64104191]),
        ("adamw", {}, [2.54240111, 3.5056481]),
    ],
)
def test_updates_are_those_of_pytorch(name, options, expected):
    """After 12 steps of `torch.optim` SGD, Adam and AdamW, PyTorch 2.13 in float64."""
    optimizer = OPTIMIZERS.get(name)(learning_rate=0.03, weight_decay=0.1, **options)
    np.testing.assert_allclose(minimum(optimizer), expected, rtol=1e-5)


def test_clipping_bounds_the_first_step():
    found = minimum(SGD(learning_rate=1.0, clip_norm=0.5), steps=1)
    np.testing.assert_allclose(np.linalg.norm(found - np.array([3.0, 4.0])), 0.5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Specifying a key")  # noisy_sgd
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_each_optimizer_needs_only_a_learning_rate(name):
    """It has optax's defaults, and works with a schedule in a compiled step."""
    optimizer = OPTIMIZERS.get(name)(learning_rate=0.1, schedule=Cosine())
    defaults = inspect.signature(getattr(optax, name)).parameters
    own = {field.name for field in dataclasses.fields(optimizer)} - {*OPTIMIZER}
    assert own <= set(defaults)
    assert all(getattr(optimizer, key) == defaults[key].default for key in own)
    params = {"w": jnp.ones((3, 2))}
    transform = optimizer.build(STEPS, EPOCH)
    state = jax.jit(transform.init)(params)
    updates, _ = jax.eval_shape(transform.update, params, state, params)
    assert jax.tree.map(jnp.shape, updates) == {"w": (3, 2)}


def test_the_optimizers_are_those_that_run_with_a_schedule():
    known = {"adam", "adamw", "adafactor", "lamb", "lars", "lion", "rmsprop", "sgd"}
    assert known <= set(OPTIMIZERS)
    # These need the loss as a function, take no schedule, or are parts of optimizers.
    unfit = {"lbfgs", "optimistic_adam", "rprop", "sm3", "polyak_sgd", "scale_by_learning_rate"}
    assert not unfit & set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("adamw", {}, lambda rate: optax.adamw(rate)),
        ("adamw", {"weight_decay": 0.0}, lambda rate: optax.adamw(rate, weight_decay=0.0)),
        ("lion", {}, lambda rate: optax.lion(rate)),
        (
            "lion",
            {"b2": 0.9, "weight_decay": 0.3},
            lambda rate: optax.lion(rate, 0.9, 0.9, None, 0.3),
        ),
    ],
)
def test_an_optimizer_with_a_weight_decay_is_optaxs_own(name, options, rule):
    found = minimum(OPTIMIZERS.get(name)(learning_rate=0.03, **options))
    np.testing.assert_allclose(found, quadratic(rule(0.03)), rtol=1e-6)


def read(**values):
    """Reads an optimizer as a config does."""
    return build(OPTIMIZERS.get(values.pop("name")), values, "optimizers.default")


def test_a_config_names_the_arguments_of_optax():
    values = {"name": "adamw", "learning_rate": 0.1, "b2": 0.99, "nesterov": True, "clip_norm": 1}
    assert read(**values, schedule={"name": "step", "milestones": [2, 3]}) == ADAMW(
        learning_rate=0.1, b2=0.99, nesterov=True, clip_norm=1, schedule=Step((2, 3))
    )
    assert read(name="sgd", learning_rate=1, momentum=None).momentum is None
    assert read(name="adafactor", learning_rate=1, clipping_threshold=None) is not None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "sgd", "b1": 0.9}, r"^optimizers\.default\.b1 is not used by sgd: its keys are"),
        ({"name": "lion", "eps": 1.0}, r"optimizers\.default\.eps is not used by lion"),
        ({"name": "adamw", "momentun": 0.9}, r"default\.momentun is not used by adamw"),
        ({"name": "sgd", "nesterov": 1.0}, r"default\.nesterov = 1\.0 must be bool"),
        ({"name": "sgd", "momentum": "0.9"}, r"default\.momentum = '0\.9' must be float or None"),
        ({"name": "adamw", "b1": None}, r"default\.b1 = None must be float"),
        ({"name": "adamw", "weight_decay": None}, r"weight_decay = None must be float"),
        ({"name": "sgd", "momentum": 1.0}, r"momentum must be at least 0 and less than 1, not 1"),
        ({"name": "adam", "b2": -0.1}, r"optimizers\.default: b2 must be at least 0"),
        ({"name": "sgd", "learning_rate": 0.0}, "learning_rate must be greater than 0 and finite"),
        ({"name": "sgd", "learning_rate": float("inf")}, "learning_rate = inf must be a finite"),
        ({"name": "sgd", "clip_norm": 0.0}, "clip_norm must be greater than 0"),
        ({"name": "adan", "b3": 1.5}, "b3 must be at least 0 and less than 1, not 1.5"),
        ({"name": "adam", "eps": -1e-8}, "eps must be 0 or more and finite, not -1e-08"),
        ({"name": "adamw", "mask": {"a": 1}}, r"default\.mask = .* must be bool or None"),
        ({"name": "adam", "mu_dtype": "float64"}, "mu_dtype = 'float64' is unknown: choose one of"),
        ({"name": "sgd", "schedule": {"name": "cosine", "final": -3.0}}, "final must be 0 to 1"),
        ({"name": "sgd", "schedule": {"name": "step", "milestones": [-1]}}, "milestones must be 0"),
        (
            {"name": "sgd", "schedule": {"name": "step", "milestones": [1], "factor": 0}},
            r"default\.schedule: factor must be greater than 0 and at most 1, not 0",
        ),
        ({"name": "sgd", "weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"name": "sgd", "schedule": {"name": "stairs"}}, r"schedule\.name = 'stairs' is unknown"),
        ({"name": "sgd", "schedule": {"name": "cosine", "last": 0}}, r"schedule\.last is not used"),
    ],
)
def test_wrong_options_name_their_key(values, says):
    with pytest.raises(UsageError, match=says):
        read(**{"learning_rate": 0.1, **values})


def test_a_learning_rate_is_required():
    with pytest.raises(UsageError, match=r"optimizers\.default\.learning_rate is missing"):
        read(name="sgd")


@pytest.fixture
def registries(monkeypatch):
    """Forgets what a test registers."""
    for registry in (OPTIMIZERS, SCHEDULES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_a_user_adds_a_schedule_and_an_optimizer(registries):
    @register_schedule("halving")
    @dataclasses.dataclass(frozen=True)
    class Halving(Schedule):
        every: int = 10

        def build(self, rate, steps, steps_per_epoch):
            return lambda step: rate * 0.5 ** (step // self.every)

    @register_optimizer("sign")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Sign(Optimizer):
        scale: float = 1.0

        def rule(self, rate):
            return [
                optax.scale_by_sign(),
                optax.scale_by_learning_rate(rate),
                optax.scale(self.scale),
            ]

    values = {"learning_rate": 0.1, "scale": 2.0, "schedule": {"name": "halving", "every": 1}}
    optimizer = read(name="sign", **values)
    assert optimizer == Sign(learning_rate=0.1, scale=2.0, schedule=Halving(1))
    np.testing.assert_allclose(rates(optimizer)[:3], [0.1, 0.05, 0.025], rtol=1e-6)
    found = minimum(optimizer, steps=2)
    np.testing.assert_allclose(found, [3 - 0.2 - 0.1, 4 - 0.2 - 0.1], rtol=1e-6)
    assert {"sign", "sgd"} <= set(OPTIMIZERS.names())
    with pytest.raises(UsageError, match="'sgd' is an optimizer of kd_jax"):
        register_optimizer("sgd", Sign)
    with pytest.raises(UsageError, match="'cosine' is a schedule of kd_jax"):
        register_schedule("cosine", Halving)


def test_every_group_can_have_its_own_optimizer():
    """Adapters under the name of a trained role are in the group of this role."""
    groups = {"default": 1.0, "teacher": 0.5, "adapters": 0.1}
    transform = optimizer_groups(
        {group: SGD(learning_rate=rate) for group, rate in groups.items()},
        ("student", "teacher"),
        STEPS,
        EPOCH,
    )
    params = {"student": jnp.ones(1), "teacher": jnp.ones(1)}
    params["adapters"] = {name: {"map": jnp.ones(1)} for name in ("student", "teacher", "other")}
    updates, _ = transform.update(params, transform.init(params), params)
    for name, rate in {"student": -1.0, "teacher": -0.5, "other": -0.1}.items():
        np.testing.assert_allclose(updates["adapters"][name]["map"], rate)
    np.testing.assert_allclose([updates["student"], updates["teacher"]], [[-1.0], [-0.5]])


def test_an_empty_group_of_adapters_may_have_an_optimizer():
    optimizers = {"default": SGD(learning_rate=1.0), "adapters": SGD(learning_rate=0.1)}
    transform = optimizer_groups(optimizers, ("student",), STEPS, EPOCH)
    params = {"student": jnp.ones(2), "adapters": {}}
    updates, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_allclose(updates["student"], -1.0)
