import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import center_relation, class_centers, pair_relation, triplet_relation

COUPLED = [pair_relation, triplet_relation]


def features(rows=8, width=16, teacher_width=24):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(rows, width)), rng.normal(size=(rows, teacher_width))
    return student.astype(np.float32), teacher.astype(np.float32)


def batch_centers(student, teacher, labels, reduction="mean", **options):
    """Eq. 7 with the batch's own centres."""
    centers, counts = class_centers(teacher, labels, 5, **options)
    return center_relation(student, teacher, centers, present=counts > 0, reduction=reduction)


def compile_grad(loss):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def literal(student, teacher, loss):
    """Eq. 3 or 4, with all differences and all cosines written out."""

    def length(x, keepdims=False):
        squares = (x * x).sum(-1, keepdims=keepdims)
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)

    n = len(student)
    pairs, triplets = (list(itertools.permutations(range(n), k)) for k in (2, 3))
    relations = []
    for x in (student, teacher):
        differences = x[None] - x[:, None]  # [j, i]
        if loss is pair_relation:
            j, i = np.array(pairs).T
            distances = length(differences)[j, i]
            relations.append(distances / jnp.maximum(distances.mean(), 1e-30))
        else:
            j, i, k = np.array(triplets).T
            lengths = length(differences, keepdims=True)
            units = jnp.where(lengths > 0, differences / jnp.where(lengths > 0, lengths, 1), 0)
            relations.append((units @ units.swapaxes(1, 2))[j, i, k])
    gap = relations[0] - relations[1]
    squares, size = gap**2, abs(gap)
    return jnp.mean(
        squares if loss is pair_relation else jnp.where(size < 1, squares / 2, size - 0.5)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name, loss", [("L2", pair_relation), ("L3", triplet_relation)])
def test_agrees_with_the_papers_sums(golden, agrees, x64, name, loss, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_S", "in_T"))
    value, gradient = golden[f"val_horkd_sum_{name}"], golden[f"grad_horkd_sum_{name}"]
    for reduction, count in (("sum", 1), ("mean", golden[f"count_{name}"])):
        got = jax.jit(jax.value_and_grad(functools.partial(loss, reduction=reduction)))
        agrees(got(student, teacher), value / count, gradient / count, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_center_relation_agrees_with_the_papers_sum(golden, agrees, x64, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_S", "in_T"))
    value, gradient = golden["val_horkd_sum_LC"], golden["grad_horkd_sum_LC"]
    labels, images = golden["in_lab"], len(student)
    for reduction, count in (("sum", 1), ("mean", golden["count_LC"] / images)):
        total = lambda s, r=reduction: batch_centers(s, teacher, labels, r).sum()  # noqa: E731
        got = jax.jit(jax.value_and_grad(total))(student)
        agrees(got, value / count, gradient / count, dtype)


def test_values_by_hand():
    # Sides 3, 4, 5 against three points in a row at 0, 1, 2: mean sides 4 and 4/3.
    student, teacher = jnp.array([[0.0, 0], [3, 0], [0, 4]]), jnp.array([[0.0], [1], [2]])
    squares = [(3 / 4 - 3 / 4) ** 2, (4 / 4 - 6 / 4) ** 2, (5 / 4 - 3 / 4) ** 2]
    np.testing.assert_allclose(pair_relation(student, teacher), np.mean(squares), rtol=1e-6)
    # Cosines 0, 3/5, 4/5 against 1, -1, 1; the second gap is on the linear side of the Huber loss.
    huber = [0.5, 1.6 - 0.5, 0.2**2 / 2]
    np.testing.assert_allclose(triplet_relation(student, teacher), np.mean(huber), rtol=1e-5)
    # A bound above every gap leaves half the squares.
    got = triplet_relation(student, teacher, huber_delta=2.0, reduction="sum")
    np.testing.assert_allclose(got, (1 + 1.6**2 + 0.2**2) / 2, rtol=1e-5)


def test_centers_by_hand():
    rows, labels = jnp.array([[1.0, 0], [3, 2], [5, 5], [7, 7]]), np.array([0, 0, 2, -1])
    centers, counts = class_centers(rows, labels, 4, where=np.array([True, True, False, True]))
    np.testing.assert_array_equal(counts, [2, 0, 0, 0])
    np.testing.assert_array_equal(centers, [[2, 1], [0, 0], [0, 0], [0, 0]])
    # Distances to (2, 1), the only class present: sqrt 2 against 0, and 0 against 0.
    got = center_relation(
        rows[:2], jnp.full((2, 2), jnp.array([2.0, 1])), centers, present=counts > 0
    )
    np.testing.assert_allclose(got, [2, 2], rtol=1e-6)


def special(name):
    student, teacher = features()
    match name:
        case "duplicates":
            student[3] = student[0]
            student[5], teacher[5] = student[1], teacher[1]
        case "all equal":
            student[:] = student[0]
        case "zero rows":
            student[2:4], teacher[3] = 0, 0
        case "large mean":
            student, teacher = 1000 + student / 10, 1000 + teacher / 10
        case "tiny and huge":
            student, teacher = student * 1e-4, teacher * 1e4
        case "bfloat16":
            student, teacher = (
                jnp.asarray(student, jnp.bfloat16),
                jnp.asarray(teacher, jnp.bfloat16),
            )
    return jnp.asarray(student), jnp.asarray(teacher)


SPECIAL = ["duplicates", "all equal", "zero rows", "large mean", "tiny and huge", "bfloat16"]


@pytest.fixture(scope="module", params=COUPLED)
def compiled(request):
    """A kernel and its literal form, with both gradients, compiled once for all batches."""
    kernel, exact = request.param, lambda s, t: literal(s, t, request.param)
    return compile_grad(kernel), compile_grad(exact)


@pytest.mark.parametrize("name", SPECIAL)
def test_float32_stays_near_float64_on_special_batches(compiled, name):
    # Bound: 1e-5 of the value and of the largest gradient entry (measured: below 1e-6), but for
    # gradients that are rounded to bfloat16.
    student, teacher = special(name)
    kernel, exact = compiled
    value, gradients = kernel(student, teacher)
    with jax.enable_x64(True):
        doubles = (np.asarray(x, np.float64) for x in (student, teacher))
        exact_value, exact_gradients = exact(*doubles)
    np.testing.assert_allclose(value, exact_value, rtol=1e-5)
    for got, expected in zip(gradients, exact_gradients, strict=True):
        bound = 8e-3 if got.dtype == jnp.bfloat16 else 1e-5
        expected = np.asarray(expected)
        np.testing.assert_allclose(
            got.astype(np.float32), expected, atol=bound * abs(expected).max()
        )


def test_chunks_change_nothing():
    expected = compile_grad(triplet_relation)(*features())
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8)
    for size in (1, 3):  # 3 does not divide the 8 images
        got = compile_grad(functools.partial(triplet_relation, chunk_size=size))(*features())
        jax.tree.map(close, got, expected)


def test_near_duplicates_stay_within_the_stated_bound():
    # Three rows at some 1 % of their length R from each other: cosines to 16 eps (R / d)^2.
    rng = np.random.default_rng(0)
    center = rng.normal(size=512)
    rows = np.stack([*(center + 0.01 * rng.normal(size=(3, 512))), -center, -center])
    rows, nothing = rows.astype(np.float32), np.zeros((5, 1), np.float32)
    close = [np.linalg.norm(rows[i] - rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    bound = 16 * np.finfo(np.float32).eps * (np.linalg.norm(center) / min(close)) ** 2
    assert bound < 0.02
    # All cosines of the other network are 0, which leaves cos^2 / 2.
    got = triplet_relation(rows, nothing)
    with jax.enable_x64(True):
        doubles = (np.asarray(x, np.float64) for x in (rows, nothing))
        exact = jax.jit(literal, static_argnums=2)(*doubles, triplet_relation)
    np.testing.assert_allclose(got, exact, atol=bound)


@pytest.mark.parametrize("loss, tuple_size", [(pair_relation, 2), (triplet_relation, 3)])
def test_no_tuples_are_worth_nothing(loss, tuple_size):
    student, teacher = features()
    grad = compile_grad(loss)
    for rows in range(tuple_size):
        value, gradients = grad(student, teacher, where=np.arange(8) < rows)
        assert value == 0
        assert not any(map(np.any, gradients))


def test_one_image_alone():
    student, teacher = features(rows=1, teacher_width=16)
    for loss in COUPLED:
        value, gradients = compile_grad(loss)(student, teacher)
        assert value == 0
        assert not np.any(gradients)
    # One class: the teacher lies on its own centre.
    got = jax.jit(batch_centers)(student, teacher, np.array([4]))
    np.testing.assert_allclose(got, [((student - teacher) ** 2).sum()], rtol=1e-5)


def center_loss(student, teacher, *, where=None):
    """Eq. 7 over the rows that count, in four classes."""
    keep = np.ones(len(student), bool) if where is None else where
    labels = np.where(keep, np.cumsum(keep) % 4, 4)
    student, teacher = (jnp.where(keep[:, None], x, 0) for x in (student, teacher))
    return batch_centers(student, teacher, labels, where=where).mean(where=keep)


@pytest.mark.parametrize("loss", [*COUPLED, center_loss])
def test_masked_rows_are_as_good_as_absent(loss):
    arguments = student, teacher = features(rows=12, teacher_width=16)
    where = np.arange(12) % 3 > 0
    grad = jax.jit(jax.value_and_grad(functools.partial(loss, where=where), argnums=(0, 1)))
    expected, gradients = compile_grad(loss)(*(x[where] for x in arguments))
    for filling in (0, 1e4, np.nan):
        student[~where] = teacher[~where] = filling
        value, got = grad(*arguments)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for masked, absent in zip(got, gradients, strict=True):
            np.testing.assert_allclose(masked[where], absent, atol=1e-6)
            assert not masked[~where].any()


@pytest.mark.parametrize("loss", [*COUPLED, center_loss])
def test_equal_networks_are_at_rest(loss):
    student, _ = features()
    value, gradients = compile_grad(loss)(student, student)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradients, np.zeros_like(gradients), atol=1e-7)


@pytest.mark.parametrize("loss", COUPLED)
def test_relations_see_neither_order_nor_pose_nor_size(loss):
    student, teacher = features()
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
    kernel, order = jax.jit(loss), rng.permutation(8)
    expected = kernel(student, teacher)
    for other in (student @ rotation, 3 * student, student + 1, -student):
        np.testing.assert_allclose(kernel(other, teacher), expected, rtol=1e-5)
    np.testing.assert_allclose(kernel(student[order], teacher[order]), expected, rtol=1e-5)


def test_center_relation_sees_neither_order_nor_common_pose():
    student, teacher = features(teacher_width=16)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)
    labels, kernel = np.arange(8) % 4, jax.jit(batch_centers)
    expected = kernel(student, teacher, labels)
    rotated = kernel(student @ rotation + 1, teacher @ rotation + 1, 3 - labels)
    np.testing.assert_allclose(rotated, expected, rtol=1e-4)
    backwards = kernel(student[::-1], teacher[::-1], labels[::-1])
    np.testing.assert_allclose(backwards[::-1], expected, rtol=1e-4)


@pytest.mark.parametrize("loss", [*COUPLED, lambda s, t: center_relation(s, t, np.zeros((3, 7)))])
def test_wrong_shapes_are_named(loss):
    with pytest.raises(ValueError, match=r"\(4, 7\).*\(5, 7\)"):
        loss(np.zeros((4, 7)), np.zeros((5, 7)))


def test_misuse_is_told():
    rows, labels = np.zeros((4, 7), np.float32), np.zeros(4, int)
    for call, message in [
        (lambda: pair_relation(rows, rows, reduction="max"), "'max'"),
        (lambda: pair_relation(rows, rows, where=labels), "boolean"),
        (lambda: triplet_relation(rows, rows, where=np.ones(3, bool)), r"\(3,\).*\(4, 7\)"),
        (lambda: triplet_relation(rows, rows, chunk_size=0), "positive"),
        (lambda: class_centers(rows, labels[:3], 2), r"\(4, 7\).*\(3,\)"),
        (lambda: center_relation(rows, rows, np.zeros((2, 5))), r"\(4, 7\).*\(2, 5\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
