import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, compiled, value_of

from kd_jax import losses

LABELS = np.array([0, 4, 2, 2, 1], np.int32)
CONSTANT_SCALE = {
    "normalized_softmax": losses.normalized_softmax,
    "cosface": losses.cosface,
    "arcface": losses.arcface,
    "sphereface_r": losses.sphereface_r,
}


def a_softmax(cosines, labels, **options):
    """Of embeddings of length 5."""
    norms = jnp.full(len(cosines), 5, cosines.dtype)
    return losses.a_softmax(cosines, norms, labels, **options)


LOSSES = {**CONSTANT_SCALE, "a_softmax": a_softmax}


def both(name, cosines, labels, **options):
    """Losses and the gradient of their sum."""
    loss = functools.partial(LOSSES[name], labels=labels, **options)
    return loss(cosines), jax.grad(lambda x: jnp.nansum(loss(x)))(cosines)


@functools.cache
def program(name, **options):
    """The same, compiled."""
    return jax.jit(functools.partial(both, name, **options), compiler_options=FAST)


@functools.partial(jax.jit, compiler_options=FAST)
def every(cosines, labels):
    """The same, of all losses."""
    return {name: both(name, cosines, labels) for name in LOSSES}


def random_cosines(rows=5, classes=6):
    return np.random.default_rng(0).uniform(-1, 1, (rows, classes))


def literal(cosines, labels, target, scale):
    """Cross-entropies, the label's angle mapped by `target`; float64."""
    logits = scale * cosines
    rows = np.arange(len(labels))
    logits[rows, labels] = np.broadcast_to(scale, cosines.shape)[rows, labels] * target(
        np.arccos(np.clip(cosines[rows, labels], -1, 1))
    )
    return np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) - (
        logits[rows, labels] - logits.max(1)
    )


def k_form(m):
    """The definition of psi, eq. 7 of the paper."""

    def psi(theta):
        k = np.minimum(np.floor(theta * m / np.pi), m - 1)
        return (-1) ** k * np.cos(m * theta) - 2 * k

    return psi


def insightface(m):
    def target(theta):
        return np.where(theta + m < np.pi, np.cos(theta + m), np.cos(theta) - m * np.sin(m))

    return target


GRID = np.linspace(0, np.pi, 1003)


def targets_on_the_grid(name, **options):
    """What becomes of the label's cosine, from the loss against one class at 90 degrees."""
    cosines = np.stack([np.cos(GRID), np.zeros_like(GRID)], 1)
    loss, _ = program(name, **options)(cosines, np.zeros(len(GRID), np.int32))
    return -np.log(np.expm1(loss)) / (5 if name == "a_softmax" else options["scale"])


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_psi_is_the_papers_and_falls_from_1(x64, margin):
    psi = targets_on_the_grid("a_softmax", margin=margin)
    np.testing.assert_allclose(psi, k_form(margin)(GRID), atol=1e-9)
    assert (np.diff(psi) < 0).all()
    np.testing.assert_allclose(psi[[0, -1]], [1, 1 - 2 * margin], atol=1e-9)


@pytest.mark.parametrize(
    "name, target, options",
    [
        ("normalized_softmax", np.cos, {}),
        ("cosface", lambda theta: np.cos(theta) - 0.35, {}),
        ("arcface", insightface(0.5), {}),
        ("arcface", insightface(1.2), {"margin": 1.2, "scale": 10.0}),
        ("sphereface_r", lambda theta: np.cos(np.minimum(1.7 * theta, np.pi)), {}),
        ("sphereface_r", lambda theta: np.cos(np.minimum(1.1 * theta, np.pi)), {"margin": 1.1}),
        ("a_softmax", k_form(4), {}),
        ("a_softmax", lambda t: (3 * np.cos(t) + k_form(4)(t)) / 4, {"blend": 3.0}),
        (
            "a_softmax",
            lambda t: (0.5 * np.cos(t) + k_form(3)(t)) / 1.5,
            {"margin": 3, "blend": 0.5},
        ),
    ],
)
def test_agrees_with_the_formula_written_out(x64, name, target, options):
    scale = {"sphereface_r": 30.0, "a_softmax": 5.0}.get(name, options.get("scale", 64.0))
    cosines = np.tile(random_cosines(), (20, 1))
    labels = np.tile(LABELS, 20)
    cosines[np.arange(100), labels] = np.cos(np.linspace(0, np.pi, 100))
    loss, _ = program(name, **options)(cosines, labels)
    assert loss.dtype == jnp.float64
    np.testing.assert_allclose(
        loss, literal(cosines, labels, target, scale), rtol=1e-10, atol=1e-10
    )
    single, _ = program(name, **options)(np.float32(cosines), labels)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, loss, rtol=1e-4, atol=1e-4)


def test_arcface_falls_where_the_angle_would_pass_pi(x64):
    target = targets_on_the_grid("arcface", scale=4.0, margin=0.5)
    assert (np.diff(target) < 0).all()
    (step,) = np.flatnonzero(np.diff(target) < -0.05)
    assert GRID[step] + 0.5 < np.pi < GRID[step + 1] + 0.5
    assert np.diff(target)[step] == pytest.approx(1 - np.cos(0.5) - 0.5 * np.sin(0.5), abs=2e-3)


@pytest.mark.parametrize("name", ["normalized_softmax", "cosface", "arcface", "a_softmax"])
def test_gradients_are_finite_differences(x64, name):
    cosines, step = 0.9 * random_cosines(), 1e-6
    run = program(name)
    _, gradient = run(cosines, LABELS)
    for i, j in np.ndindex(cosines.shape):
        shift = step * (np.arange(30).reshape(5, 6) == 6 * i + j)
        (up, _), (down, _) = run(cosines + shift, LABELS), run(cosines - shift, LABELS)
        expected = (up.sum() - down.sum()) / (2 * step)
        np.testing.assert_allclose(gradient[i, j], expected, rtol=1e-5, atol=1e-7)


def test_sphereface_r_has_the_gradient_of_the_cosine(x64):
    cosines = random_cosines()
    _, gradient = program("sphereface_r")(cosines, LABELS)
    logits = 30 * cosines
    rows = np.arange(5)
    logits[rows, LABELS] = 30 * np.cos(np.minimum(1.7 * np.arccos(cosines[rows, LABELS]), np.pi))
    p = np.exp(logits - logits.max(1, keepdims=True))
    expected = 30 * (p / p.sum(1, keepdims=True) - np.eye(6)[LABELS])
    np.testing.assert_allclose(gradient, expected, atol=1e-10)


def test_the_embeddings_length_has_its_gradient(x64):
    cosines, norms = random_cosines(), np.arange(5.0)  # one is 0
    loss = functools.partial(losses.a_softmax, labels=LABELS, blend=2.0)
    by_length = jax.jit(jax.grad(lambda x: loss(cosines, x).sum()), compiler_options=FAST)(norms)
    value = value_of(losses.a_softmax, blend=2.0)
    up, down = (value(cosines, norms + x, LABELS) for x in (1e-6, -1e-6))
    np.testing.assert_allclose(by_length, (up - down) / 2e-6, rtol=1e-6)
    np.testing.assert_allclose(value(cosines, norms, LABELS)[0], np.log(6))


def test_without_margin_all_are_plain_softmax():
    cosines = np.float32(random_cosines())
    plain = {"normalized_softmax": {}, "cosface": {"margin": 0.0}, "arcface": {"margin": 0.0}}
    plain["sphereface_r"] = {"margin": 1.0, "scale": 64.0}
    expected, gradient = program("normalized_softmax")(cosines, LABELS)
    for name, options in plain.items():
        loss, got = program(name, **options)(cosines, LABELS)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-4)
    expected = value_of(losses.cross_entropy)(5 * cosines, LABELS)
    for options in ({"margin": 1}, {"blend": 1e9}, {"blend": np.inf}):
        loss, got = program("a_softmax", **options)(cosines, LABELS)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert np.isfinite(got).all()


def test_the_blend_is_caffes():
    blend = jax.jit(losses.a_softmax_blend)
    # face_anchors 3.1, counted from 1
    table = {1: 893, 10: 455, 100: 77, 500: 16.4, 1000: 8.3, 1500: 5.5}
    for iteration, expected in table.items():
        got = blend(np.int32(iteration - 1))
        assert got.dtype == jnp.float32 and got.shape == ()
        assert float(f"{got:.3g}" if got > 10 else f"{got:.2g}") == pytest.approx(expected, 0.005)
    steps = np.arange(28_000, dtype=np.int32)
    values = blend(steps)
    assert np.flatnonzero(values == 5)[0] + 1 == 1659
    assert (values[1658:] == 5).all() and (np.diff(values) <= 0).all()
    other = blend(np.int32(3), start=100.0, gamma=1.0, power=2.0, least=0.0)
    np.testing.assert_allclose(other, 100 / 5**2, rtol=1e-6)


def test_a_traced_step_goes_from_the_blend_into_the_loss():
    cosines = np.float32(random_cosines())

    @jax.jit
    def loss(step):
        return a_softmax(cosines, LABELS, blend=losses.a_softmax_blend(step))

    expected = program("a_softmax", blend=5.0)(cosines, LABELS)[0]
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


def test_one_class_one_row_and_none():
    for loss, gradient in every(np.float32([[0.3], [-1], [1]]), np.zeros(3, np.int32)).values():
        np.testing.assert_array_equal(loss, np.zeros(3))
        np.testing.assert_array_equal(gradient, np.zeros((3, 1)))
    cosines = np.float32(random_cosines())
    whole, first = every(cosines, LABELS), every(cosines[:1], LABELS[:1])
    for name, (loss, gradient) in every(cosines[:0], LABELS[:0]).items():
        np.testing.assert_allclose(first[name][0], whole[name][0][:1], rtol=1e-6)
        np.testing.assert_allclose(first[name][1], whole[name][1][:1], rtol=1e-5, atol=1e-6)
        assert loss.shape == (0,) and gradient.shape == (0, 6)


def test_a_label_outside_the_classes_is_nan_and_has_no_gradient():
    labels = np.array([-1, 6, *LABELS[2:]], np.int32)
    cosines = np.float32(random_cosines())
    expected = every(cosines, LABELS)
    for name, (loss, gradient) in every(cosines, labels).items():
        np.testing.assert_array_equal(np.isnan(loss), labels != np.clip(labels, 0, 5))
        assert np.isfinite(gradient).all() and not gradient[:2].any()
        np.testing.assert_allclose(loss[2:], expected[name][0][2:], rtol=1e-6)


def test_one_trace_serves_all_scales_margins_and_blends():
    traces, cosines = [], np.float32(random_cosines())

    @functools.partial(jax.jit, compiler_options=FAST)
    def values(scale, margin):
        traces.append(scale)
        options = {"scale": scale, "margin": margin}
        named = [losses.cosface, losses.arcface, losses.sphereface_r]
        others = [loss(cosines, LABELS, **options).mean() for loss in named]
        return *others, a_softmax(cosines, LABELS, blend=margin).mean()

    rows = [values(*x) for x in [(8.0, 1.0), (8.0, 1.5), (16.0, 1.5)]]
    assert len(traces) == 1
    assert [len(set(map(float, column))) for column in zip(*rows, strict=True)] == [3, 3, 3, 2]


def test_embeddings_get_gradients_as_large_as_their_logits_change():
    # The slope of arcface in the cosine is unbounded at angle 0, that in the embedding is not.
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
def test_misuse_is_told(name):
    cosines = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3,\)"):
        jax.eval_shape(LOSSES[name], cosines, np.zeros(3, int))
    with pytest.raises(ValueError, match="integers"):
        jax.eval_shape(LOSSES[name], cosines, np.zeros(4))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        jax.eval_shape(LOSSES[name], cosines[:, 0], np.zeros(4, int))
    option = "blend" if name == "a_softmax" else "scale"
    with pytest.raises(ValueError, match=rf"{option} must be a scalar.*\(4,\)"):
        LOSSES[name](cosines, np.zeros(4, int), **{option: np.ones(4)})


def test_misuse_of_a_softmax_is_told():
    cosines, labels = np.zeros((4, 3), np.float32), np.zeros(4, int)
    with pytest.raises(ValueError, match=r"need norms \[N\].*\(4, 3\).*\(4, 1\)"):
        losses.a_softmax(cosines, np.ones((4, 1)), labels)
    for margin in (0, 1.5, -1):
        with pytest.raises(ValueError, match=f"whole number from 1; got {margin}"):
            losses.a_softmax(cosines, np.ones(4), labels, margin=margin)
    with pytest.raises(ValueError, match=r"gamma must be a scalar.*\(2,\)"):
        losses.a_softmax_blend(3, gamma=np.ones(2))
