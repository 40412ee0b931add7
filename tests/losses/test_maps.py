import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.losses import (
    activation_boundary,
    attention_transfer,
    factor_transfer,
    feature_mse,
    flow_of_solution,
    neuron_selectivity,
    variational_information,
)

LOG_SCALE = np.float32([-2, 0, 1])
# For maps of three channels.
LOSSES = {
    "at": attention_transfer,
    "at paper": functools.partial(attention_transfer, variant="paper"),
    "at cubed": functools.partial(attention_transfer, power=3),
    "ft": factor_transfer,
    "ft paper": functools.partial(factor_transfer, variant="paper"),
    "ab": activation_boundary,
    "nst": neuron_selectivity,
    "vid": lambda s, t: variational_information(s, t, LOG_SCALE),
    "mse": feature_mse,
}
SCALE_FREE = ["at", "at paper", "at cubed", "ft", "ft paper", "nst"]


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@functools.partial(jax.jit, compiler_options=FAST)
def values(student, teacher):
    names = ("at", "ft paper", "ab", "nst", "vid", "mse")  # every kernel once
    return {name: LOSSES[name](student, teacher) for name in names}


@jax.jit
def values_and_gradients(student, teacher):
    def total(student, teacher, loss):
        losses = loss(student, teacher)
        return losses.sum(), losses

    grad = jax.grad(total, argnums=(0, 1), has_aux=True)
    return {name: grad(student, teacher, loss) for name, loss in LOSSES.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name, loss, teacher",
    [
        ("at", attention_transfer, "in_ft"),
        ("at_pool", attention_transfer, "in_ft4"),
        ("ft", factor_transfer, "in_ft"),
        ("nst", neuron_selectivity, "in_ft"),
        ("ab", activation_boundary, "in_ft6"),
    ],
)
def test_agrees_with_the_official_code(golden, agrees, x64, name, loss, teacher, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_fs", teacher))
    mean = jax.value_and_grad(lambda s, t: loss(s, t).mean())
    got = jax.jit(mean, compiler_options=FAST)(student, teacher)
    agrees(got, golden[f"val_{name}"], golden[f"grad_{name}"], dtype)


def official_log_scale():
    """RepDistiller's, for a variance of 5 in six channels; it keeps them in float32."""
    return np.full(6, np.float32(np.log(np.exp(5 - 1e-5) - 1)))


def three_layers(student, teacher):
    return sum(w * activation_boundary(student, teacher) for w in (0.25, 0.5, 1))


@pytest.mark.parametrize(
    "loss, teacher, value, norm",
    [
        (attention_transfer, "ft", 1.2975235862e-4, 1.4419913846e-4),
        (attention_transfer, "ft4", 3.9965380079e-4, 5.6747278161e-3),
        (factor_transfer, "ft", 9.5465635207e-3, 6.3270455435e-3),
        (neuron_selectivity, "ft", 0.9618013014, 0.0121084408),
        (activation_boundary, "ft", 1.7220384858, 0.0508237910),
        (three_layers, "ft", 3.0135673501, 0.0889416342),
        (
            lambda s, t: flow_of_solution((s, s / 2), (t, t / 2)),
            "ft",
            0.0505877008,
            2.9648464470e-3,
        ),
        (
            lambda s, t: variational_information(s, t, official_log_scale()),
            "ft",
            0.9043455152,
            3.6016947397e-3,
        ),
    ],
    ids=["at", "at_pool", "ft", "nst", "ab", "ab_layers", "fsp", "vid"],
)
def test_agrees_with_the_official_code_on_waves(
    waves, agrees_with_table, loss, teacher, value, norm
):
    agrees_with_table(loss, waves["fs"], waves[teacher], value, norm)


def unit(x, axis):
    return x / jnp.sqrt((x * x).sum(axis, keepdims=True))


def literal_attention(student, teacher, power, paper):
    """AT, eq. 1 and 2, and RepDistiller's mean of squares."""
    a, b = (unit((abs(x) ** power).mean(3), (1, 2)) for x in (student, teacher))
    squares = (a - b) ** 2
    return jnp.sqrt(squares.sum((1, 2))) if paper else squares.mean((1, 2))


def literal_factor(student, teacher):
    """FT, eq. 3, on the whole factors."""
    return abs(unit(student, (1, 2, 3)) - unit(teacher, (1, 2, 3))).sum((1, 2, 3))


def literal_selectivity(student, teacher):
    """NST, eq. 7, with a kernel for each two channels."""
    student, teacher = (unit(x, (1, 2)) for x in (student, teacher))

    def mean_kernel(x, y):
        pairs = [(c, d) for c in range(x.shape[3]) for d in range(y.shape[3])]
        return sum((x[..., c] * y[..., d]).sum((1, 2)) ** 2 for c, d in pairs) / len(pairs)

    own = mean_kernel(student, student) + mean_kernel(teacher, teacher)
    return own - 2 * mean_kernel(student, teacher)


@pytest.mark.parametrize(
    "loss, literal",
    [
        (
            functools.partial(attention_transfer, power=1),
            functools.partial(literal_attention, power=1, paper=False),
        ),
        (
            functools.partial(attention_transfer, power=3, variant="paper"),
            functools.partial(literal_attention, power=3, paper=True),
        ),
        (functools.partial(factor_transfer, variant="paper"), literal_factor),
    ],
    ids=["at power 1", "at paper power 3", "ft paper"],
)
def test_variants_agree_with_their_formulas(agrees_with_literal, loss, literal):
    agrees_with_literal(loss, literal, *draw((4, 3, 5, 3), (4, 3, 5, 3)))


@pytest.mark.parametrize("channels", [(2, 3), (1, 4)])
def test_selectivity_agrees_with_its_formula(agrees_with_literal, channels):
    # Four positions: no more than the channels of the last, where the kernel is rewritten.
    student, teacher = draw(*((3, 2, 2, c) for c in channels))
    agrees_with_literal(neuron_selectivity, literal_selectivity, student, teacher)


def test_boundary_by_hand():
    teacher = np.float32([-1, -1, -1, 0, 2, 2, 2, 2]).reshape(1, 2, 2, 2)
    student = np.float32([-3, -1, 0.5, 1, -1, 0.5, 1, 3]).reshape(1, 2, 2, 2)
    boundary = jax.jit(
        jax.value_and_grad(lambda s, t, margin: activation_boundary(s, t, margin=margin)[0])
    )
    # One trace for both margins: the teacher's 0 counts as off.
    for margin, short in [
        (1.0, [0, 0, 1.5, 2, -2, -0.5, 0, 0]),
        (2.0, [0, 1, 2.5, 3, -3, -1.5, -1, 0]),
    ]:
        value, gradient = boundary(student, teacher, margin)
        np.testing.assert_allclose(value, 0.003 * np.sum(np.square(short)), rtol=1e-6)
        np.testing.assert_allclose(gradient.ravel(), 0.006 * np.array(short), rtol=1e-6)
    assert boundary._cache_size() == 1


def test_flow_pools_and_adds_up_layers():
    # Three maps, each of another size; the student's sizes are not the teacher's.
    student = draw((2, 8, 8, 3), (2, 4, 8, 5), (2, 2, 2, 4))
    teacher = draw((2, 4, 4, 3), (2, 4, 4, 5), (2, 4, 2, 4))
    got = jax.jit(flow_of_solution)(student, teacher)
    expected = np.zeros(2)
    for layer in range(2):
        grams = []
        for maps in (student, teacher):
            x, y = maps[layer : layer + 2]
            size = np.minimum(x.shape[1:3], y.shape[1:3])
            grams.append(np.einsum("nhwc,nhwd->ncd", pool(x, size), pool(y, size)) / size.prod())
        expected += ((grams[0] - grams[1]) ** 2).mean((1, 2))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_information_trains_its_variances(x64):
    student, teacher = (x.astype(np.float64) for x in draw((2, 4, 5, 3), (2, 4, 5, 3)))
    log_scale = np.array([-20.0, 0.5, 3])
    loss = jax.jit(
        jax.value_and_grad(
            lambda x, epsilon: variational_information(student, teacher, x, epsilon=epsilon).mean()
        )
    )
    for epsilon in (1e-5, 0.1):
        value, gradient = loss(log_scale, epsilon)
        variance = np.log1p(np.exp(log_scale)) + epsilon
        errors = ((student - teacher) ** 2).mean((0, 1, 2))
        expected = (errors / variance + np.log(variance)).mean() / 2
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        slope = (1 / variance - errors / variance**2) / 2 / 3
        np.testing.assert_allclose(gradient, slope / (1 + np.exp(-log_scale)), rtol=1e-10)


def pool(maps, size):
    """The rule of PyTorch's `adaptive_avg_pool2d`, window by window."""
    windows = [
        [slice(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        for old, new in zip(maps.shape[1:3], size, strict=True)
    ]
    means = [[maps[:, rows, columns].mean((1, 2)) for columns in windows[1]] for rows in windows[0]]
    return np.stack([np.stack(row, 1) for row in means], 1)


@pytest.mark.parametrize(
    "student, teacher",
    [((7, 7), (3, 2)), ((3, 2), (6, 7)), ((7, 2), (3, 5))],
    ids=["larger", "smaller", "each larger along one axis"],
)
def test_the_larger_map_is_pooled(student, teacher):
    student, teacher = draw((2, *student, 3), (2, *teacher, 3))
    size = np.minimum(student.shape[1:3], teacher.shape[1:3])
    got, expected = values(student, teacher), values(pool(student, size), pool(teacher, size))
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_equal_maps_are_at_rest():
    (maps,) = draw((2, 4, 5, 3))
    # The boundary is satisfied beyond the margin only; the variances keep their own loss.
    maps += np.sign(maps)
    losses = values_and_gradients(maps, maps)
    for name, (gradients, value) in losses.items():
        np.testing.assert_allclose(gradients, np.zeros((2, 2, 4, 5, 3)), atol=1e-7, err_msg=name)
        if name != "vid":
            np.testing.assert_allclose(value, [0, 0], atol=1e-6, err_msg=name)


def test_zero_maps_are_finite():
    maps, zero = draw((2, 4, 5, 3), (2, 4, 5, 3))
    zero[:] = 0
    partly = maps * np.float32([1, 0, 1]) * (np.arange(4) > 1).astype(np.float32)[:, None, None]
    for pair in [(zero, zero), (zero, maps), (maps, zero), (partly, maps), (maps, partly)]:
        for name, (gradients, value) in values_and_gradients(*pair).items():
            assert np.isfinite(value).all() and np.isfinite(gradients).all(), name
            assert (value >= 0).all() or name == "vid", name


@pytest.mark.parametrize("size", [1e-20, 0.01, 1e20])
def test_normalised_losses_do_not_see_the_size(size):
    student, teacher = draw((2, 4, 5, 3), (2, 4, 5, 3))
    size = np.float32(size)
    expected = jax.device_get(values_and_gradients(student, teacher))
    got = jax.device_get(values_and_gradients(size * student, teacher / size))
    for name in SCALE_FREE:
        (by_student, by_teacher), value = got[name]
        np.testing.assert_allclose(value, expected[name][1], rtol=1e-5, err_msg=name)
        rescaled = size * by_student, by_teacher / size
        for gradient, other in zip(rescaled, expected[name][0], strict=True):
            bound = 1e-5 * abs(other).max()
            np.testing.assert_allclose(gradient, other, rtol=0, atol=bound, err_msg=name)


def test_bfloat16_is_computed_in_float32():
    student, teacher = (x.astype(jnp.bfloat16) for x in draw((2, 4, 5, 3), (2, 4, 5, 3)))
    exact = values_and_gradients(student.astype(np.float32), teacher.astype(np.float32))
    for name, value in values(student, teacher).items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact[name][1], rtol=1e-5, err_msg=name)


def test_misuse_is_told():
    maps, wide = np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 5))
    for name, loss in LOSSES.items():
        with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(3, 4, 4, 3\)"):
            loss(maps, np.zeros((3, 4, 4, 3)))
        with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(2, 48\)"):
            loss(maps, np.zeros((2, 48)))
        if name in ("ft paper", "ab", "vid", "mse"):
            with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(2, 4, 4, 5\)"):
                loss(maps, wide)
    for call, message in [
        (lambda: attention_transfer(maps, maps, variant="code"), "'code'"),
        (lambda: attention_transfer(maps, maps, power=0), "power.*0"),
        (lambda: factor_transfer(maps, maps, variant="code"), "'code'"),
        (lambda: variational_information(maps, maps, np.zeros(5)), r"\(2, 4, 4, 3\).*\(5,\)"),
        (lambda: flow_of_solution([maps], [maps]), "1 and 1"),
        (lambda: flow_of_solution([maps] * 3, [maps] * 2), "3 and 2"),
        (lambda: flow_of_solution([maps, maps], [maps, wide]), r"\(2, 3, 3\).*\(2, 3, 5\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)
