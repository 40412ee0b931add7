import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.losses import (
    ContrastMemory,
    _noise_contrast,
    contrast_memory,
    contrast_negatives,
    contrastive_representation,
    shared_contrast_negatives,
)

IMAGES = 20


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def wave(w, c, rows):
    return unit(np.sin(w * np.arange(rows * 8) + c).reshape(rows, 8))


def official(dtype=np.float64):
    """Returns the inputs of the official results below (RepDistiller at b84f547, float64)."""
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
    temperature = np.float64(np.float32(0.07))  # RepDistiller uses float32
    (value, new), gradients = crd(*official(), temperature=temperature, momentum=0.5)
    np.testing.assert_allclose(value, 17.2652504273 + 6.8028127386, rtol=1e-9)
    norms = [np.linalg.norm(x) for x in gradients]
    np.testing.assert_allclose(norms, [12.3155291150, 6.9447191979], rtol=1e-9)
    np.testing.assert_allclose(new.partition, [1946374.82, 5834.3414], rtol=1e-8)
    np.testing.assert_allclose(new.student[3, 0], 0.3401622471, rtol=1e-9)


def crd_formula(student, teacher, memory, index, negatives, valid, *, temperature, momentum):
    """Computes `memory.py` and `criterion.py` of RepDistiller with gathered rows of the memory.

    `valid` [N, K] is 1 for the negatives of an image, else 0: K is their number.
    """
    negatives = jnp.broadcast_to(negatives, valid.shape)
    count = valid.sum(1)
    noise, total, partition = count[:, None] / IMAGES, 0, []
    for embeddings, bank, z in [
        (student, memory.teacher, memory.partition[0]),
        (teacher, memory.student, memory.partition[1]),
    ]:
        rows = bank[jnp.concatenate([index[:, None], negatives], axis=1)]
        scores = jnp.exp((rows * embeddings[:, None]).sum(2) / temperature)
        means = (scores[:, 0] + (scores[:, 1:] * valid).sum(1)) / (1 + count)
        z = jnp.where(z > 0, z, jax.lax.stop_gradient(means.mean()) * IMAGES)
        own, others = scores[:, :1] / z, scores[:, 1:] / z
        total -= jnp.log(own / (own + noise + 1e-7)).sum()
        terms = jnp.log(noise) - jnp.log(others + noise + 1e-7)
        total -= jnp.where(valid > 0, terms, 0).sum()
        partition.append(z)
    banks = []
    for bank, embeddings in [(memory.student, student), (memory.teacher, teacher)]:
        rows = momentum * bank[index] + (1 - momentum) * jax.lax.stop_gradient(embeddings)
        banks.append(bank.at[index].set(rows / jnp.linalg.norm(rows, axis=1, keepdims=True)))
    return total / len(student), ContrastMemory(*banks, jnp.stack(partition))


@pytest.mark.parametrize("shared", [False, True])
def test_agrees_with_its_formula(x64, shared):
    student, teacher, memory, index, negatives = official()
    valid, masks = np.ones(negatives.shape, bool), {}
    if shared:
        negatives = np.array([1, 9, 9, 19, 4])  # one is drawn twice
        valid = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0] * 5], bool)
        masks = {"valid": valid}
    grad = jax.value_and_grad(crd_formula, argnums=(0, 1), has_aux=True)
    formula = jax.jit(grad, compiler_options=FAST)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    # The second call uses the constants of the first.
    expected_memory = memory
    for temperature, momentum in [(0.07, 0.5), (0.3, 0.9)]:
        options = {"temperature": temperature, "momentum": momentum}
        got = crd(student, teacher, memory, index, negatives, **masks, **options)
        expected_memory = jax.tree.map(jnp.asarray, expected_memory)
        rows = index, negatives, valid.astype(np.float64)
        expected = formula(student, teacher, expected_memory, *rows, **options)
        jax.tree.map(close, got, expected)
        memory, expected_memory = got[0][1], expected[0][1]


def test_tpus_count_the_negatives_of_each_image():
    """The products of indicators give the counts of `numpy.bincount`."""
    positions = np.random.default_rng(0).integers(0, 301, (3, 900))  # 300 is dropped
    expected = np.stack([np.bincount(row, minlength=301)[:300] for row in positions])
    for count in (_noise_contrast._counts, _noise_contrast._counts_by_products):
        counts = jax.jit(count, static_argnums=1, compiler_options=FAST)(positions, 300)
        np.testing.assert_array_equal(counts, expected)


def test_float32_agrees_with_float64(x64):
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
def test_memory_keeps_its_dtype(x64, dtype, precision):
    student, teacher, memory, *rows = official()
    (expected, _), _ = crd(student, teacher, memory, *rows, temperature=0.07, momentum=0.5)
    memory = jax.tree.map(lambda x: x.astype(dtype), memory)
    (value, new), _ = crd(student.astype(precision), teacher.astype(precision), memory, *rows)
    assert value.dtype == precision
    assert new.student.dtype == new.teacher.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=0.1 if dtype == "bfloat16" else 1e-5)


def test_masked_rows_are_left_out_and_not_stored():
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
    # If all rows are masked, the constants are not set.
    (value, new), got = crd(student, teacher, memory, index, negatives, where=where & False)
    assert value == 0
    assert not any(map(np.any, got))
    jax.tree.map(np.testing.assert_array_equal, new, memory)


def test_infinite_embeddings_and_unknown_constants_reach_the_loss():
    student, teacher, memory, index, negatives = official(np.float32)
    (_, memory), _ = crd(student, teacher, memory, index, negatives)
    constants = memory._replace(partition=np.float32([np.nan, 1]))
    (value, new), _ = crd(student, teacher, constants, index, negatives)
    assert np.isnan(value) and np.isnan(new.partition[0])
    # Its own row has the score inf, the other rows have -inf: the loss would be 0.
    signs = np.where(np.arange(IMAGES) == index[0], 1, -1)[:, None]
    memory = memory._replace(teacher=np.float32(signs * unit(np.ones((1, 8)))))
    student[0] = np.inf
    (value, _), (gradient, _) = crd(student, teacher, memory, index, negatives)
    assert np.isnan(value) and np.isnan(gradient[0]).all()


def test_an_image_that_is_in_the_batch_twice_is_stored_once():
    student, teacher, memory, _, negatives = official(np.float32)
    index = np.array([3, 7, 3, 15])
    (_, new), _ = crd(student, teacher, memory, index, negatives)
    expected = unit(memory.student[[3]] + student[[0]])[0]
    np.testing.assert_allclose(new.student[3], expected, atol=1e-6)


def test_indices_of_masked_rows_are_not_used():
    student, teacher, memory, index, negatives = official(np.float32)
    where = np.array([True, True, True, False])
    index[3], negatives[3] = 1000, -1000
    assert np.isnan(crd(student, teacher, memory, index, negatives)[0][0])

    def loss(temperature):
        options = {"index": index, "negatives": negatives, "temperature": temperature}
        return contrastive_representation(student, teacher, memory, where=where, **options)

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)
    (value, new), slope = grad(0.07)
    assert np.isfinite(value) and np.isfinite(slope)
    for bank, old in zip(new[:2], memory[:2], strict=True):
        np.testing.assert_array_equal(bank[15], old[15])  # row 3 would be stored there


def test_no_gradient_flows_through_the_memory():
    student, teacher, memory, index, negatives = official(np.float32)

    @functools.partial(jax.jit, compiler_options=FAST)
    def gradients(student, teacher, memory):
        loss = functools.partial(contrastive_representation, index=index, negatives=negatives)
        into = jax.grad(lambda m: loss(student, teacher, m)[0])(memory)
        total = jax.grad(lambda s, t: sum(x.sum() for x in loss(s, t, memory)[1]), argnums=(0, 1))
        return into, total(student, teacher)

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
def test_negatives_are_int32_in_double_precision(x64, dtype):
    classes = np.array([1, 0, 1])
    negatives = draw(jax.random.key(0), np.array([0, 1], dtype), classes, 9)
    assert negatives.dtype == jnp.int32
    np.testing.assert_array_equal(classes[negatives], [[1] * 9, [0] * 9])


def test_negatives_are_all_images_of_other_classes():
    classes = np.array([2, 0, 5, 0, 2, 2, 7, 0])  # unordered, with gaps
    labels = np.array([0, 7, 2, 5, 3, 0])  # class 3 has no images
    negatives = np.asarray(draw(jax.random.key(0), labels, classes, 800))
    assert negatives.shape == (6, 800) and negatives.dtype == jnp.int32
    for label, drawn in zip(labels, negatives, strict=True):
        images, counts = np.unique(drawn, return_counts=True)
        np.testing.assert_array_equal(images, np.flatnonzero(classes != label))
        # The bound is five standard deviations of a binomial count.
        share = 1 / len(images)
        assert abs(counts - 800 * share).max() < 5 * (800 * share * (1 - share)) ** 0.5
    assert (negatives[0] != negatives[5]).any()


def test_shared_negatives_are_valid_for_images_of_other_classes():
    classes = np.array([2, 0, 5, 0, 2, 2, 7, 0])
    labels = np.array([0, 7, 3])
    shared = jax.jit(shared_contrast_negatives, static_argnums=3, compiler_options=FAST)
    negatives, valid = shared(jax.random.key(0), labels, classes, 800)
    assert negatives.shape == (800,) and negatives.dtype == jnp.int32
    counts = np.bincount(negatives, minlength=8)
    assert abs(counts - 100).max() < 5 * (800 / 8 * 7 / 8) ** 0.5
    np.testing.assert_array_equal(valid, classes[negatives] != labels[:, None])


MEMORY = official(np.float32)[2]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"student": np.ones((3, 8))}, r"student \(3, 8\), teacher \(4, 8\)"),
        (
            {"memory": ContrastMemory(*(x[..., :5] for x in MEMORY))},
            r"memories \[n, D\].*\(4, 8\).*\(20, 5\).*\(20, 5\)",
        ),
        ({"memory": MEMORY._replace(teacher=MEMORY.teacher[:9])}, r"\(20, 8\).*\(9, 8\)"),
        ({"index": np.ones(3, int)}, r"index \[N\].*\(4, 8\).*\(3,\)"),
        ({"index": np.ones(4)}, "index must be integers"),
        ({"negatives": np.ones((3, 5), int)}, r"\(4, 8\).*negatives \(3, 5\)"),
        ({"negatives": np.ones((4, 0), int)}, r"\(4, 8\).*negatives \(4, 0\)"),
        ({"negatives": np.ones((1, 4, 5), int)}, r"\(4, 8\).*negatives \(1, 4, 5\)"),
        ({"valid": np.ones((4, 5))}, "valid must be boolean"),
        ({"valid": np.ones((4, 4), bool)}, r"valid \(4, 4\).*negatives \(4, 5\)"),
        ({"negatives": np.ones((4, 5))}, "negatives must be integers"),
        ({"negatives": np.arange(5)}, r"negatives \[K\] of the whole batch need valid"),
        ({"where": np.ones(4)}, "where must be boolean"),
    ],
)
def test_errors(changes, message):
    names = ("student", "teacher", "memory", "index", "negatives")
    arguments = dict(zip(names, official(np.float32), strict=True)) | changes
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(contrastive_representation, **arguments))
