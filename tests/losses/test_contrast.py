import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.losses import (
    ContrastMemory,
    contrast_memory,
    contrast_negatives,
    contrastive_representation,
    info_nce,
)

IMAGES = 20


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def wave(w, c, rows):
    return unit(np.sin(w * np.arange(rows * 8) + c).reshape(rows, 8))


def official(dtype=np.float64):
    """The inputs for which RepDistiller (b84f547, float64) gave the values below."""
    memory = ContrastMemory(wave(0.31, 0.1, IMAGES), wave(0.53, 0.2, IMAGES), np.zeros(2))
    index = np.array([3, 7, 11, 15])
    negatives = (3 * np.arange(5) + np.arange(4)[:, None] + 1) % IMAGES
    arrays = wave(0.7, 0.3, 4), wave(0.9, 0.4, 4), memory, index, negatives
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float64 else x, arrays)


@functools.partial(jax.jit, compiler_options=FAST)
@functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
def crd(student, teacher, memory, index, negatives, **options):
    return contrastive_representation(
        student, teacher, memory, index=index, negatives=negatives, **options
    )


def test_agrees_with_the_official_code(x64):
    temperature = np.float64(np.float32(0.07))  # RepDistiller keeps it in float32
    (value, new), gradients = crd(*official(), temperature=temperature, momentum=0.5)
    np.testing.assert_allclose(value, 17.2652504273 + 6.8028127386, rtol=1e-9)
    norms = [np.linalg.norm(x) for x in gradients]
    np.testing.assert_allclose(norms, [12.3155291150, 6.9447191979], rtol=1e-9)
    np.testing.assert_allclose(new.partition, [1946374.82, 5834.3414], rtol=1e-8)
    np.testing.assert_allclose(new.student[3, 0], 0.3401622471, rtol=1e-9)


def literal_crd(student, teacher, memory, index, negatives, *, temperature, momentum):
    """RepDistiller's `memory.py` and `criterion.py` with one row of the bank after the other."""
    count = negatives.shape[1]
    noise, total, partition = count / IMAGES, 0, []
    for embeddings, bank, z in [
        (student, memory.teacher, memory.partition[0]),
        (teacher, memory.student, memory.partition[1]),
    ]:
        rows = bank[jnp.concatenate([index[:, None], negatives], axis=1)]
        scores = jnp.exp((rows * embeddings[:, None]).sum(2) / temperature)
        z = jnp.where(z > 0, z, jax.lax.stop_gradient(scores.mean()) * IMAGES)
        own, others = scores[:, 0] / z, scores[:, 1:] / z
        total -= jnp.log(own / (own + noise + 1e-7)).sum()
        total -= jnp.log(noise / (others + noise + 1e-7)).sum()
        partition.append(z)
    banks = []
    for bank, embeddings in [(memory.student, student), (memory.teacher, teacher)]:
        rows = momentum * bank[index] + (1 - momentum) * jax.lax.stop_gradient(embeddings)
        banks.append(bank.at[index].set(rows / jnp.linalg.norm(rows, axis=1, keepdims=True)))
    return total / len(student), ContrastMemory(*banks, jnp.stack(partition))


def test_agrees_with_rows_gathered_one_by_one(x64):
    student, teacher, memory, *rows = official()
    grad = jax.value_and_grad(literal_crd, argnums=(0, 1), has_aux=True)
    literal = jax.jit(grad, compiler_options=FAST)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    # On the second call the constants are given.
    expected_memory = memory
    for temperature, momentum in [(0.07, 0.5), (0.3, 0.9)]:
        options = {"temperature": temperature, "momentum": momentum}
        got = crd(student, teacher, memory, *rows, **options)
        expected_memory = jax.tree.map(jnp.asarray, expected_memory)
        expected = literal(student, teacher, expected_memory, *rows, **options)
        jax.tree.map(close, got, expected)
        memory, expected_memory = got[0][1], expected[0][1]


def test_constants_stay_those_of_the_first_batch():
    student, teacher, memory, *rows = official(np.float32)
    (_, first), _ = crd(student, teacher, memory, *rows)
    assert np.all(np.greater(first.partition, 0))
    (_, second), _ = crd(teacher, student, first, *rows)
    np.testing.assert_array_equal(second.partition, first.partition)


def test_float32_stays_near_float64(x64):
    defaults = {"temperature": 0.07, "momentum": 0.5}
    (value, memory), gradients = jax.device_get(crd(*official(), **defaults))
    (got, new), approximate = jax.device_get(crd(*official(np.float32)))
    assert {x.dtype for x in jax.tree.leaves((got, new, approximate))} == {np.dtype(np.float32)}
    np.testing.assert_allclose(got, value, rtol=1e-5)
    for one, other in zip(approximate, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * abs(other).max())
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), new, memory)


@pytest.mark.parametrize(
    "dtype, precision", [("bfloat16", "float32"), ("float32", "float64"), ("float64", "float32")]
)
def test_memory_keeps_its_own_dtype(x64, dtype, precision):
    student, teacher, memory, *rows = official()
    (expected, _), _ = crd(student, teacher, memory, *rows, temperature=0.07, momentum=0.5)
    memory = jax.tree.map(lambda x: x.astype(dtype), memory)
    (value, new), _ = crd(student.astype(precision), teacher.astype(precision), memory, *rows)
    assert value.dtype == precision
    assert new.student.dtype == new.teacher.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=0.1 if dtype == "bfloat16" else 1e-5)


def test_only_the_own_rows_are_remembered():
    student, teacher, memory, index, negatives = official(np.float32)
    (_, new), _ = jax.device_get(crd(student, teacher, memory, index, negatives))
    others = np.setdiff1d(np.arange(IMAGES), index)
    for bank, old, embeddings in [
        (new.student, memory.student, student),
        (new.teacher, memory.teacher, teacher),
    ]:
        np.testing.assert_array_equal(bank[others], old[others])
        expected = unit(old[index] + embeddings)  # half of each
        np.testing.assert_allclose(bank[index], expected, rtol=1e-5, atol=1e-6)


def test_masked_rows_neither_count_nor_are_remembered():
    student, teacher, memory, index, negatives = official(np.float32)
    where = np.array([True, False, True, False])
    absent, rows = ([x[where] for x in pair] for pair in ((student, teacher), (index, negatives)))
    (expected, expected_memory), gradients = jax.device_get(crd(*absent, memory, *rows))
    for filling in (0, np.nan):
        student[~where] = teacher[~where] = filling
        call = crd(student, teacher, memory, index, negatives, where=where)
        (value, new), got = jax.device_get(call)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            new,
            expected_memory,
        )
        for one, other in zip(got, gradients, strict=True):
            np.testing.assert_allclose(one[where], other, rtol=1e-4, atol=1e-5)
            assert not one[~where].any()
    # Where all are masked, the constants wait for a batch.
    (value, new), got = crd(student, teacher, memory, index, negatives, where=where & False)
    assert value == 0
    assert not any(map(np.any, got))
    jax.tree.map(np.testing.assert_array_equal, new, memory)


def test_an_image_that_comes_twice_is_remembered_once():
    student, teacher, memory, _, negatives = official(np.float32)
    index = np.array([3, 7, 3, 15])
    (_, new), _ = crd(student, teacher, memory, index, negatives)
    expected = unit(memory.student[[3]] + student[[0]])[0]
    np.testing.assert_allclose(new.student[3], expected, atol=1e-6)


def test_whatever_stands_in_a_masked_row_is_never_looked_up():
    student, teacher, memory, index, negatives = official(np.float32)
    where = np.array([True, True, True, False])
    index[3], negatives[3] = 1000, -1000

    def loss(temperature):
        options = {"index": index, "negatives": negatives, "temperature": temperature}
        value, new = contrastive_representation(student, teacher, memory, where=where, **options)
        return value, new

    (value, new), slope = jax.value_and_grad(loss, has_aux=True)(0.07)
    assert np.isfinite(value) and np.isfinite(slope)
    for bank, old in zip(new[:2], memory[:2], strict=True):
        np.testing.assert_array_equal(bank[15], old[15])  # row 3 would have been remembered there


def test_no_gradient_flows_through_the_memory():
    student, teacher, memory, index, negatives = official(np.float32)

    def total(student, teacher, memory):
        options = {"index": index, "negatives": negatives}
        loss, new = contrastive_representation(student, teacher, memory, **options)
        return loss, new

    @functools.partial(jax.jit, compiler_options=FAST)
    def gradients(student, teacher, memory):
        into = jax.grad(lambda m: total(student, teacher, m)[0])(memory)
        out_of = jax.grad(
            lambda s, t: sum(x.sum() for x in total(s, t, memory)[1]), argnums=(0, 1)
        )(student, teacher)
        return into, out_of

    into, out_of = gradients(student, teacher, memory)
    assert not any(map(np.any, (into.student, into.teacher, *out_of)))


def test_memory_starts_uniform():
    memory = jax.device_get(contrast_memory(jax.random.key(0), 500, 12))
    assert memory.student.shape == memory.teacher.shape == (500, 12)
    np.testing.assert_array_equal(memory.partition, [0, 0])
    for bank in (memory.student, memory.teacher):
        assert 0.499 < bank.max() <= 0.5 and -0.5 <= bank.min() < -0.499  # 1 / sqrt(12 / 3)
        np.testing.assert_allclose(bank.mean(), 0, atol=0.02)
    assert abs(memory.student - memory.teacher).max() > 0.5


draw = jax.jit(contrast_negatives, static_argnums=3, compiler_options=FAST)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_negatives_are_drawn_in_double_precision_too(x64, dtype):
    classes = np.array([1, 0, 1])
    negatives = draw(jax.random.key(0), np.array([0, 1], dtype), classes, 9)
    assert negatives.dtype == jnp.int32
    np.testing.assert_array_equal(classes[negatives], [[1] * 9, [0] * 9])


def test_negatives_are_all_images_of_other_classes():
    classes = np.array([2, 0, 5, 0, 2, 2, 7, 0])  # in no order, with gaps
    labels = np.array([0, 7, 2, 5, 3, 0])  # of 3 there is no image
    negatives = np.asarray(draw(jax.random.key(0), labels, classes, 800))
    assert negatives.shape == (6, 800) and negatives.dtype == jnp.int32
    for label, drawn in zip(labels, negatives, strict=True):
        images, counts = np.unique(drawn, return_counts=True)
        np.testing.assert_array_equal(images, np.flatnonzero(classes != label))
        # Five standard deviations of a binomial count.
        share = 1 / len(images)
        assert abs(counts - 800 * share).max() < 5 * (800 * share * (1 - share)) ** 0.5
    assert (negatives[0] != negatives[5]).any()


def test_wrong_rows_are_told():
    student, teacher, memory, index, negatives = official(np.float32)

    def call(student=student, memory=memory, index=index, negatives=negatives, **options):
        options = {"index": index, "negatives": negatives, **options}
        return contrastive_representation(student, teacher, memory, **options)

    narrow = memory._replace(student=memory.student[:, :5], teacher=memory.teacher[:, :5])
    for options, message in [
        ({"student": student[:3]}, r"\(3, 8\).*\(4, 8\)"),
        ({"memory": narrow}, r"\(4, 8\).*\(20, 5\).*\(20, 5\)"),
        ({"memory": memory._replace(teacher=memory.teacher[:9])}, r"\(20, 8\).*\(9, 8\)"),
        ({"index": index[:3]}, r"\(4, 8\).*\(3,\)"),
        ({"index": index.astype(np.float32)}, "index must be integers"),
        ({"negatives": negatives[:3]}, r"\(4, 8\).*\(3, 5\)"),
        ({"negatives": negatives[:, :0]}, r"\(4, 8\).*\(4, 0\)"),
        ({"negatives": negatives[:, 0]}, r"\(4, 8\).*\(4,\)"),
        ({"negatives": negatives.astype(np.float32)}, "negatives must be integers"),
        ({"where": np.ones(4)}, "boolean"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(functools.partial(call, **options))


def features(rows=8, width=6):
    rng = np.random.default_rng(0)
    student, noise = rng.normal(size=(2, rows, width))
    return student.astype(np.float32), (student + noise).astype(np.float32)


@functools.cache
def nce(**options):
    """Value and both gradients, compiled once for all tests."""
    grad = jax.value_and_grad(functools.partial(info_nce, **options), argnums=(0, 1))
    return jax.jit(grad, compiler_options=FAST)


def literal_nce(student, teacher, temperature, symmetric):
    """-log(exp(s_ii) / sum_j exp(s_ij)), and the same among the students."""
    student, teacher = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher))
    scores = jnp.exp(student @ teacher.T / temperature)
    own = jnp.diagonal(scores)
    loss = -jnp.log(own / scores.sum(1))
    return ((loss - jnp.log(own / scores.sum(0))) / 2 if symmetric else loss).mean()


@pytest.mark.parametrize("symmetric", [False, True])
def test_nce_agrees_with_its_formula(agrees_with_literal, symmetric):
    loss = functools.partial(info_nce, **({"symmetric": True} if symmetric else {}))
    literal = functools.partial(literal_nce, temperature=0.07, symmetric=symmetric)
    agrees_with_literal(loss, literal, *features())


def test_one_trace_of_nce_serves_all_temperatures(x64):
    loss = jax.jit(info_nce)
    for temperature in (0.01, 0.07, 2.0):
        expected = literal_nce(*map(np.float64, features()), temperature, symmetric=False)
        got = loss(*features(), temperature=temperature)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert loss._cache_size() == 1


def test_masked_rows_of_nce_are_as_good_as_absent(leaves_rows_out):
    leaves_rows_out(nce(symmetric=True), *features(rows=12), np.arange(12) % 3 > 0)


def test_nce_of_one_image_or_none_is_worth_nothing():
    student, teacher = features(rows=12)
    for row in (5, 12):
        value, gradients = nce(symmetric=True)(student, teacher, where=np.arange(12) == row)
        assert value == 0
        assert not any(map(np.any, gradients))
    assert jax.jit(info_nce)(student[:1], teacher[:1]) == 0


def test_nce_does_not_see_the_size():
    student, teacher = features()
    expected, gradients = jax.device_get(nce()(student, teacher))
    for size in np.float32([1e-20, 3, 1e20]):
        value, other = nce()(size * student, teacher / size)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        bound = 1e-5 * abs(gradients[0]).max()
        np.testing.assert_allclose(other[0] * size, gradients[0], rtol=0, atol=bound)


def test_zero_rows_of_nce_have_cosine_zero_and_no_gradient():
    student, teacher = features()
    student[2] = 0
    value, gradients = jax.device_get(nce()(student, teacher))
    scores = student @ unit(teacher).T / np.maximum(np.linalg.norm(student, axis=1), 1e-9)[:, None]
    losses = np.log(np.exp(scores / 0.07).sum(1)) - np.diagonal(scores) / 0.07
    assert losses[2] == pytest.approx(np.log(8))
    np.testing.assert_allclose(value, losses.mean(), rtol=1e-5)
    assert not gradients[0][2].any()
    assert np.isfinite(gradients).all()
    value, gradients = nce()(np.zeros_like(student), teacher)
    np.testing.assert_allclose(value, np.log(8), rtol=1e-6)
    assert not np.any(gradients)


def test_misuse_of_nce_is_told():
    rows = np.zeros((4, 7), np.float32)
    for teacher, options, message in [
        (np.zeros((4, 9), np.float32), {}, r"\(4, 7\).*\(4, 9\)"),
        (rows[0], {}, r"\(4, 7\).*\(7,\)"),
        (rows, {"where": np.ones(4)}, "boolean"),
    ]:
        with pytest.raises(ValueError, match=message):
            info_nce(rows, teacher, **options)
