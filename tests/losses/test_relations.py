import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, compiled, value_of

from kd_jax.losses import (
    _triplets,
    class_centers,
    hybrid_order,
    pair_relation,
    rkd_angle,
    rkd_distance,
    triplet_relation,
)

RKD = [rkd_distance, rkd_angle]
LOSSES = [pair_relation, triplet_relation, *RKD]
PAPER = [functools.partial(loss, variant="paper") for loss in RKD]


def features(rows=8, width=16, teacher_width=24):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(rows, width)), rng.normal(size=(rows, teacher_width))
    return student.astype(np.float32), teacher.astype(np.float32)


def literal(student, teacher, *, of):
    """Eq. 3 or 4 of HORKD, or RKD's losses, with all differences and all cosines written out."""
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


@pytest.mark.parametrize("dtype, reduction", [(np.float32, "mean"), (np.float64, "sum")])
@pytest.mark.parametrize("name, loss", [("L2", pair_relation), ("L3", triplet_relation)])
def test_agrees_with_the_papers_sums(golden, agrees, x64, name, loss, dtype, reduction):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_S", "in_T"))
    count = 1 if reduction == "sum" else golden[f"count_{name}"]
    value, gradient = (golden[f"{k}_horkd_sum_{name}"] / count for k in ("val", "grad"))
    got = jax.jit(
        jax.value_and_grad(functools.partial(loss, reduction=reduction)), compiler_options=FAST
    )
    agrees(got(student, teacher), value, gradient, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", RKD)
def test_rkd_agrees_with_the_official_code(golden, agrees, x64, loss, dtype):
    student, teacher = (jnp.asarray(golden[k], dtype) for k in ("in_S", "in_T"))
    got = jax.jit(jax.value_and_grad(loss), compiler_options=FAST)(student, teacher)
    agrees(got, golden[f"val_{loss.__name__}"], golden[f"grad_{loss.__name__}"], dtype)


def test_rkd_agrees_with_the_official_code_on_waves(waves, x64):
    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.value_and_grad
    def weighted(student, teacher, distance, angle):
        return distance * rkd_distance(student, teacher) + angle * rkd_angle(student, teacher)

    for weights, value, norm in [
        ((1.0, 0.0), 0.0178404447, 0.0171506668),
        ((0.0, 1.0), 0.0087055135, 0.0113593125),
        ((25.0, 50.0), 0.8812867915, 0.9276125290),
    ]:
        got, gradient = weighted(waves["s"], waves["t"], *weights)
        np.testing.assert_allclose([got, np.linalg.norm(gradient)], [value, norm], rtol=1e-8)


def test_values_by_hand():
    # Sides 3, 4, 5 against three points in a row at 0, 1, 2: mean sides 4 and 4/3.
    student, teacher = np.float32([[0, 0], [3, 0], [0, 4]]), np.float32([[0], [1], [2]])
    squares = [(3 / 4 - 3 / 4) ** 2, (4 / 4 - 6 / 4) ** 2, (5 / 4 - 3 / 4) ** 2]
    got = value_of(pair_relation)(student, teacher)
    np.testing.assert_allclose(got, np.mean(squares), rtol=1e-6)
    # Cosines 0, 3/5, 4/5 against 1, -1, 1; the second gap is on the linear side of the Huber loss.
    # A bound above every gap leaves half the squares.
    triplets = value_of(triplet_relation, reduction="sum")
    for delta, expected in [
        (1.0, 0.5 + (1.6 - 0.5) + 0.2**2 / 2),
        (2.0, (1 + 1.6**2 + 0.2**2) / 2),
    ]:
        got = triplets(student, teacher, huber_delta=delta)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


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
    return student.astype(np.float32), teacher.astype(np.float32)


SPECIAL = ["duplicates", "all equal", "zero rows", "large mean", "tiny and huge"]


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("loss", LOSSES)
def test_float32_stays_near_float64_on_special_batches(loss, name):
    # Bound: 1e-5 of the value and of the largest gradient entry (measured: below 1e-6).
    student, teacher = special(name)
    value, gradients = compiled(loss)(student, teacher)
    with jax.enable_x64(True):
        doubles = (np.asarray(x, np.float64) for x in (student, teacher))
        exact_value, exact = jax.device_get(compiled(literal, of=loss)(*doubles))
    np.testing.assert_allclose(value, exact_value, rtol=1e-5)
    for got, expected in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_bfloat16_is_computed_in_float32():
    def every(student, teacher):
        return jnp.stack([loss(student, teacher) for loss in LOSSES])

    rounded = [x.astype(jnp.bfloat16) for x in features()]
    got = value_of(every)(*rounded)
    assert got.dtype == jnp.float32
    expected = [compiled(loss)(*(x.astype(np.float32) for x in rounded))[0] for loss in LOSSES]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_chunks_change_nothing():
    expected = compiled(triplet_relation)(*features())
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8)
    for size in (1, 3):  # 3 does not divide the 8 images
        got = compiled(triplet_relation, chunk_size=size)(*features())
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
    got = value_of(triplet_relation)(rows, nothing)
    with jax.enable_x64(True):
        doubles = (np.asarray(x, np.float64) for x in (rows, nothing))
        exact = value_of(literal, of=triplet_relation)(*doubles)
    np.testing.assert_allclose(got, exact, atol=bound)


FEWEST = [(pair_relation, 2), (triplet_relation, 3), (rkd_distance, 2), (rkd_angle, 2)]


@pytest.mark.parametrize("loss, fewest", FEWEST)
def test_too_few_images_are_worth_nothing(loss, fewest):
    student, teacher = features(rows=12)
    for rows in range(fewest):
        value, gradients = compiled(loss)(student, teacher, where=np.arange(12) < rows)
        assert value == 0
        assert not any(map(np.any, gradients))


def test_one_image_alone_is_worth_nothing():
    def total(student, teacher):
        return sum(loss(student, teacher) for loss in LOSSES)

    assert value_of(total)(*features(rows=1)) == 0


def official_angle(student, teacher):
    """RepDistiller's `RKD.py`: all N^3 cosines, those of repeated images among them."""

    def cosines(x):
        sides = x[None] - x[:, None]
        sides = sides / np.maximum(np.linalg.norm(sides, axis=2, keepdims=True), 1e-12)
        return sides @ sides.swapaxes(1, 2)

    gap = abs(cosines(student) - cosines(teacher))
    return np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


def test_angles_of_repeated_images_count_as_in_the_official_code(x64):
    student, teacher = (x.astype(np.float64) for x in special("duplicates"))
    # Rows 0 and 3 coincide in the student only, 1 and 5 in both.
    for rows in ([0], [0, 1], [0, 3], [1, 5], [0, 3, 4], [0, 1, 3, 5], range(8)):
        rows = list(rows)
        got = value_of(rkd_angle)(student, teacher, where=np.isin(np.arange(8), rows))
        expected = official_angle(student[rows], teacher[rows])
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
        if rows == [0, 3]:  # of 8 triples the cosines of two differ by 1
            np.testing.assert_allclose(expected, 2 * 0.5 / 8)


@pytest.mark.parametrize("paper, loss", [*zip(PAPER, RKD, strict=True)])
def test_the_papers_variant_normalises_first(paper, loss):
    student, teacher = features()
    student[3] = 0  # stays 0
    got, _ = compiled(paper)(student, teacher)
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher)]
    expected, _ = compiled(loss)(student / np.maximum(lengths[0], 1e-9), teacher / lengths[1])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert abs(compiled(loss)(student, teacher)[0] - expected) > 1e-3


WEIGHTS = {"feature_weight": 2.0, "pair_weight": 3.0, "triplet_weight": 5.0, "center_weight": 7.0}


@pytest.mark.parametrize("reduction, weights", [("sum", {}), ("mean", WEIGHTS)])
def test_hybrid_is_the_weighted_sum_of_its_parts(golden, agrees, x64, reduction, weights):
    @functools.partial(jax.jit, compiler_options=FAST)
    @jax.value_and_grad
    def loss(student, teacher, labels, weights):
        centers, counts = class_centers(teacher, labels, 5)
        options = {"present": counts > 0, "reduction": reduction}
        return hybrid_order(student, teacher, centers, **options, **weights)

    got = loss(*(golden[k] for k in ("in_S", "in_T", "in_lab")), weights)
    value, gradient = 0, 0
    # The defaults are the paper's.
    weights = weights.values() or (1, 0.02, 0.01, 1)
    for name, weight in zip(("L1", "L2", "L3", "LC"), weights, strict=True):
        weight = weight / golden[f"count_{name}"] if reduction == "mean" else weight
        value += weight * golden[f"val_horkd_sum_{name}"]
        gradient += weight * golden[f"grad_horkd_sum_{name}"]
    agrees(got, value, gradient, np.float64)


def test_accelerators_take_another_way_to_the_same_sums(x64):
    squares = [((x[:, None] - x[None]) ** 2).sum(2) for x in map(np.float64, special("duplicates"))]
    sides = [_triplets._sides(x) for x in squares]
    first, second = (
        value_of(_triplets._loop, contract=contract, chunk_size=3)(sides, 0.7)
        for contract in (_triplets._product, _triplets._reduction)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(close, first, second)


def test_memory_of_triplets_grows_with_the_square_of_the_batch():
    rows = jax.ShapeDtypeStruct((256, 4), jnp.float32)
    program = compiled(triplet_relation).lower(rows, rows).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * 256**3 / 4


def hybrid(student, teacher, *, where=None):
    """HORKD with the centres of the rows that count, in four classes."""
    keep = jnp.ones(len(student), bool) if where is None else where
    labels = jnp.where(keep, jnp.cumsum(keep) % 4, 4)
    centers, counts = class_centers(teacher, labels, 5, where=where)
    return hybrid_order(student, teacher, centers, present=counts > 0, where=where)


@pytest.mark.parametrize("loss", [*LOSSES, *PAPER, hybrid])
def test_masked_rows_are_as_good_as_absent(leaves_rows_out, loss):
    student, teacher = features(rows=12)
    teacher = teacher[:, :16] if loss is hybrid else teacher
    leaves_rows_out(compiled(loss), student, teacher, np.arange(12) % 3 > 0)


@pytest.mark.parametrize("loss", [*LOSSES, hybrid])
def test_equal_networks_are_at_rest(loss):
    student, _ = features()
    # Zeros change no relation.
    teacher = student if loss is hybrid else np.pad(student, ((0, 0), (0, 8)))
    value, gradients = compiled(loss)(student, teacher)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, np.zeros(gradient.shape), atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_relations_see_neither_order_nor_pose_nor_size(loss):
    student, teacher = features()
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
    order = rng.permutation(8)
    expected, _ = compiled(loss)(student, teacher)
    for other in (student @ rotation, 3 * student, student + 1, -student):
        np.testing.assert_allclose(compiled(loss)(other, teacher)[0], expected, rtol=1e-5)
    got, _ = compiled(loss)(student[order], teacher[order])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [*LOSSES, lambda s, t: hybrid_order(s, t, np.zeros((3, 7)))])
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
        (lambda: rkd_distance(rows, rows, variant="code"), "'code'"),
        (lambda: rkd_angle(rows, rows, variant="code"), "'code'"),
        (lambda: rkd_angle(rows, rows, chunk_size=-1), "positive"),
        (lambda: hybrid_order(rows, rows, rows, reduction="max"), "'max'"),
        (lambda: hybrid_order(rows, rows, np.zeros((2, 5))), r"\(4, 7\).*\(2, 5\)"),
        (lambda: hybrid_order(rows, np.zeros((4, 5)), rows), r"\(4, 7\).*\(4, 5\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)
