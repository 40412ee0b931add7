import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled, value_of
from losses.table import example

from kd_jax.losses import _triplets, pair_relation, rkd_angle, rkd_distance, triplet_relation

RKD = [rkd_distance, rkd_angle]
LOSSES = [pair_relation, triplet_relation, *RKD]


def features(batch="plain"):
    """Returns seven rows of float32, of widths 16 and 11."""
    student, teacher, _ = example("rows", batch)
    return student, teacher[:, :11]


def formula(student, teacher, *, of):
    """Computes eq. 3 or 4 of HORKD, or the losses of RKD, from all differences and cosines."""
    n, size = len(student), 2 if of in (pair_relation, rkd_distance) else 3
    distinct = np.array(list(itertools.permutations(range(n), size))).T
    tuples = np.array(list(itertools.product(range(n), repeat=size))).T if of in RKD else distinct
    relations = []
    for x in (student, teacher):
        differences = x[None] - x[:, None]  # [j, i]
        squares = (differences**2).sum(-1, keepdims=True)
        lengths = jnp.sqrt(jnp.where(squares > 0, squares, 1))
        directions = jnp.where(squares > 0, differences / lengths, 0)
        if size == 2:
            distances = (differences * directions).sum(-1)
            mean = distances[*distinct].mean()
            relations.append((distances / jnp.where(mean > 0, mean, 1))[*tuples])
        else:
            relations.append((directions @ directions.swapaxes(1, 2))[*tuples])
    gap = relations[0] - relations[1]
    huber = jnp.where(abs(gap) < 1, gap**2 / 2, abs(gap) - 0.5)
    return jnp.mean(gap**2 if of is pair_relation else huber)


@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum"])
@pytest.mark.parametrize("name, loss", [("L2", pair_relation), ("L3", triplet_relation)])
def test_agrees_with_the_sums_of_the_paper(golden, agrees, name, loss, reduction):
    count = {"mean": golden[f"count_{name}"], "batchmean": len(golden["in_S"]), "sum": 1}[reduction]
    expected = (golden[f"{k}_horkd_sum_{name}"] / count for k in ("val", "grad"))
    agrees(functools.partial(loss, reduction=reduction), "in_S", "in_T", *expected)


@pytest.mark.parametrize("loss", RKD)
def test_rkd_agrees_with_the_official_code(golden, agrees, loss):
    expected = (golden[f"{k}_{loss.__name__}"] for k in ("val", "grad"))
    agrees(loss, "in_S", "in_T", *expected)


def test_values_by_hand():
    # Sides 3, 4, 5; and points of a line at 0, 1, 2. The mean sides are 4 and 4/3.
    student, teacher = np.float32([[0, 0], [3, 0], [0, 4]]), np.float32([[0], [1], [2]])
    squares = [(3 / 4 - 3 / 4) ** 2, (4 / 4 - 6 / 4) ** 2, (5 / 4 - 3 / 4) ** 2]
    got = value_of(pair_relation)(student, teacher)
    np.testing.assert_allclose(got, np.mean(squares), rtol=1e-6)
    # Cosines 0, 3/5, 4/5; and 1, -1, 1. With delta 1, the second difference is in the linear part
    # of the Huber loss. With delta 2, all differences are in the quadratic part.
    triplets = value_of(triplet_relation, reduction="sum")
    for delta, expected in [
        (1.0, 0.5 + (1.6 - 0.5) + 0.2**2 / 2),
        (2.0, (1 + 1.6**2 + 0.2**2) / 2),
    ]:
        got = triplets(student, teacher, huber_delta=delta)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_agrees_with_the_formula_on_special_batches(loss):
    for batch in ("duplicates", "all equal", "zero rows", "large mean", "tiny and huge"):
        pair = features(batch)
        got = jax.device_get(compiled(loss)(*pair))
        with jax.enable_x64(True):
            doubles = [x.astype(np.float64) for x in pair]
            expected, gradients = jax.device_get(compiled(formula, of=loss)(*doubles))
        # The measured errors are below 1e-6.
        np.testing.assert_allclose(got[0], expected, rtol=1e-5, err_msg=batch)
        for one, other in zip(got[1], gradients, strict=True):
            bound = 1e-5 * abs(other).max()
            np.testing.assert_allclose(one, other, rtol=0, atol=bound, err_msg=batch)


def test_chunks_do_not_change_the_result():
    expected = compiled(triplet_relation)(*features())
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8)
    for size in (1, 3):  # 3 does not divide 7 images
        got = compiled(triplet_relation, chunk_size=size)(*features())
        jax.tree.map(close, got, expected)


def test_errors_of_near_duplicates_are_within_the_stated_bound():
    # The distances between three rows are about 1 % of their length R. The bound of the error of a
    # cosine is 16 eps (R / d)^2.
    rng = np.random.default_rng(0)
    center = rng.normal(size=512)
    rows = np.stack([*(center + 0.01 * rng.normal(size=(3, 512))), -center, -center])
    rows, nothing = rows.astype(np.float32), np.zeros((5, 1), np.float32)
    close = [np.linalg.norm(rows[i] - rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    bound = 16 * np.finfo(np.float32).eps * (np.linalg.norm(center) / min(close)) ** 2
    assert bound < 0.02
    # All cosines of the other network are 0, so the loss is the mean of cos^2 / 2.
    got = value_of(triplet_relation)(rows, nothing)
    with jax.enable_x64(True):
        doubles = (np.asarray(x, np.float64) for x in (rows, nothing))
        exact = value_of(formula, of=triplet_relation)(*doubles)
    np.testing.assert_allclose(got, exact, atol=bound)


def official_angle(student, teacher):
    """Computes `RKD.py` of RepDistiller: all N^3 cosines, including those of repeated images."""

    def cosines(x):
        sides = x[None] - x[:, None]
        sides = sides / np.maximum(np.linalg.norm(sides, axis=2, keepdims=True), 1e-12)
        return sides @ sides.swapaxes(1, 2)

    gap = abs(cosines(student) - cosines(teacher))
    return np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


def test_angles_of_repeated_images_count_as_in_the_official_code(x64):
    student, teacher = (x.astype(np.float64) for x in features("duplicates"))
    # Rows 0 and 3 are equal in the student only, rows 1 and 5 in both.
    for rows in ([0], [0, 1], [0, 3], [1, 5], [0, 3, 4], [0, 1, 3, 5], range(7)):
        rows = list(rows)
        got = value_of(rkd_angle)(student, teacher, where=np.isin(np.arange(7), rows))
        expected = official_angle(student[rows], teacher[rows])
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
        if rows == [0, 3]:  # the cosines of 2 of 8 triplets differ by 1
            np.testing.assert_allclose(expected, 2 * 0.5 / 8)


@pytest.mark.parametrize("loss", RKD)
def test_the_variant_of_the_paper_normalizes_first(loss):
    student, teacher = features()
    student[3] = 0  # stays 0
    got = value_of(loss, variant="paper")(student, teacher)
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher)]
    plain = value_of(loss)
    expected = plain(student / np.maximum(lengths[0], 1e-9), teacher / lengths[1])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert abs(plain(student, teacher) - expected) > 1e-3


def test_accelerators_compute_the_same_sums_in_another_way(x64):
    pair = map(np.float64, features("duplicates"))
    sides = [_triplets._sides(((x[:, None] - x[None]) ** 2).sum(2)) for x in pair]
    third = np.arange(len(sides[0][0]))
    first, second = (
        value_of(_triplets._loop, contract=contract, chunk_size=3)(sides, sides, third, 0.7)
        for contract in (_triplets._product, _triplets._reduction)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(close, first, second)


def test_memory_of_triplets_grows_with_the_square_of_the_batch():
    rows = jax.ShapeDtypeStruct((256, 4), jnp.float32)
    program = compiled(triplet_relation).lower(rows, rows).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * 256**3 / 4


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x: pair_relation(x, x, reduction="max"),
            "reduction.*'mean' or 'batchmean' or 'sum'; got 'max'",
        ),
        (lambda x: triplet_relation(x, x, chunk_size=0), "chunk_size must be positive; got 0"),
        (lambda x: rkd_angle(x, x, chunk_size=-1), "chunk_size must be positive; got -1"),
        (lambda x: triplet_relation(x, x, huber_delta=x), r"huber_delta must be a scalar.*\(4, 7"),
        (lambda x: rkd_distance(x, x, variant="code"), "'repdistiller' or 'paper'; got 'code'"),
        (lambda x: rkd_angle(x, x, variant="code"), "'repdistiller' or 'paper'; got 'code'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, np.zeros((4, 7), np.float32))
