import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, compiled, value_of

from kd_jax import losses

LABELS = np.array([0, 4, 2, 2, 1], np.int32)


def a_softmax(cosines, labels, **options):
    """Computes A-Softmax with embeddings of length 5."""
    return losses.a_softmax(cosines, jnp.full(len(cosines), 5, cosines.dtype), labels, **options)


OTHERS = losses.normalized_softmax, losses.cosface, losses.arcface, losses.sphereface_r
LOSSES = {loss.__name__: loss for loss in (*OTHERS, a_softmax)}


def both(name, cosines, labels, **options):
    """Returns the losses and the gradient of their sum."""

    def total(cosines):
        values = LOSSES[name](cosines, labels, **options)
        return jnp.nansum(values), values

    gradient, values = jax.grad(total, has_aux=True)(cosines)
    return values, gradient


@functools.cache
def program(name, **static):
    return jax.jit(functools.partial(both, name, **static), compiler_options=FAST)


def run(name, cosines, labels=LABELS, **options):
    """Returns the losses and the gradient; options that are integers are static."""
    static = {k: x for k, x in options.items() if isinstance(x, int)}
    traced = {k: x for k, x in options.items() if k not in static}
    return program(name, **static)(cosines, labels, **traced)


@functools.partial(jax.jit, compiler_options=FAST)
def every(cosines, labels):
    """Returns the values and gradients of all losses."""
    return {name: both(name, cosines, labels) for name in LOSSES}


def random_cosines(rows=5, classes=6):
    return np.random.default_rng(0).uniform(-1, 1, (rows, classes))


def formula(cosines, labels, target, scale):
    """Computes the cross-entropies in float64; `target` maps the angles of the labels."""
    logits = scale * cosines
    rows = np.arange(len(labels))
    logits[rows, labels] = scale * target(np.arccos(np.clip(cosines[rows, labels], -1, 1)))
    return np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) - (
        logits[rows, labels] - logits.max(1)
    )


def psi(m):
    """Returns the function of eq. 7 of the A-Softmax paper."""

    def function(theta):
        k = np.minimum(np.floor(theta * m / np.pi), m - 1)
        return (-1) ** k * np.cos(m * theta) - 2 * k

    return function


def insightface(m):
    def target(theta):
        return np.where(theta + m < np.pi, np.cos(theta + m), np.cos(theta) - m * np.sin(m))

    return target


GRID = np.linspace(0, np.pi, 1003)


def targets_on_the_grid(name, factor, **options):
    """Returns the replaced cosines of the label, from the losses with one class at 90 degrees."""
    cosines = np.stack([np.cos(GRID), np.zeros_like(GRID)], 1)
    loss, _ = run(name, cosines, np.zeros(len(GRID), np.int32), **options)
    return -np.log(np.expm1(loss)) / factor


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_psi_is_that_of_the_paper_and_falls_from_1(x64, margin):
    got = targets_on_the_grid("a_softmax", 5, margin=margin)
    np.testing.assert_allclose(got, psi(margin)(GRID), atol=1e-9)
    assert (np.diff(got) < 0).all()
    np.testing.assert_allclose(got[[0, -1]], [1, 1 - 2 * margin], atol=1e-9)


@pytest.mark.parametrize(
    "name, target, scale, options",
    [
        ("normalized_softmax", np.cos, 64, {}),
        ("cosface", lambda theta: np.cos(theta) - 0.35, 64, {}),
        ("arcface", insightface(0.5), 64, {}),
        ("arcface", insightface(1.2), 10, {"margin": 1.2, "scale": 10.0}),
        ("sphereface_r", lambda t: np.cos(np.minimum(1.7 * t, np.pi)), 30, {}),
        ("sphereface_r", lambda t: np.cos(np.minimum(1.1 * t, np.pi)), 30, {"margin": 1.1}),
        ("a_softmax", psi(4), 5, {}),
        ("a_softmax", lambda t: (3 * np.cos(t) + psi(4)(t)) / 4, 5, {"blend": 3.0}),
        (
            "a_softmax",
            lambda t: (0.5 * np.cos(t) + psi(3)(t)) / 1.5,
            5,
            {"margin": 3, "blend": 0.5},
        ),
    ],
)
def test_agrees_with_the_formula(x64, name, target, scale, options):
    cosines = np.tile(random_cosines(), (20, 1))
    labels = np.tile(LABELS, 20)
    cosines[np.arange(100), labels] = np.cos(np.linspace(0, np.pi, 100))
    loss, _ = run(name, cosines, labels, **options)
    assert loss.dtype == jnp.float64
    expected = formula(cosines, labels, target, scale)
    np.testing.assert_allclose(loss, expected, rtol=1e-10, atol=1e-10)
    single, _ = run(name, np.float32(cosines), labels, **options)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, loss, rtol=1e-4, atol=1e-4)


def test_arcface_falls_where_the_angle_would_exceed_pi(x64):
    target = targets_on_the_grid("arcface", 4, scale=4.0, margin=0.5)
    assert (np.diff(target) < 0).all()
    (step,) = np.flatnonzero(np.diff(target) < -0.05)
    assert GRID[step] + 0.5 < np.pi < GRID[step + 1] + 0.5
    assert np.diff(target)[step] == pytest.approx(1 - np.cos(0.5) - 0.5 * np.sin(0.5), abs=2e-3)


@pytest.mark.parametrize("name", ["normalized_softmax", "cosface", "arcface", "a_softmax"])
def test_gradients_are_finite_differences(x64, name):
    cosines, step = 0.9 * random_cosines(), 1e-6
    _, gradient = run(name, cosines)
    for i, j in np.ndindex(cosines.shape):
        shift = step * (np.arange(30).reshape(5, 6) == 6 * i + j)
        (up, _), (down, _) = run(name, cosines + shift), run(name, cosines - shift)
        expected = (up.sum() - down.sum()) / (2 * step)
        np.testing.assert_allclose(gradient[i, j], expected, rtol=1e-5, atol=1e-7)


def test_sphereface_r_has_the_gradient_of_the_cosine(x64):
    cosines = random_cosines()
    _, gradient = run("sphereface_r", cosines)
    logits = 30 * cosines
    rows = np.arange(5)
    logits[rows, LABELS] = 30 * np.cos(np.minimum(1.7 * np.arccos(cosines[rows, LABELS]), np.pi))
    p = np.exp(logits - logits.max(1, keepdims=True))
    expected = 30 * (p / p.sum(1, keepdims=True) - np.eye(6)[LABELS])
    np.testing.assert_allclose(gradient, expected, atol=1e-10)


def test_lengths_of_embeddings_have_gradients(x64):
    cosines, norms = random_cosines(), np.arange(5.0)  # one length is 0
    loss = functools.partial(losses.a_softmax, labels=LABELS, blend=2.0)
    by_length = jax.jit(jax.grad(lambda x: loss(cosines, x).sum()), compiler_options=FAST)(norms)
    value = value_of(losses.a_softmax, blend=2.0)
    up, down = (value(cosines, norms + x, LABELS) for x in (1e-6, -1e-6))
    np.testing.assert_allclose(by_length, (up - down) / 2e-6, rtol=1e-6)
    np.testing.assert_allclose(value(cosines, norms, LABELS)[0], np.log(6))


def test_without_margin_all_losses_are_softmax():
    cosines = np.float32(random_cosines())
    plain = {"cosface": {"margin": 0.0}, "arcface": {"margin": 0.0}}
    plain["sphereface_r"] = {"margin": 1.0, "scale": 64.0}
    expected, gradient = run("normalized_softmax", cosines)
    for name, options in plain.items():
        loss, got = run(name, cosines, **options)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-4)
    expected = value_of(losses.cross_entropy)(5 * cosines, LABELS)
    for options in ({"margin": 1}, {"blend": 1e9}, {"blend": np.inf}):
        loss, got = run("a_softmax", cosines, **options)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert np.isfinite(got).all()


def test_blend_is_that_of_the_official_code():
    blend = value_of(losses.a_softmax_blend)
    # face_anchors 3.1; its iterations begin at 1.
    table = {1: 893, 10: 455, 100: 77, 500: 16.4, 1000: 8.3, 1500: 5.5}
    for iteration, expected in table.items():
        got = blend(np.int32(iteration - 1))
        assert got.dtype == jnp.float32 and got.shape == ()
        assert float(f"{got:.3g}" if got > 10 else f"{got:.2g}") == pytest.approx(expected, 0.005)
    values = blend(np.arange(28_000, dtype=np.int32))
    assert np.flatnonzero(values == 5)[0] + 1 == 1659
    assert (values[1658:] == 5).all() and (np.diff(values) <= 0).all()
    other = blend(np.int32(3), start=100.0, gamma=1.0, power=2.0, least=0.0)
    np.testing.assert_allclose(other, 100 / 5**2, rtol=1e-6)
    # The loss accepts the blend of a traced step.
    cosines = np.float32(random_cosines())
    loss = value_of(lambda step: a_softmax(cosines, LABELS, blend=losses.a_softmax_blend(step)))
    expected, _ = run("a_softmax", cosines, blend=5.0)
    np.testing.assert_allclose(loss(np.int32(5000)), expected, rtol=1e-6)


def test_extreme_angles_rounded_cosines_and_bfloat16_are_finite():
    one = np.float32(1)
    beyond = np.nextafter(one, 2 * one)
    extremes = np.array([1, -1, 0, beyond, -beyond, np.nextafter(one, 0)], np.float32)
    cosines, labels = np.float32(random_cosines(36, 6)), np.arange(36, dtype=np.int32) % 6
    cosines[np.arange(36), labels] = np.repeat(extremes, 6)
    cosines[np.arange(36), (labels + 1) % 6] = np.tile(extremes, 6)
    for x in (cosines, jnp.asarray(cosines, jnp.bfloat16)):
        for name, (loss, gradient) in every(x, labels).items():
            assert loss.dtype == jnp.float32 and gradient.dtype == x.dtype, name
            assert np.isfinite(loss).all() and (loss >= 0).all(), name
            assert np.isfinite(np.float32(gradient)).all(), name


def test_one_class_and_batches_of_one_row_and_of_no_rows():
    for loss, gradient in every(np.float32([[0.3], [-1], [1]]), np.zeros(3, np.int32)).values():
        np.testing.assert_array_equal(loss, np.zeros(3))
        np.testing.assert_array_equal(gradient, np.zeros((3, 1)))
    cosines = np.float32(random_cosines())
    whole, first = every(cosines, LABELS), every(cosines[:1], LABELS[:1])
    for name, (loss, gradient) in every(cosines[:0], LABELS[:0]).items():
        np.testing.assert_allclose(first[name][0], whole[name][0][:1], rtol=1e-6)
        np.testing.assert_allclose(first[name][1], whole[name][1][:1], rtol=1e-5, atol=1e-6)
        assert loss.shape == (0,) and gradient.shape == (0, 6)


def test_labels_outside_the_classes_give_nan_and_no_gradient():
    labels = np.array([-1, 6, *LABELS[2:]], np.int32)
    cosines = np.float32(random_cosines())
    expected = every(cosines, LABELS)
    for name, (loss, gradient) in every(cosines, labels).items():
        np.testing.assert_array_equal(np.isnan(loss), labels != np.clip(labels, 0, 5))
        assert np.isfinite(gradient).all() and not gradient[:2].any()
        np.testing.assert_allclose(loss[2:], expected[name][0][2:], rtol=1e-6)


def test_nan_and_infinity_reach_the_loss_and_the_gradient():
    cosines = np.float32(random_cosines())
    cosines[0, LABELS[0]], cosines[1, 0], cosines[2, LABELS[2]] = np.nan, np.nan, np.inf
    for name, (loss, gradient) in every(cosines, LABELS).items():
        finite = np.isfinite([loss, gradient.sum(1)])
        np.testing.assert_array_equal(finite, [[0, 0, 0, 1, 1]] * 2, err_msg=name)


@pytest.mark.parametrize("name", ["cosface", "arcface", "sphereface_r", "a_softmax"])
def test_one_trace_serves_all_scales_margins_and_blends(name):
    cosines, values = np.float32(random_cosines()), set()
    loss = jax.jit(LOSSES[name], compiler_options=FAST)
    for scale, margin in [(8.0, 1.0), (8.0, 1.5), (16.0, 1.5)]:
        options = {"scale": scale, "margin": margin}
        options = {"blend": scale * margin} if name == "a_softmax" else options
        values.add(float(loss(cosines, LABELS, **options).mean()))
    assert len(values) == 3 and loss._cache_size() == 1


def test_gradients_by_embeddings_are_bounded():
    # At angle 0, the derivative of arcface by the cosine is unbounded, but not by the embedding.
    def loss(embedding, direction):
        unit = (x / jnp.linalg.norm(x) for x in (embedding, direction))
        own = jnp.vdot(*unit)
        return losses.arcface(jnp.stack([own, -own])[None], np.zeros(1, np.int32))[0]

    direction = np.float32([3.0, 4.0])
    for angle in (0.0, 1e-6, 1e-3, 0.1):
        turned = np.float32([3 - 4 * angle, 4 + 3 * angle])
        _, gradients = compiled(loss)(turned, direction)
        assert np.isfinite(gradients).all() and np.abs(gradients).max() < 64


@pytest.mark.parametrize("name", LOSSES)
def test_errors(name):
    cosines = np.zeros((4, 3), np.float32)
    option = "blend" if name == "a_softmax" else "scale"
    for x, labels, options, message in [
        (cosines, np.zeros(3, int), {}, r"\(4, 3\).*\(3,\)"),
        (cosines, np.zeros(4), {}, "labels must be integers"),
        (cosines[:, 0], np.zeros(4, int), {}, r"\(4,\)"),
        (cosines, np.zeros(4, int), {option: np.ones(4)}, rf"{option} must be a scalar.*\(4,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(functools.partial(LOSSES[name], **options), x, labels)


def test_errors_of_a_softmax():
    cosines, labels = np.zeros((4, 3), np.float32), np.zeros(4, int)
    with pytest.raises(ValueError, match=r"need norms \[N\].*\(4, 3\).*\(4, 1\)"):
        losses.a_softmax(cosines, np.ones((4, 1)), labels)
    for margin in (0, 1.5, -1, 17, 10**6):  # 10^6 steps would take hours to compile
        with pytest.raises(ValueError, match=f"integer from 1 to 16; got {margin}"):
            losses.a_softmax(cosines, np.ones(4), labels, margin=margin)
    with pytest.raises(ValueError, match=r"gamma must be a scalar.*\(2,\)"):
        losses.a_softmax_blend(3, gamma=np.ones(2))
