import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, value_of

from kd_jax.losses import (
    center_relation,
    class_centers,
    feature_l1,
    hybrid_order,
    hybrid_order_and_terms,
    pair_relation,
    triplet_relation,
)

WEIGHTS = {"feature_weight": 2.0, "pair_weight": 3.0, "triplet_weight": 5.0, "center_weight": 7.0}
TERMS = ["feature_l1", "pair_relation", "triplet_relation", "center_relation"]
PRESENT = np.array([True, False, True])


def features():
    """Returns a student [8, 5], its features at the teacher's width, a teacher [8, 6], centers."""
    rng = np.random.default_rng(0)
    shapes = (8, 5), (8, 6), (8, 6), (3, 6)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@functools.partial(jax.jit, compiler_options=FAST, static_argnames=["reduction"])
def run(student, mapped, teacher, centers, **options):
    return hybrid_order_and_terms(
        student, teacher, centers, mapped=mapped, present=PRESENT, **options
    )


@pytest.mark.parametrize("reduction, weights", [("sum", {}), ("batchmean", {}), ("mean", WEIGHTS)])
def test_agrees_with_the_sums_of_the_paper(golden, agrees, reduction, weights):
    def loss(student, teacher):
        centers, counts = class_centers(teacher, golden["in_lab"], 5)
        options = {"present": counts > 0, "reduction": reduction}
        return hybrid_order(student, teacher, centers, **options, **weights)

    value, gradient = 0, 0
    # The defaults are the weights of the paper.
    weights_or_defaults = weights.values() or (1, 0.02, 0.01, 1)
    for name, weight in zip(("L1", "L2", "L3", "LC"), weights_or_defaults, strict=True):
        images = len(golden["in_S"])
        weight /= {"sum": 1, "batchmean": images, "mean": golden[f"count_{name}"]}[reduction]
        value += weight * golden[f"val_horkd_sum_{name}"]
        gradient += weight * golden[f"grad_horkd_sum_{name}"]
    agrees(loss, "in_S", "in_T", value, gradient)


def test_normalized_features_are_those_of_normalized_inputs():
    student, _, teacher, _ = features()
    labels = np.arange(8) % 3

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    mapped = student[:, :1] * np.ones((1, teacher.shape[1]), np.float32) + teacher[::-1]
    centers, _ = value_of(class_centers, num_classes=3)(unit(teacher), labels)
    normalized = value_of(class_centers, num_classes=3, normalize=True)
    np.testing.assert_allclose(normalized(teacher, labels)[0], centers, rtol=1e-6)
    plain = value_of(hybrid_order)
    expected = plain(unit(student), unit(teacher), centers, mapped=unit(mapped))
    got = value_of(hybrid_order, normalize=True)(student, teacher, centers, mapped=mapped)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_terms_are_the_losses_of_the_other_functions(reduction):
    def separately(student, mapped, teacher, centers):
        coupled = {"reduction": reduction}
        values = [
            feature_l1(mapped, teacher),
            pair_relation(student, teacher, **coupled),
            triplet_relation(student, teacher, **coupled),
            center_relation(mapped, teacher, centers, present=PRESENT, **coupled),
        ]
        return [getattr(jnp, reduction)(x) for x in values]

    student, mapped, teacher, centers = features()
    where = np.arange(8) % 3 > 0
    expected = value_of(separately)(student[where], mapped[where], teacher[where], centers)
    for x in (student, mapped, teacher):
        x[~where] = np.nan
    arguments = student, mapped, teacher, centers
    loss, terms = run(*arguments, where=where, reduction=reduction, **WEIGHTS)
    assert set(terms) == set(TERMS)
    np.testing.assert_allclose([terms[name] for name in TERMS], expected, rtol=1e-5)
    total = sum(w * x for w, x in zip(WEIGHTS.values(), expected, strict=True))
    np.testing.assert_allclose(loss, total, rtol=1e-5)


@pytest.mark.parametrize("option, name", [*zip(WEIGHTS, TERMS, strict=True)])
def test_a_weight_of_0_leaves_its_term_out(option, name):
    student, mapped, teacher, centers = features()
    # The input of the term must not be used, so it may be missing.
    if name == "center_relation":
        centers = None
    call = functools.partial(
        hybrid_order_and_terms, student, teacher, centers, mapped=mapped, **WEIGHTS | {option: 0}
    )
    loss, terms = jax.jit(call, compiler_options=FAST)()
    assert set(terms) == set(TERMS) - {name}
    total = sum(w * terms[k] for w, k in zip(WEIGHTS.values(), TERMS, strict=True) if k in terms)
    np.testing.assert_allclose(loss, total, rtol=1e-6)


def test_all_weights_may_be_0():
    student, _, teacher, _ = features()
    # Without the first and the last term, the widths may differ.
    loss, terms = hybrid_order_and_terms(student, teacher, None, **dict.fromkeys(WEIGHTS, 0))
    assert (loss, loss.dtype, terms) == (0, jnp.float32, {})


def test_one_trace_serves_all_weights():
    traces = []

    @functools.partial(jax.jit, compiler_options=FAST)
    def values(weights):
        traces.append(weights)
        student, mapped, teacher, centers = features()
        return hybrid_order_and_terms(student, teacher, centers, mapped=mapped, **weights)

    first, terms = values(WEIGHTS)
    second, _ = values(WEIGHTS | {"pair_weight": 0.0})  # a traced 0 keeps its term
    assert len(traces) == 1 and set(terms) == set(TERMS)
    np.testing.assert_allclose(first - second, 3 * terms["pair_relation"], rtol=1e-4)


def test_gradients_flow_to_the_student_and_to_the_mapped_features():
    def loss(student, mapped, teacher, centers):
        return hybrid_order(student, teacher, centers, mapped=mapped)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), compiler_options=FAST)(*features())
    assert all(np.isfinite(x).all() and (x != 0).any(1).all() for x in gradients)


def test_dtypes_may_differ(x64):
    student, mapped, teacher, centers = features()
    expected, _ = run(*(np.float64(x) for x in (student, mapped, teacher, centers)))
    got, _ = run(student, mapped, teacher, np.float64(centers))
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"reduction": "max"}, "reduction.*'max'"),
        ({"centers": None}, "centers must be given unless center_weight is 0"),
        ({"mapped": None}, r"without mapped.*student \(8, 5\), teacher \(8, 6\)"),
        ({"mapped": np.zeros((8, 5))}, r"mapped must.*mapped \(8, 5\), teacher \(8, 6\)"),
        ({"centers": np.zeros((3, 5))}, r"need centers.*\(8, 6\).*\(3, 5\)"),
        ({"present": np.ones(3)}, "present must be boolean"),
        ({"pair_weight": np.ones(2)}, r"weight of pair_relation must be a scalar.*\(2,\)"),
    ],
)
def test_errors(options, message):
    student, mapped, teacher, centers = features()
    options = {"centers": centers, "mapped": mapped, **options}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(hybrid_order, student, teacher, **options))
