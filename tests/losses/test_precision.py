"""Precision of all losses on difficult batches.

Values and gradients in float32 must be finite and close to those of the same function in float64.
If the input has NaN or infinity, they must not be finite. Other files compare the functions with
formulas and with official code.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST
from losses.table import (
    ATTENTION,
    FACTORS,
    IMAGES,
    KINDS,
    MASKED,
    METRIC,
    NORMALIZED,
    TABLE,
    compiled,
    exact,
    example,
    needs,
    rows,
    scalar,
)

EVERY = "plain, duplicates, all equal, all equal in both, zero rows, zeros, zero student"
EVERY += ", zero teacher, large mean, tiny, huge, tiny and huge, huge and tiny, close"
BATCHES = {
    "rows": ["one class", "near duplicates"],
    "logits": [
        *("one class", "certain", "impossible class", "impossible label"),
        *("one possible class", "impossible in both"),
    ],
    "maps": ["zero channels", "zero channels and positions"],
}


def batches(name):
    own = [x for x in BATCHES[KINDS[name]] if x != "one class" or "labels" in needs(name)]
    masked = ["none left"] * ("where" in needs(name))
    softened = ["T = 0.5", "T = 100"] * ("temperature" in needs(name))
    return [*EVERY.split(", "), *own, *masked, *softened]


# Absolute errors of the value, over the squared temperature, of sums with terms that cancel.
CANCELLING = {
    "soft_target_kl": 3e-7,
    "decoupled_kd": 2e-6,
    "probabilistic_transfer": 1e-7,
    "neuron_selectivity": 1.5e-7,
    "mk_mmd": 1e-6,
    "mk_mmd:unbiased": 1e-6,
    "mk_mmd:raw": 1e-6,
}
# Errors relative to the value and to the largest gradient entry, where they exceed 1e-5. They are
# five times the measured errors.
EXCEPTIONS = [
    # The relative error of differences between normalized rows is eps mean / spread = 1e-3.
    ("large mean", [*NORMALIZED, "multi_similarity"], 1.5e-3, 5e-3),
    # The same holds for centers and Gram matrices.
    ("large mean", ["center_relation", "hybrid_order", "flow_of_solution"], 1e-3, 3e-3),
    # Differences below 8 eps of the entries count as 0 here.
    ("large mean", ATTENTION, 2e-3, 1.2e-2),
    # In addition, each entry of the gradient is a sign.
    ("large mean", FACTORS, 2e-3, 4),
    # The differences are one hundredth of the features.
    ("close", KINDS, 2e-4, 3e-4),
    # The same holds for these predictions.
    ("T = 100", ["soft_target_kl", "soft_target_cross_entropy"], 1e-5, 1e-4),
    # These rows count as equal in float32 (distance below 0.3 %), but not in float64.
    (
        "near duplicates",
        ["pair_relation", "triplet_relation", "rkd_distance", "rkd_angle", "hybrid_order"],
        1,
        np.inf,
    ),
    ("near duplicates", ["mk_mmd:raw"], 1e-5, 2e-4),
    # The teacher's rows equal their centers except for rounding, which has a random direction.
    ("all equal in both", ["center_relation", "hybrid_order"], 1e-5, 10),
]
# In both dtypes, the gradient is 0 or almost 0.
FLAT = ["all equal", "all equal in both", "zeros", "zero student", "zero teacher"]


def size(x):
    """Returns the largest finite entry, or 1 if all are 0, to make gradients relative."""
    x = np.asarray(x, np.float64)
    return abs(x[np.isfinite(x)]).max() or 1


def check_near(name, batch, got, expected, inputs, gradient_error=1e-5):
    value_error = 1e-5
    for when, names, *errors in EXCEPTIONS:
        if batch == when and name in names:
            value_error, gradient_error = errors
    floor = CANCELLING.get(name, 1e-10)
    if "temperature" in needs(name):
        floor *= float(inputs[2]["temperature"]) ** 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((got, expected))), batch
    np.testing.assert_allclose(
        got[0], expected[0], rtol=value_error, atol=floor, err_msg=str(batch)
    )
    floor = (2e-7 if name == "n_pair" else 1e-7) if batch in FLAT else 1e-9
    for one, other, x in zip(got[1], expected[1], inputs, strict=False):
        bound = gradient_error * abs(other).max() + floor / size(x)
        error = abs(np.asarray(one, np.float64) - other)
        np.testing.assert_array_less(error, bound, err_msg=str(batch))


@pytest.mark.parametrize("name", KINDS)
def test_float32_agrees_with_float64(name):
    for batch in batches(name):
        inputs = example(KINDS[name], batch)
        value, gradients = compiled(name)(*inputs)
        assert [x.dtype for x in (value, *gradients)] == [jnp.float32] * 3
        check_near(name, batch, (value, gradients), exact(name, *inputs), inputs)


def poisoned(name, network, number, entries):
    """Returns an example with a number in some entries of image 2 of the student or the teacher."""
    inputs = example(KINDS[name])
    inputs[network][2].reshape(-1)[entries] = number
    return inputs


def reached(name, network, number):
    """Returns the networks whose gradients cannot be finite."""
    match name:
        case "feature_l1":  # the slope is a sign
            return [0, 1] if np.isnan(number) else []
        case "contrastive_representation":  # each network has one side of the loss
            return [network]
        case (
            "cross_entropy" | "activation_boundary" | "neighbor_ranking"
        ):  # the teacher has no gradient
            return [0]
    return [0, 1]


# One number, and all numbers of an image. A single logit of -inf is a class with probability 0.
NOT_FINITE = [(np.nan, 5), (np.inf, 5), (np.nan, slice(None)), (-np.inf, slice(None))]


@pytest.mark.parametrize("name", KINDS)
def test_nan_and_infinity_reach_the_loss_and_the_gradients(name):
    clean = example(KINDS[name])
    masked = clean[2] | {"where": np.arange(IMAGES) != 2}
    expected = compiled(name)(*clean[:2], masked) if name in MASKED else None
    for network in range(1 if name == "cross_entropy" else 2):
        for number, entries in NOT_FINITE:
            student, teacher, others = poisoned(name, network, number, entries)
            value, gradients = compiled(name)(student, teacher, others)
            case = network, number, entries
            assert not np.isfinite(value), case
            for i in reached(name, network, number):
                assert not np.isfinite(gradients[i][2 if expected is None else ...]).all(), case
            if expected is None:  # the other images have losses without NaN
                assert all(np.isfinite(np.delete(x, 2, 0)).all() for x in gradients), case
            else:
                got = compiled(name)(student, teacher, masked)
                jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("name", KINDS)
def test_values_that_overflow_are_not_finite(name):
    # The squares of 1e30 overflow. Those of 1e19 do not, but sums and products of them do.
    for network, number in itertools.product(range(2), (1e19, 1e30)):
        inputs = poisoned(name, network, number, 5)
        value, _ = compiled(name)(*inputs)
        if np.isfinite(value):
            expected, _ = exact(name, *inputs)
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=CANCELLING.get(name, 0))


def bfloat16(inputs):
    """Converts the student and the teacher to bfloat16."""
    return (*(jnp.asarray(x, jnp.bfloat16) for x in inputs[:2]), inputs[2])


@pytest.mark.parametrize("name", [name for name in KINDS if ":" not in name])
def test_one_bfloat16_image(name):
    inputs = bfloat16(example(KINDS[name]))
    one = rows(inputs, slice(1))
    value, gradients = compiled(name, fast=True)(*one)
    assert [x.dtype for x in (value, *gradients)] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    # Expected is the result with the other rows masked, or a mean over equal images.
    if name in MASKED:
        inputs[2]["where"][1:] = False
    else:
        inputs = rows(inputs, np.zeros(IMAGES, int))
    value64, gradients64 = exact(name, *inputs)
    expected = value64, [x.sum(0, keepdims=True) for x in gradients64]
    check_near(name, "all equal in both", (value, gradients), expected, one, 2**-8)


@pytest.mark.parametrize("kind", TABLE)
def test_bfloat16_is_computed_in_float32(kind):
    @functools.partial(jax.jit, compiler_options=FAST)
    def values(*inputs):
        return {name: scalar(name)(*inputs) for name in TABLE[kind]}

    student, teacher, others = bfloat16(example(kind))
    for name, value in values(student, teacher, others).items():
        assert value.dtype == jnp.float32, name
        expected, _ = compiled(name)(*(np.float32(x) for x in (student, teacher)), others)
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)


# The numbers of "triplet_margin:distance" are drawn for the positions in the batch.
@pytest.mark.parametrize("name", [name for name in MASKED if not name.endswith(":distance")])
def test_masked_rows_are_left_out(name):
    *pair, others = example(KINDS[name])
    where = others["where"]
    absent = exact(name, *rows((*pair, others), np.array([0, 1, 3, 5, 6])))
    where[[2, 4]] = False
    expected = exact(name, *pair, others)
    np.testing.assert_allclose(expected[0], absent[0], rtol=1e-10)
    for one, other in zip(expected[1], absent[1], strict=True):
        np.testing.assert_allclose(one[where], other, rtol=0, atol=1e-10 * abs(other).max())
    for filling in (0, 1e4, np.nan):
        for x in pair:
            x[~where] = filling
        value, gradients = compiled(name)(*pair, others)
        check_near(name, None, (value, gradients), expected, (*pair, others))
        assert not any(x[~where].any() for x in gradients)


@pytest.mark.parametrize("name", [name for name in KINDS if ":" not in name])
def test_vmapped_values_are_the_compiled_values(name):
    examples = [example(KINDS[name], batch) for batch in ("plain", "duplicates")]
    expected = np.stack([compiled(name)(*inputs)[0] for inputs in examples])
    stacked = jax.tree.map(lambda *x: np.stack(x), *examples)
    got = jax.jit(jax.vmap(scalar(name)), compiler_options=FAST)(*stacked)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=CANCELLING.get(name, 0))


# These losses are not 0 for equal networks.
NOT_AT_REST = ["cross_entropy", "soft_target_cross_entropy", "mk_mmd:unbiased", "info_nce"]
NOT_AT_REST += ["info_nce:symmetric", "contrastive_representation"]
NOT_AT_REST += ["activation_boundary", "variational_information", "neighbor_ranking", *METRIC]


@pytest.mark.parametrize("name", [name for name in KINDS if name not in NOT_AT_REST])
def test_equal_networks_have_no_loss_and_no_gradient(name):
    # Typical values are 1e-3 to 1, typical gradients 1e-4 to 0.1.
    for batch in ("plain", "duplicates", "all equal", "zeros"):
        cancelling = 1e-6 if batch in FLAT else 1e-7
        bound = cancelling if name in CANCELLING else 1e-12
        student, _, others = example(KINDS[name], batch)
        value, gradients = compiled(name)(student, student.copy(), others)
        np.testing.assert_allclose(value, 0, atol=bound, err_msg=batch)
        zeros = np.zeros_like(gradients)
        np.testing.assert_allclose(gradients, zeros, atol=1e-7, err_msg=batch)
