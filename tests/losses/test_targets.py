import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import cross_entropy, soft_target_kl

DTYPES = [np.float32, np.float64]


def mean_kl(student, teacher, temperature=4.0):
    return soft_target_kl(student, teacher, temperature=temperature).mean()


kl_and_gradients = jax.jit(jax.value_and_grad(mean_kl, argnums=(0, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_kl_agrees_with_the_official_code(golden, agrees, x64, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_ls", "in_lt"))
    value, gradients = kl_and_gradients(student, teacher)
    agrees((value, gradients[0]), golden["val_kd"], golden["grad_kd"], dtype)


def test_kl_agrees_with_the_official_code_on_wide_logits(x64):
    # RepDistiller (b84f547, PyTorch, float64) at T = 4 on logits that a formula defines.
    index = np.arange(80.0)
    student, teacher = 3 * np.sin(0.9 * index + 0.3), 4 * np.sin(0.4 * index + 0.7)
    value, (gradient, _) = kl_and_gradients(student.reshape(8, 10), teacher.reshape(8, 10))
    np.testing.assert_allclose(value, 4.2323296635, atol=1e-10)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), 0.3272447287, atol=1e-10)


def test_values_by_hand():
    # softmax(log p) is p: cross-entropy -log 0.3, KL 0.5 log(0.5 / 0.2) + 0.5 log(0.5 / 0.8).
    scores = np.log([[0.2, 0.3, 0.5]])
    np.testing.assert_allclose(cross_entropy(scores, np.array([1])), [-np.log(0.3)], rtol=1e-6)
    kl = soft_target_kl(np.log([[0.2, 0.8]]), np.log([[0.5, 0.5]]), temperature=1.0)
    np.testing.assert_allclose(kl, [0.5 * np.log(2.5) + 0.5 * np.log(0.625)], rtol=1e-6)


def test_cross_entropy_gradient_is_softmax_minus_one_hot(golden):
    logits, labels = jnp.asarray(golden["in_ls"], jnp.float32), golden["in_lab"].astype(np.int32)
    gradient = jax.jit(jax.grad(lambda x: cross_entropy(x, labels).sum()))(logits)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(gradient, softmax - np.eye(5)[labels], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 100.0])
def test_kl_is_zero_at_equality_and_finite_at_the_extremes(golden, temperature):
    equal = golden["in_lt"].astype(np.float32)
    value, gradients = kl_and_gradients(equal, equal, temperature)
    np.testing.assert_allclose(value, 0, atol=1e-6 * temperature**2)
    np.testing.assert_allclose(gradients, np.zeros((2, 10, 5)), atol=1e-6 * temperature**2)

    student = 1e4 * np.eye(10, 5, dtype=np.float32)
    teacher = -student
    teacher[:, 1] = -np.inf
    for arguments in [(student, -student), (student, teacher), (equal, teacher)]:
        value, gradients = kl_and_gradients(*arguments, temperature)
        assert value >= 0
        assert np.isfinite(value) and np.isfinite(gradients).all()


def test_kl_leaves_out_classes_without_teacher_probability():
    # Of three classes the teacher knows two; the student's share of the third stays in its softmax.
    student, teacher = np.log([[0.2, 0.3, 0.5]]), np.log([[0.6, 0.4, 1]])
    teacher[0, 2] = -np.inf
    got = soft_target_kl(student, teacher, temperature=1.0)
    np.testing.assert_allclose(got, [0.6 * np.log(0.6 / 0.2) + 0.4 * np.log(0.4 / 0.3)], rtol=1e-6)


def test_one_trace_serves_all_temperatures(golden):
    traces = []

    @jax.jit
    def loss(temperature):
        traces.append(temperature)
        return mean_kl(golden["in_ls"], golden["in_lt"], temperature)

    losses = [loss(temperature) for temperature in (1.0, 2.0, 4.0)]
    assert len(traces) == 1
    assert len(set(map(float, losses))) == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_results_are_per_example_and_survive_transformations(golden, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_ls", "in_lt"))
    labels = golden["in_lab"].astype(np.int32)

    def losses(student, teacher, labels):
        return cross_entropy(student, labels), soft_target_kl(student, teacher)

    expected = losses(student, teacher, labels)
    one_by_one = jax.tree.map(lambda x: x[:, None], (student, teacher, labels))
    assert [x.dtype for x in expected] == [jnp.float32] * 2
    np.testing.assert_allclose(jax.jit(losses)(student, teacher, labels), expected, rtol=1e-5)
    got = jax.vmap(losses)(*one_by_one)
    np.testing.assert_allclose(np.squeeze(got, -1), expected, rtol=1e-5)


def test_misuse_is_told():
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 5\)"):
        soft_target_kl(np.zeros((4, 3)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3,\)"):
        cross_entropy(np.zeros((4, 3)), np.zeros(3, int))
    with pytest.raises(ValueError, match="integers"):
        cross_entropy(np.zeros((4, 3)), np.zeros(4))
