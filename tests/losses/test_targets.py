import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.losses import cross_entropy, decoupled_kd, soft_target_cross_entropy, soft_target_kl

DTYPES = [np.float32, np.float64]
LABELS = np.arange(10, dtype=np.int32) % 5


def mean_gradients(loss):
    def mean(*arguments, **options):
        return loss(*arguments, **options).mean()

    return jax.jit(jax.value_and_grad(mean, argnums=(0, 1)), compiler_options=FAST)


# Their temperatures and weights are traced.
kl, soft_ce, dkd = map(mean_gradients, (soft_target_kl, soft_target_cross_entropy, decoupled_kd))
SOFTENED = [kl, soft_ce, functools.partial(dkd, labels=LABELS)]
entropy, decoupled = (
    jax.jit(loss, compiler_options=FAST) for loss in (cross_entropy, decoupled_kd)
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, loss", [("kd", kl), ("soft_ce", soft_ce)])
def test_agrees_with_the_official_code_and_the_paper(golden, agrees, x64, name, loss, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_ls", "in_lt"))
    value, gradients = loss(student, teacher)
    agrees((value, gradients[0]), golden[f"val_{name}"], golden[f"grad_{name}"], dtype)


def test_kl_agrees_with_the_official_code_on_wide_logits(waves, agrees_with_table):
    agrees_with_table(soft_target_kl, waves["ls"], waves["lt"], 4.2323296635, 0.3272447287)


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
    # The label against the others 0.4 / 0.6 and 0.3 / 0.7; among them 3/4, 1/4 and 2/7, 5/7.
    target = 0.4 * np.log(0.4 / 0.3) + 0.6 * np.log(0.6 / 0.7)
    others = 3 / 4 * np.log(3 / 4 * 7 / 2) + 1 / 4 * np.log(1 / 4 * 7 / 5)
    arguments = scores, np.log([[0.45, 0.4, 0.15]]), np.array([1])
    got = decoupled(*arguments, alpha=2.0, beta=3.0, temperature=1.0)
    np.testing.assert_allclose(got, [2 * target + 3 * others], rtol=1e-6)


def test_cross_entropy_gradient_is_softmax_minus_one_hot(golden):
    logits, labels = jnp.asarray(golden["in_ls"], jnp.float32), golden["in_lab"].astype(np.int32)
    gradient = jax.jit(jax.grad(lambda x: cross_entropy(x, labels).sum()))(logits)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(gradient, softmax - np.eye(5)[labels], atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_cross_entropy_is_kl_over_squared_temperature_plus_entropy(golden, temperature):
    student, teacher = (golden[k].astype(np.float32) for k in ("in_ls", "in_lt"))
    value, (gradient, _) = kl(student, teacher, temperature=temperature)
    got, (got_gradient, _) = soft_ce(student, teacher, temperature=temperature)
    own, _ = soft_ce(teacher, teacher, temperature=temperature)
    np.testing.assert_allclose(got, value / temperature**2 + own, rtol=1e-5)
    np.testing.assert_allclose(got_gradient, gradient / temperature**2, atol=1e-6)


def literal_dkd(student, teacher, labels, *, alpha, beta, temperature):
    """The official code (megvii-research/mdistiller, `DKD.py`): the label goes out by -1000."""
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


def test_decoupled_kd_agrees_with_the_official_formula(golden, agrees, x64):
    arguments = golden["in_ls"], golden["in_lt"], golden["in_lab"]
    literal = mean_gradients(literal_dkd)
    for alpha, beta, temperature in [(1.0, 8.0, 4.0), (0.0, 2.0, 1.0), (3.0, 0.0, 0.5)]:
        options = {"alpha": alpha, "beta": beta, "temperature": temperature}
        (value, gradients), (expected, exact) = (f(*arguments, **options) for f in (dkd, literal))
        for got, gradient in zip(gradients, exact, strict=True):
            agrees((value, got), expected, gradient, np.float64)
    # The defaults are the first of these.
    expected, _ = literal(*arguments, alpha=1.0, beta=8.0, temperature=4.0)
    np.testing.assert_allclose(dkd(*arguments)[0], expected, rtol=1e-10)


def test_decoupled_kd_is_kl_when_the_weights_are_those_of_the_parts(golden):
    # Eq. 7: alpha = 1 and beta = 1 - p_y, which differs from example to example.
    student, teacher = (golden[k].astype(np.float32) for k in ("in_ls", "in_lt"))
    softened = np.exp(teacher / 4) / np.exp(teacher / 4).sum(1, keepdims=True)
    beta = 1 - softened[np.arange(10), LABELS]
    assert np.ptp(beta) > 0.3
    value, (gradient, _) = kl(student, teacher, temperature=4.0)
    got, (got_gradient, _) = dkd(student, teacher, LABELS, beta=beta)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(got_gradient, gradient, atol=1e-6)


def test_decoupled_kd_takes_weights_per_example(golden):
    alpha = np.float32(np.arange(10) % 2)  # each example picks one part
    weigh = functools.partial(decoupled, golden["in_ls"], golden["in_lt"], LABELS)
    one, zero = np.ones_like(alpha), np.zeros_like(alpha)
    target, others = weigh(alpha=one, beta=zero), weigh(alpha=zero, beta=one)
    assert (abs(target - others) > 0.1).any()
    got = weigh(alpha=alpha, beta=1 - alpha)
    np.testing.assert_allclose(got, np.where(alpha > 0, target, others), rtol=1e-6)


@pytest.mark.parametrize("loss", SOFTENED)
def test_equal_logits_are_at_rest_and_extreme_ones_finite(golden, loss):
    equal = golden["in_lt"].astype(np.float32)
    student = 1e4 * np.eye(10, 5, dtype=np.float32)
    teacher = -student
    teacher[:, 1] = -np.inf  # the label of every fifth example
    alone = np.full((10, 5), -np.inf, np.float32)
    alone[:, 2] = 0
    for temperature in (0.5, 1.0, 4.0, 100.0):
        value, gradients = loss(equal, equal, temperature=temperature)
        bound = 1e-6 * temperature**2
        np.testing.assert_allclose(gradients[0], np.zeros((10, 5)), atol=bound)
        if loss is not soft_ce:  # which leaves the teacher's entropy
            np.testing.assert_allclose(value, 0, atol=10 * bound)
            np.testing.assert_allclose(gradients[1], np.zeros((10, 5)), atol=10 * bound)
        pairs = (student, -student), (student, teacher), (equal, teacher), (student, alone)
        for pair in (*pairs, (teacher, teacher)):
            value, gradients = loss(*pair, temperature=temperature)
            assert value >= 0
            assert np.isfinite(value) and np.isfinite(gradients).all()


def test_classes_without_teacher_probability_count_nothing():
    # Of three classes the teacher knows two; the student's share of the third stays in its softmax.
    student, teacher = np.log([[0.2, 0.3, 0.5]]), np.log([[0.6, 0.4, 1]])
    teacher[0, 2] = -np.inf
    expected = 0.6 * np.log(0.6 / 0.2) + 0.4 * np.log(0.4 / 0.3)
    got, _ = kl(student, teacher, temperature=1.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    got, _ = soft_ce(student, teacher, temperature=1.0)
    np.testing.assert_allclose(got, -0.6 * np.log(0.2) - 0.4 * np.log(0.3), rtol=1e-6)
    for label, parts in [
        # 0.6 / 0.4 against 0.2 / 0.8; among the others certainty against 3/8.
        (0, 0.6 * np.log(0.6 / 0.2) + 0.4 * np.log(0.4 / 0.8) + np.log(8 / 3)),
        # 0 / 1 against 0.5 / 0.5; among the others 0.6 / 0.4 against 0.4 / 0.6.
        (2, np.log(2) + 0.6 * np.log(0.6 / 0.4) + 0.4 * np.log(0.4 / 0.6)),
    ]:
        weights = {"alpha": 1.0, "beta": 1.0, "temperature": 1.0}
        got = decoupled(student, teacher, np.array([label]), **weights)
        np.testing.assert_allclose(got, [parts], rtol=1e-6)


def test_one_class_alone_is_no_loss():
    student, teacher = np.float32([[3.0], [-1e4]]), np.float32([[-2.0], [5]])
    for loss in (kl, soft_ce, functools.partial(dkd, labels=np.zeros(2, np.int32))):
        value, gradients = loss(student, teacher)
        assert value == 0
        np.testing.assert_array_equal(gradients, np.zeros((2, 2, 1)))


def test_labels_past_the_classes_give_nan(golden):
    student, teacher = (golden[k].astype(np.float32) for k in ("in_ls", "in_lt"))
    labels = np.where(LABELS == 3, 5, LABELS)
    for losses in (entropy(student, labels), decoupled(student, teacher, labels)):
        np.testing.assert_array_equal(np.isnan(losses), labels == 5)


def test_one_trace_serves_all_temperatures_and_weights(golden):
    traces = []

    @functools.partial(jax.jit, compiler_options=FAST)
    def losses(temperature, alpha, beta):
        traces.append(temperature)
        pair = golden["in_ls"], golden["in_lt"]
        softened = soft_target_kl, soft_target_cross_entropy
        losses = [loss(*pair, temperature=temperature).mean() for loss in softened]
        weights = {"alpha": alpha, "beta": beta, "temperature": temperature}
        return *losses, decoupled_kd(*pair, LABELS, **weights).mean()

    options = [(1.0, 1.0, 8.0), (2.0, 1.0, 8.0), (2.0, 2.0, 8.0), (2.0, 2.0, 9.0)]
    rows = [losses(*x) for x in options]
    assert len(traces) == 1
    assert [len(set(map(float, column))) for column in zip(*rows, strict=True)] == [2, 2, 4]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_results_are_per_example_and_survive_transformations(golden, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_ls", "in_lt"))

    def losses(student, teacher, labels):
        softened = [loss(student, teacher) for loss in (soft_target_kl, soft_target_cross_entropy)]
        return cross_entropy(student, labels), decoupled_kd(student, teacher, labels), *softened

    expected = jax.jit(losses, compiler_options=FAST)(student, teacher, LABELS)
    assert [(x.dtype, x.shape) for x in expected] == [(jnp.float32, (10,))] * 4
    one_by_one = jax.tree.map(lambda x: x[:, None], (student, teacher, LABELS))
    got = jax.jit(jax.vmap(losses), compiler_options=FAST)(*one_by_one)
    np.testing.assert_allclose(np.squeeze(got, -1), expected, rtol=1e-5)


def test_misuse_is_told():
    wide, narrow, labels = np.zeros((4, 5)), np.zeros((4, 3)), np.zeros(4, int)
    for loss in (soft_target_kl, soft_target_cross_entropy):
        with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 5\)"):
            loss(narrow, wide)
    for call, message in [
        (lambda: decoupled_kd(narrow, wide, labels), r"\(4, 3\).*\(4, 5\)"),
        (lambda: decoupled_kd(narrow, narrow, labels[:3]), r"\(4, 3\).*\(3,\)"),
        (lambda: decoupled_kd(narrow, narrow, np.zeros(4)), "integers"),
        (lambda: cross_entropy(narrow, labels[:3]), r"\(4, 3\).*\(3,\)"),
        (lambda: cross_entropy(narrow, np.zeros(4)), "integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)


def test_a_label_outside_the_classes_is_never_a_class(golden):
    student, teacher = (jnp.asarray(golden[k], jnp.float32) for k in ("in_ls", "in_lt"))
    labels = np.array([-1, 5, *[0] * 8])
    for loss in (cross_entropy(student, labels), decoupled_kd(student, teacher, labels)):
        assert np.isnan(loss[:2]).all() and np.isfinite(loss[2:]).all()


def test_near_predictions_keep_their_divergence(x64):
    # Terms of the size of the predictions cancel to their square; in float32 0.7 % was lost once.
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(7, 10))
    student = teacher + 0.01 * rng.normal(size=(7, 10))
    exact = soft_target_kl(student, teacher)
    got = soft_target_kl(student.astype(np.float32), teacher.astype(np.float32))
    np.testing.assert_allclose(got, exact, rtol=1e-4)


def test_weights_and_temperatures_of_wrong_shape_are_told():
    logits, labels = np.zeros((4, 4), np.float32), np.zeros(4, int)
    with pytest.raises(ValueError, match=r"alpha and beta must be scalars or \[N\].*\(4, 1\)"):
        decoupled_kd(logits, logits, labels, alpha=np.ones((4, 1)))
    with pytest.raises(ValueError, match=r"temperature must be a scalar.*\(4,\)"):
        soft_target_kl(logits, logits, temperature=np.ones(4))
