import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, value_of

from kd_jax.losses import (
    activation_boundary,
    attention_transfer,
    factor_transfer,
    feature_mse,
    flow_of_solution,
    neuron_selectivity,
    variational_information,
)


def vid(student, teacher, variance=5):
    """Computes VID with six channels of this variance, as RepDistiller keeps it: in float32."""
    log_scale = np.full(6, np.float32(np.log(np.exp(variance - 1e-5) - 1)))
    return variational_information(student, teacher, log_scale)


LOSSES = {
    "at": attention_transfer,
    "ft paper": functools.partial(factor_transfer, variant="paper"),
    "ab": activation_boundary,
    "nst": neuron_selectivity,
    "vid": vid,
    "mse": feature_mse,
}


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@functools.partial(jax.jit, compiler_options=FAST)
def values(student, teacher):
    return {name: loss(student, teacher) for name, loss in LOSSES.items()}


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
def test_agrees_with_the_official_code(golden, agrees, name, loss, teacher):
    expected = golden[f"val_{name}"], golden[f"grad_{name}"]
    agrees(lambda s, t: loss(s, t).mean(), "in_fs", teacher, *expected)


def two_flows(student, teacher):
    return flow_of_solution((student, student / 2), (teacher, teacher / 2))


@pytest.mark.parametrize(
    "loss, value, norm",
    [(two_flows, 0.0505877008, 2.9648464470e-3), (vid, 0.9043455152, 3.6016947397e-3)],
)
def test_agrees_with_printed_results_of_the_official_code(x64, loss, value, norm):
    def wave(w, c):
        """Returns sin(w i + c), with i in NCHW order."""
        return np.moveaxis(np.sin(w * np.arange(8 * 6 * 8 * 8) + c).reshape(8, 6, 8, 8), 1, -1)

    # Mean loss and norm of its gradient, by RepDistiller at b84f547 (PyTorch, float64).
    mean = jax.value_and_grad(lambda s, t: loss(s, t).mean())
    got, gradient = jax.jit(mean, compiler_options=FAST)(wave(0.37, 0.2), wave(0.23, 0.9))
    np.testing.assert_allclose([got, np.linalg.norm(gradient)], [value, norm], rtol=1e-8)


def unit(x, axis):
    return x / jnp.sqrt((x * x).sum(axis, keepdims=True))


def attention_formula(student, teacher, power, variant):
    """Computes eq. 1 and 2 of AT, or the mean of squares of RepDistiller."""
    a, b = (unit((abs(x) ** power).mean(3), (1, 2)) for x in (student, teacher))
    squares = (a - b) ** 2
    return jnp.sqrt(squares.sum((1, 2))) if variant == "paper" else squares.mean((1, 2))


@pytest.mark.parametrize("power, variant", [(1, "repdistiller"), (3, "paper")])
def test_attention_agrees_with_its_formula(agrees_with_formula, power, variant):
    options = {"power": power, "variant": variant}
    pair = (functools.partial(f, **options) for f in (attention_transfer, attention_formula))
    agrees_with_formula(*pair, *draw((4, 3, 5, 3), (4, 3, 5, 3)))


def factor_formula(student, teacher):
    """Computes eq. 3 of FT with the whole factors."""
    return abs(unit(student, (1, 2, 3)) - unit(teacher, (1, 2, 3))).sum((1, 2, 3))


def test_factor_of_the_paper_agrees_with_its_formula(agrees_with_formula):
    agrees_with_formula(LOSSES["ft paper"], factor_formula, *draw((4, 3, 5, 3), (4, 3, 5, 3)))


def selectivity_formula(student, teacher):
    """Computes eq. 7 of NST with one kernel per pair of channels."""
    student, teacher = (unit(x, (1, 2)) for x in (student, teacher))

    def mean_kernel(x, y):
        pairs = [(c, d) for c in range(x.shape[3]) for d in range(y.shape[3])]
        return sum((x[..., c] * y[..., d]).sum((1, 2)) ** 2 for c, d in pairs) / len(pairs)

    own = mean_kernel(student, student) + mean_kernel(teacher, teacher)
    return own - 2 * mean_kernel(student, teacher)


@pytest.mark.parametrize("channels", [(2, 3), (1, 4)])
def test_selectivity_agrees_with_its_formula(agrees_with_formula, channels):
    # If there are no more positions (4) than channels, the loss uses another formula.
    student, teacher = draw(*((3, 2, 2, c) for c in channels))
    agrees_with_formula(neuron_selectivity, selectivity_formula, student, teacher)


def test_boundary_by_hand():
    teacher = np.float32([-1, -1, -1, 0, 2, 2, 2, 2]).reshape(1, 2, 2, 2)
    student = np.float32([-3, -1, 0.5, 1, -1, 0.5, 1, 3]).reshape(1, 2, 2, 2)
    boundary = jax.jit(
        jax.value_and_grad(lambda s, t, margin: activation_boundary(s, t, margin=margin)[0])
    )
    # The teacher's 0 counts as off. One trace serves both margins.
    for margin, short in [
        (1.0, [0, 0, 1.5, 2, -2, -0.5, 0, 0]),
        (2.0, [0, 1, 2.5, 3, -3, -1.5, -1, 0]),
    ]:
        value, gradient = boundary(student, teacher, margin)
        np.testing.assert_allclose(value, 0.003 * np.sum(np.square(short)), rtol=1e-6)
        np.testing.assert_allclose(gradient.ravel(), 0.006 * np.array(short), rtol=1e-6)
    assert boundary._cache_size() == 1


def test_boundary_has_no_loss_beyond_the_margin():
    (maps,) = draw((2, 4, 5, 3))
    maps += np.sign(maps)
    assert not value_of(activation_boundary)(maps, maps).any()


def pool(maps, size):
    """Computes `adaptive_avg_pool2d` of PyTorch, window by window."""
    windows = [
        [slice(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        for old, new in zip(maps.shape[1:3], size, strict=True)
    ]
    means = [[maps[:, rows, columns].mean((1, 2)) for columns in windows[1]] for rows in windows[0]]
    return np.stack([np.stack(row, 1) for row in means], 1)


def test_flow_pools_maps_and_sums_over_layers():
    # Three maps of different sizes. The sizes of the student and of the teacher differ.
    student = draw((2, 8, 8, 3), (2, 4, 8, 5), (2, 2, 2, 4))
    teacher = draw((2, 4, 4, 3), (2, 4, 4, 5), (2, 4, 2, 4))
    got = value_of(flow_of_solution)(student, teacher)
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


def test_information_of_equal_maps_has_no_gradient():
    (maps,) = draw((2, 4, 5, 6))
    gradients = jax.jit(jax.grad(lambda s, t: vid(s, t).sum(), argnums=(0, 1)))(maps, maps)
    np.testing.assert_allclose(gradients, np.zeros((2, *maps.shape)), atol=1e-7)


@pytest.mark.parametrize(
    "student, teacher",
    [((7, 7), (3, 2)), ((3, 2), (6, 7)), ((7, 2), (3, 5))],
    ids=["larger", "smaller", "each larger along one axis"],
)
def test_the_larger_map_is_pooled(student, teacher):
    student, teacher = draw((2, *student, 6), (2, *teacher, 6))
    size = np.minimum(student.shape[1:3], teacher.shape[1:3])
    got, expected = values(student, teacher), values(pool(student, size), pool(teacher, size))
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


MAPS, WIDE = np.zeros((2, 4, 4, 6)), np.zeros((2, 4, 4, 5))


def test_maps_and_rows_do_not_match():
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match=r"\(2, 4, 4, 6\).*\(2, 96\)"):
            jax.eval_shape(loss, MAPS, MAPS.reshape(2, 96))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: attention_transfer(MAPS, MAPS, variant="code"), "variant.*'code'"),
        (lambda: attention_transfer(MAPS, MAPS, power=0), "power must be at least 1; got 0"),
        (lambda: factor_transfer(MAPS, MAPS, variant="code"), "variant.*'code'"),
        (lambda: variational_information(MAPS, MAPS, np.zeros(5)), r"log_scale \(5,\)"),
        (lambda: flow_of_solution([MAPS], [MAPS]), "two or more maps.*; got 1 and 1"),
        (lambda: flow_of_solution([MAPS] * 3, [MAPS] * 2), "same number.*; got 3 and 2"),
        (lambda: flow_of_solution([MAPS] * 2, [MAPS, WIDE]), r"\(2, 6, 6\).*\(2, 6, 5\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call)
