import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.losses import cross_entropy, decoupled_kd, soft_target_cross_entropy, soft_target_kl

LABELS = np.arange(10, dtype=np.int32) % 5


def mean_gradients(loss):
    def mean(*arguments, **options):
        return loss(*arguments, **options).mean()

    return jax.jit(jax.value_and_grad(mean, argnums=(0, 1)), compiler_options=FAST)


# Temperatures and weights are traced.
kl, soft_ce, dkd = map(mean_gradients, (soft_target_kl, soft_target_cross_entropy, decoupled_kd))
entropy, decoupled = (
    jax.jit(loss, compiler_options=FAST) for loss in (cross_entropy, decoupled_kd)
)


@pytest.fixture
def logits(golden):
    """Returns the logits [10, 5] of a student and of a teacher, in float32."""
    return [golden[k].astype(np.float32) for k in ("in_ls", "in_lt")]


@pytest.mark.parametrize(
    "name, loss", [("kd", soft_target_kl), ("soft_ce", soft_target_cross_entropy)]
)
def test_agrees_with_the_official_code_and_the_paper(golden, agrees, name, loss):
    expected = golden[f"val_{name}"], golden[f"grad_{name}"]
    agrees(lambda s, t: loss(s, t).mean(), "in_ls", "in_lt", *expected)


def test_values_by_hand():
    # softmax(log p) is p: cross-entropy -log 0.3, KL 0.5 log(0.5 / 0.2) + 0.5 log(0.5 / 0.8).
    scores = np.log([[0.2, 0.3, 0.5]])
    got = entropy(scores, np.array([1]))
    np.testing.assert_allclose(got, [-np.log(0.3)], rtol=1e-6)
    pair = np.log([[0.2, 0.8]]), np.log([[0.5, 0.5]])
    got, _ = kl(*pair, temperature=1.0)
    np.testing.assert_allclose(got, 0.5 * np.log(2.5) + 0.5 * np.log(0.625), rtol=1e-6)
    got, _ = soft_ce(*pair, temperature=1.0)
    np.testing.assert_allclose(got, -0.5 * np.log(0.2) - 0.5 * np.log(0.8), rtol=1e-6)
    # Label and others: 0.4, 0.6 and 0.3, 0.7. Among the others: 3/4, 1/4 and 2/7, 5/7.
    target = 0.4 * np.log(0.4 / 0.3) + 0.6 * np.log(0.6 / 0.7)
    others = 3 / 4 * np.log(3 / 4 * 7 / 2) + 1 / 4 * np.log(1 / 4 * 7 / 5)
    arguments = scores, np.log([[0.45, 0.4, 0.15]]), np.array([1])
    got = decoupled(*arguments, alpha=2.0, beta=3.0, temperature=1.0)
    np.testing.assert_allclose(got, [2 * target + 3 * others], rtol=1e-6)


def test_gradient_of_cross_entropy_is_softmax_minus_one_hot(logits):
    def total(logits):
        return cross_entropy(logits, LABELS).sum()

    gradient = jax.jit(jax.grad(total), compiler_options=FAST)(logits[0])
    softmax = np.exp(logits[0]) / np.exp(logits[0]).sum(1, keepdims=True)
    np.testing.assert_allclose(gradient, softmax - np.eye(5)[LABELS], atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_cross_entropy_is_kl_over_squared_temperature_plus_entropy(logits, temperature):
    value, (gradient, _) = kl(*logits, temperature=temperature)
    got, (got_gradient, _) = soft_ce(*logits, temperature=temperature)
    own, _ = soft_ce(logits[1], logits[1], temperature=temperature)
    np.testing.assert_allclose(got, value / temperature**2 + own, rtol=1e-5)
    np.testing.assert_allclose(got_gradient, gradient / temperature**2, atol=1e-6)


def official_dkd(student, teacher, labels, *, alpha, beta, temperature):
    """Computes `DKD.py` of megvii-research/mdistiller, which adds -1000 to remove the label."""
    own = jax.nn.one_hot(labels, student.shape[1], dtype=student.dtype)

    def divergence(p, q):
        return (p * (jnp.log(jnp.where(p > 0, p, 1)) - q)).sum(1)

    def in_two(logits):
        p = jax.nn.softmax(logits / temperature)
        return jnp.stack([(p * own).sum(1), (p * (1 - own)).sum(1)], axis=1)

    target = divergence(in_two(teacher), jnp.log(in_two(student)))
    others = divergence(
        jax.nn.softmax(teacher / temperature - 1000 * own),
        jax.nn.log_softmax(student / temperature - 1000 * own),
    )
    return temperature**2 * (alpha * target + beta * others)


def test_decoupled_kd_agrees_with_the_official_formula(golden, x64):
    arguments = golden["in_ls"], golden["in_lt"], golden["in_lab"]
    formula = mean_gradients(official_dkd)
    for alpha, beta, temperature in [(1.0, 8.0, 4.0), (0.0, 2.0, 1.0), (3.0, 0.0, 0.5)]:
        options = {"alpha": alpha, "beta": beta, "temperature": temperature}
        (value, gradients), (expected, exact) = (f(*arguments, **options) for f in (dkd, formula))
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        for got, gradient in zip(gradients, exact, strict=True):
            bound = 1e-10 * abs(gradient).max()
            np.testing.assert_allclose(got, gradient, rtol=0, atol=bound)
    # The defaults are the first of these.
    expected, _ = formula(*arguments, alpha=1.0, beta=8.0, temperature=4.0)
    np.testing.assert_allclose(dkd(*arguments)[0], expected, rtol=1e-10)


def test_decoupled_kd_is_kl_with_the_weights_of_equation_7(logits):
    # alpha = 1 and beta = 1 - p_y, which differs between examples.
    student, teacher = logits
    softened = np.exp(teacher / 4) / np.exp(teacher / 4).sum(1, keepdims=True)
    beta = 1 - softened[np.arange(10), LABELS]
    assert np.ptp(beta) > 0.3
    value, (gradient, _) = kl(student, teacher, temperature=4.0)
    got, (got_gradient, _) = dkd(student, teacher, LABELS, beta=beta)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(got_gradient, gradient, atol=1e-6)


def test_decoupled_kd_takes_weights_per_example(logits):
    alpha = np.float32(np.arange(10) % 2)  # each example selects one part
    weighted = functools.partial(decoupled, *logits, LABELS)
    one, zero = np.ones_like(alpha), np.zeros_like(alpha)
    target, others = weighted(alpha=one, beta=zero), weighted(alpha=zero, beta=one)
    assert (abs(target - others) > 0.1).any()
    got = weighted(alpha=alpha, beta=1 - alpha)
    np.testing.assert_allclose(got, np.where(alpha > 0, target, others), rtol=1e-6)


def test_classes_without_teacher_probability_add_nothing():
    # The teacher has two of three classes. The student's third class is in its softmax only.
    student, teacher = np.log([[0.2, 0.3, 0.5]]), np.log([[0.6, 0.4, 1]])
    teacher[0, 2] = -np.inf
    expected = 0.6 * np.log(0.6 / 0.2) + 0.4 * np.log(0.4 / 0.3)
    got, _ = kl(student, teacher, temperature=1.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    got, _ = soft_ce(student, teacher, temperature=1.0)
    np.testing.assert_allclose(got, -0.6 * np.log(0.2) - 0.4 * np.log(0.3), rtol=1e-6)
    for label, parts in [
        # 0.6, 0.4 and 0.2, 0.8. Among the others: 1 and 3/8.
        (0, 0.6 * np.log(0.6 / 0.2) + 0.4 * np.log(0.4 / 0.8) + np.log(8 / 3)),
        # 0, 1 and 0.5, 0.5. Among the others: 0.6, 0.4 and 0.4, 0.6.
        (2, np.log(2) + 0.6 * np.log(0.6 / 0.4) + 0.4 * np.log(0.4 / 0.6)),
    ]:
        weights = {"alpha": 1.0, "beta": 1.0, "temperature": 1.0}
        got = decoupled(student, teacher, np.array([label]), **weights)
        np.testing.assert_allclose(got, [parts], rtol=1e-6)


def test_one_class_has_no_loss():
    student, teacher = np.float32([[3.0], [-1e4]]), np.float32([[-2.0], [5]])
    for loss in (kl, soft_ce, functools.partial(dkd, labels=np.zeros(2, np.int32))):
        value, gradients = loss(student, teacher)
        assert value == 0
        np.testing.assert_array_equal(gradients, np.zeros((2, 2, 1)))


def test_labels_outside_the_classes_give_nan(logits):
    labels = np.array([-1, 5, *LABELS[2:]], np.int32)
    for losses in (entropy(logits[0], labels), decoupled(*logits, labels)):
        np.testing.assert_array_equal(np.isnan(losses), (labels < 0) | (labels > 4))


def test_one_trace_serves_all_temperatures_and_weights(logits):
    traces = []

    @functools.partial(jax.jit, compiler_options=FAST)
    def losses(temperature, alpha, beta):
        traces.append(temperature)
        softened = soft_target_kl, soft_target_cross_entropy
        losses = [loss(*logits, temperature=temperature).mean() for loss in softened]
        weights = {"alpha": alpha, "beta": beta, "temperature": temperature}
        return *losses, decoupled_kd(*logits, LABELS, **weights).mean()

    options = [(1.0, 1.0, 8.0), (2.0, 1.0, 8.0), (2.0, 2.0, 8.0), (2.0, 2.0, 9.0)]
    rows = [losses(*x) for x in options]
    assert len(traces) == 1
    assert [len(set(map(float, column))) for column in zip(*rows, strict=True)] == [2, 2, 4]


def test_results_are_per_example():
    student, teacher = np.random.default_rng(0).normal(size=(2, 10, 5)).astype(np.float32)

    def losses(student, teacher, labels):
        softened = [loss(student, teacher) for loss in (soft_target_kl, soft_target_cross_entropy)]
        return cross_entropy(student, labels), decoupled_kd(student, teacher, labels), *softened

    expected = jax.jit(losses, compiler_options=FAST)(student, teacher, LABELS)
    assert [x.shape for x in expected] == [(10,)] * 4
    one_by_one = jax.tree.map(lambda x: x[:, None], (student, teacher, LABELS))
    got = jax.jit(jax.vmap(losses), compiler_options=FAST)(*one_by_one)
    np.testing.assert_allclose(np.squeeze(got, -1), expected, rtol=1e-5)


def test_close_predictions_keep_their_divergence(x64):
    # Terms of the size of the predictions cancel to their square. A direct sum loses 0.7 % here.
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(7, 10))
    student = teacher + 0.01 * rng.normal(size=(7, 10))
    loss = jax.jit(soft_target_kl, compiler_options=FAST)
    got = loss(student.astype(np.float32), teacher.astype(np.float32))
    np.testing.assert_allclose(got, loss(student, teacher), rtol=1e-4)


WIDE, NARROW, ZEROS = np.zeros((4, 5)), np.zeros((4, 3)), np.zeros(4, int)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: soft_target_kl(NARROW, WIDE), r"student \(4, 3\), teacher \(4, 5\)"),
        (lambda: soft_target_cross_entropy(NARROW, WIDE), r"student \(4, 3\), teacher \(4, 5\)"),
        (lambda: decoupled_kd(NARROW, WIDE, ZEROS), r"student \(4, 3\), teacher \(4, 5\)"),
        (lambda: decoupled_kd(NARROW, NARROW, ZEROS[:3]), r"\(4, 3\).*\(3,\)"),
        (lambda: decoupled_kd(NARROW, NARROW, np.zeros(4)), "labels must be integers"),
        (
            lambda: decoupled_kd(NARROW, NARROW, ZEROS, alpha=np.ones((4, 1))),
            r"alpha and beta must be scalars or \[N\].*\(4, 1\)",
        ),
        (lambda: cross_entropy(NARROW, ZEROS[:3]), r"\(4, 3\).*\(3,\)"),
        (lambda: cross_entropy(NARROW, np.zeros(4)), "labels must be integers"),
        (
            lambda: soft_target_kl(WIDE, WIDE, temperature=np.ones(4)),
            r"temperature must be a scalar.*\(4,\)",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call)
