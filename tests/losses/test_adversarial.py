"""Every public loss on batches that break careless code.

Float32 value and gradients are finite and near those of the same kernel in float64, which other
tests compare with the formulas written out.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.losses import _numerics

# The mean of seven equal rows is rounded, that of eight is not.
IMAGES, WIDTH, CLASSES, MEMORY = 7, 16, 4, 12
# Compiles in a quarter of the time, for all but the float32 results themselves.
FAST = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def masked_mean(values, where):
    return jnp.where(where, values, 0).sum() / jnp.maximum(where.sum(), 1).astype(values.dtype)


def center_relation(student, teacher, labels, where):
    """Eq. 7 of HORKD with the batch's own centres."""
    centers, counts = losses.class_centers(teacher, labels, CLASSES, where=where)
    student, teacher = (jnp.where(where[:, None], x, 0) for x in (student, teacher))
    by_image = losses.center_relation(student, teacher, centers, present=counts > 0)
    return masked_mean(by_image, where)


def hybrid_order(student, teacher, labels, where):
    centers, counts = losses.class_centers(teacher, labels, CLASSES, where=where)
    return losses.hybrid_order(student, teacher, centers, present=counts > 0, where=where)


def contrast(student, teacher, index, negatives, temperature=4, where=None):
    banks = np.random.default_rng(1).uniform(-0.4, 0.4, (2, MEMORY, WIDTH)).astype(np.float32)
    memory = losses.ContrastMemory(*banks, np.zeros(2, student.dtype))
    options = {"index": index, "negatives": negatives, "temperature": temperature, "where": where}
    return losses.contrastive_representation(student, teacher, memory, **options)[0]


def contrastive_representation(student, teacher, index, negatives, temperature, where):
    """CRD of embeddings of unit length; what fills masked rows stays."""

    def unit(x):
        return jnp.where(where[:, None], _numerics.unit_rows(_numerics.keep_rows(x, where)), x)

    student, teacher = map(unit, _numerics.upcast(student, teacher))
    return contrast(student, teacher, index, negatives, temperature, where)


def flow_of_solution(student, teacher):
    return losses.flow_of_solution(*([x, x[:, ::2, ::2, :4]] for x in (student, teacher)))


def variational_information(student, teacher):
    log_scale = np.linspace(-20, 20, student.shape[-1], dtype=np.float32)
    return losses.variational_information(student, teacher, log_scale)


variant = functools.partial
TABLE = {
    "rows": {
        "feature_l1": losses.feature_l1,
        "feature_mse": losses.feature_mse,
        "normalized_feature_l2": losses.normalized_feature_l2,
        "pair_relation": losses.pair_relation,
        "triplet_relation": losses.triplet_relation,
        "rkd_distance": losses.rkd_distance,
        "rkd_distance:paper": variant(losses.rkd_distance, variant="paper"),
        "rkd_angle": losses.rkd_angle,
        "rkd_angle:paper": variant(losses.rkd_angle, variant="paper"),
        "center_relation": center_relation,
        "hybrid_order": hybrid_order,
        "similarity_preserving": losses.similarity_preserving,
        "probabilistic_transfer": losses.probabilistic_transfer,
        "correlation_congruence": losses.correlation_congruence,
        "correlation_congruence:paper": variant(losses.correlation_congruence, variant="paper"),
        "mk_mmd": losses.mk_mmd,
        "mk_mmd:unbiased": variant(
            losses.mk_mmd, variance="all", multipliers=(1, 4), unbiased=True
        ),
        "mk_mmd:raw": variant(losses.mk_mmd, variance="cross", multipliers=(1, 4), normalize=False),
        "info_nce": losses.info_nce,
        "info_nce:symmetric": variant(losses.info_nce, symmetric=True),
        "contrastive_representation": contrastive_representation,
    },
    "logits": {
        "cross_entropy": lambda student, teacher, labels: losses.cross_entropy(student, labels),
        "soft_target_kl": losses.soft_target_kl,
        "soft_target_cross_entropy": losses.soft_target_cross_entropy,
        "decoupled_kd": losses.decoupled_kd,
    },
    "maps": {
        "feature_mse:maps": losses.feature_mse,
        "attention_transfer": losses.attention_transfer,
        "attention_transfer:paper": variant(losses.attention_transfer, variant="paper"),
        "factor_transfer": losses.factor_transfer,
        "factor_transfer:paper": variant(losses.factor_transfer, variant="paper"),
        "activation_boundary": losses.activation_boundary,
        "neuron_selectivity": losses.neuron_selectivity,
        "flow_of_solution": flow_of_solution,
        "variational_information": variational_information,
        "similarity_preserving:maps": losses.similarity_preserving,
    },
}
KINDS = {name: kind for kind, named in TABLE.items() for name in named}
SHAPES = {"rows": (IMAGES, WIDTH), "logits": (IMAGES, WIDTH), "maps": (IMAGES, 4, 4, 6)}


def given(images):
    """What some of the losses need besides the student and the teacher."""
    return {
        "labels": np.arange(images) % 3,
        "index": np.arange(images),
        "negatives": (np.arange(images)[:, None] + np.arange(1, 6)) % MEMORY,
        "where": np.ones(images, bool),
        "temperature": np.float32(4),
    }


def needs(name):
    return inspect.signature(TABLE[KINDS[name]][name]).parameters.keys() & given(1).keys()


def scalar(name):
    loss, wanted = TABLE[KINDS[name]][name], needs(name)

    def mean(student, teacher, given):
        return loss(student, teacher, **{k: given[k] for k in wanted}).mean()

    return mean


@functools.cache
def compiled(name, fast=False):
    """Value and both gradients; one compilation serves all batches of a shape and dtype."""
    grad = jax.value_and_grad(scalar(name), argnums=(0, 1))
    return jax.jit(grad, compiler_options=FAST if fast else None)


def exact(name, student, teacher, given):
    """The same in float64."""

    def double(x):
        return np.asarray(x, np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    arguments = jax.tree.map(double, (student, teacher, given))
    with jax.enable_x64(True):
        value, gradients = compiled(name, fast=True)(*arguments)
        assert value.dtype == jnp.float64
        return np.asarray(value), [np.asarray(x) for x in gradients]


def example(kind, batch="plain"):
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=SHAPES[kind]).astype(np.float32) for _ in range(2))
    others = given(IMAGES)
    match batch:
        case "duplicates":
            student[3] = student[0]
            student[5], teacher[5] = student[1], teacher[1]
        case "all equal":
            student[:] = student[0]
        case "all equal in both":
            student[:], teacher[:] = student[0], teacher[0]
        case "zero rows":
            student[2:4], teacher[3] = 0, 0
        case "zeros":
            student[:], teacher[:] = 0, 0
        case "zero channels":
            student[..., 2], teacher[..., 1:3] = 0, 0
        case "one class":
            others["labels"][:] = 2
        case "large mean":
            student, teacher = 1000 + student / 10, 1000 + teacher / 10
        case "tiny and huge":
            student, teacher = student * np.float32(1e-4), teacher * 10_000
        case "huge and tiny":
            student, teacher = student * 10_000, teacher * np.float32(1e-4)
        case "tiny":
            student, teacher = student * np.float32(1e-4), teacher * np.float32(1e-4)
        case "huge":
            student, teacher = student * 10_000, teacher * 10_000
        case "certain":
            student, teacher = 10_000 * np.sign(student), 10_000 * np.sign(teacher)
        case "close":
            teacher = student + teacher / 100
        case "near duplicates":
            student[3] = student[0] * np.float32(1.0001)
        case "impossible class":
            teacher[:, 3] = -np.inf
        case "impossible label":
            teacher[:, 1], others["labels"][:] = -np.inf, 1
        case "none left":
            others["where"][:] = False
        case "T = 0.5" | "T = 100":
            others["temperature"] = np.float32(batch[4:])
    return student, teacher, others


BATCHES = {
    "rows": ["one class", "near duplicates"],
    "logits": ["one class", "certain", "impossible class", "impossible label"],
    "maps": ["zero channels"],
}
EVERY = "plain, duplicates, all equal, all equal in both, zero rows, zeros, large mean, tiny, huge"
EVERY = [*EVERY.split(", "), "tiny and huge", "huge and tiny", "close"]


def batches(name):
    own = [x for x in BATCHES[KINDS[name]] if x != "one class" or "labels" in needs(name)]
    masked = ["none left"] * ("where" in needs(name))
    softened = ["T = 0.5", "T = 100"] * ("temperature" in needs(name))
    return [*EVERY, *own, *masked, *softened]


# Errors of the value, over the squared temperature, where it is a sum of terms that cancel.
CANCELLING = {
    "soft_target_kl": 3e-7,
    "decoupled_kd": 2e-6,
    "probabilistic_transfer": 1e-7,
    "neuron_selectivity": 1.5e-7,
    "mk_mmd": 1e-6,
    "mk_mmd:unbiased": 1e-6,
    "mk_mmd:raw": 1e-6,
}
NORMALISED = [
    "normalized_feature_l2",
    "rkd_distance:paper",
    "rkd_angle:paper",
    "similarity_preserving",
    "similarity_preserving:maps",
    "mk_mmd",
    "mk_mmd:unbiased",
    "info_nce",
    "info_nce:symmetric",
    "neuron_selectivity",
]
# Errors relative to the value and to the largest gradient entry, where 1e-5 is not kept: five
# times what was measured.
EXCEPTIONS = [
    # What is normalised knows the images' differences to eps mean / spread = 1e-3,
    ("large mean", NORMALISED, 1.5e-3, 5e-3),
    # and so do centres and Gram matrices.
    ("large mean", ["center_relation", "hybrid_order", "flow_of_solution"], 1e-3, 3e-3),
    # Here gaps of less than 8 eps of the entries are taken for rounding errors too.
    ("large mean", ["attention_transfer", "attention_transfer:paper"], 2e-3, 1.2e-2),
    # And each entry's gradient is a sign.
    ("large mean", ["factor_transfer", "factor_transfer:paper"], 2e-3, 4),
    # The gaps are a hundredth of what they are the differences of.
    ("close", KINDS, 2e-4, 3e-4),
    # So are the predictions.
    ("T = 100", ["soft_target_kl", "soft_target_cross_entropy"], 1e-5, 1e-4),
    # In float32 these rows coincide (distances below 0.3 %), in float64 they do not.
    (
        "near duplicates",
        ["pair_relation", "triplet_relation", "rkd_distance", "rkd_angle", "hybrid_order"],
        1,
        np.inf,
    ),
    ("near duplicates", ["mk_mmd:raw"], 1e-5, 2e-4),
    # The teacher lies on its centres but for the rounding of means, which has some direction.
    ("all equal in both", ["center_relation", "hybrid_order"], 1e-5, 10),
]
# The gradient is 0 or nearly so in both dtypes.
FLAT = ["all equal", "all equal in both", "zeros"]


def size(x):
    """The largest finite entry, 1 if all are 0: gradients count per relative change."""
    x = np.asarray(x, np.float64)
    return abs(x[np.isfinite(x)]).max() or 1


def is_near(name, batch, got, expected, inputs, gradient_error=1e-5):
    value_error = 1e-5
    for when, names, *errors in EXCEPTIONS:
        if batch == when and name in names:
            value_error, gradient_error = errors
    floor = CANCELLING.get(name, 1e-10)
    if "temperature" in needs(name):
        floor *= float(inputs[2]["temperature"]) ** 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((got, expected)))
    np.testing.assert_allclose(got[0], expected[0], rtol=value_error, atol=floor)
    floor = 1e-7 if batch in FLAT else 1e-9
    for one, other, x in zip(got[1], expected[1], inputs, strict=False):
        bound = gradient_error * abs(other).max() + floor / size(x)
        np.testing.assert_array_less(abs(np.asarray(one, np.float64) - other), bound)


@pytest.mark.parametrize(
    "name, batch", [(name, batch) for name in KINDS for batch in batches(name)]
)
def test_float32_stays_near_float64(name, batch):
    inputs = example(KINDS[name], batch)
    value, gradients = compiled(name)(*inputs)
    assert [x.dtype for x in (value, *gradients)] == [jnp.float32] * 3
    is_near(name, batch, (value, gradients), exact(name, *inputs), inputs)


def test_no_public_loss_is_missing():
    others = {"ContrastMemory", "contrast_memory", "contrast_negatives", "class_centers"}
    # Cosines have bounds of their own: test_margins.py.
    others |= {"a_softmax", "a_softmax_blend", "arcface", "cosface", "normalized_softmax"}
    others |= {"sphereface_r"}
    assert {name.split(":")[0] for name in KINDS} == set(losses.__all__) - others


def bfloat16(inputs):
    """The first two in bfloat16."""
    return (*(jnp.asarray(x, jnp.bfloat16) for x in inputs[:2]), inputs[2])


def rows(inputs, which):
    return jax.tree.map(lambda x: x[which] if np.ndim(x) else x, inputs)


@pytest.mark.parametrize("name", KINDS)
def test_one_bfloat16_image(name):
    inputs = bfloat16(example(KINDS[name]))
    one = rows(inputs, slice(1))
    value, gradients = compiled(name, fast=True)(*one)
    assert [x.dtype for x in (value, *gradients)] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    # Expected: the other rows masked, or a mean over equal images.
    if "where" in needs(name):
        inputs[2]["where"][1:] = False
    else:
        inputs = rows(inputs, np.zeros(IMAGES, int))
    value64, gradients64 = exact(name, *inputs)
    expected = value64, [x.sum(0, keepdims=True) for x in gradients64]
    is_near(name, "all equal in both", (value, gradients), expected, one, 2**-8)


@pytest.mark.parametrize("name", [name for name in KINDS if "where" in needs(name)])
def test_masked_rows_are_as_good_as_absent(name):
    student, teacher, others = bfloat16(example(KINDS[name]))
    inputs = np.array(student, np.float32), np.array(teacher, np.float32), others
    where = others["where"]
    absent = rows((student, teacher, others), np.array([0, 1, 3, 5, 6]))
    got = compiled(name, fast=True)(*absent)
    where[[2, 4]] = False
    for filling in (0, 1e4, np.nan):
        for x in inputs[:2]:
            x[~where] = filling
        value, gradients = compiled(name)(*inputs)
        if filling == 0:
            value64, gradients64 = exact(name, *inputs)
            # The batch without these rows, whose gradients are rounded to bfloat16.
            expected = value64, [x[where] for x in gradients64]
            is_near(name, None, got, expected, absent, 2**-8)
        is_near(name, None, (value, gradients), (value64, gradients64), inputs)
        assert not any(x[~where].any() for x in gradients)


@pytest.mark.parametrize("name", [name for name in KINDS if ":" not in name])
def test_eager_and_batched_values_are_the_compiled_ones(name):
    examples = [example(KINDS[name], batch) for batch in ("plain", "duplicates")]
    expected = np.stack([compiled(name)(*inputs)[0] for inputs in examples])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=CANCELLING.get(name, 0))
    close(scalar(name)(*examples[0]), expected[0])
    stacked = jax.tree.map(lambda *x: np.stack(x), *examples)
    close(jax.jit(jax.vmap(scalar(name)), compiler_options=FAST)(*stacked), expected)


AT_REST = [
    "feature_l1",
    "feature_mse",
    "feature_mse:maps",
    "normalized_feature_l2",
    "pair_relation",
    "triplet_relation",
    "rkd_distance",
    "rkd_distance:paper",
    "rkd_angle",
    "rkd_angle:paper",
    "center_relation",
    "hybrid_order",
    "similarity_preserving",
    "similarity_preserving:maps",
    "probabilistic_transfer",
    "correlation_congruence",
    "correlation_congruence:paper",
    "mk_mmd",
    "mk_mmd:raw",
    "soft_target_kl",
    "decoupled_kd",
    "attention_transfer",
    "attention_transfer:paper",
    "factor_transfer",
    "factor_transfer:paper",
    "neuron_selectivity",
    "flow_of_solution",
]


@pytest.mark.parametrize("name", AT_REST)
def test_equal_networks_are_at_rest(name):
    # Typical values are 1e-3 to 1, gradients 1e-4 to 0.1.
    student, _, others = example(KINDS[name])
    value, gradients = compiled(name)(student, student.copy(), others)
    np.testing.assert_allclose(value, 0, atol=1e-7)
    np.testing.assert_allclose(gradients, np.zeros_like(gradients), atol=1e-7)


# Only relations, or maps without their channels, are compared.
WIDTHS_MAY_DIFFER = [
    "pair_relation",
    "triplet_relation",
    "rkd_distance",
    "rkd_distance:paper",
    "rkd_angle",
    "rkd_angle:paper",
    "similarity_preserving",
    "similarity_preserving:maps",
    "probabilistic_transfer",
    "attention_transfer",
    "attention_transfer:paper",
    "factor_transfer",
    "neuron_selectivity",
]


@pytest.mark.parametrize("name", KINDS)
def test_wrong_shapes_are_named(name):
    student = np.zeros(SHAPES[KINDS[name]], np.float32)
    others, loss = given(IMAGES), scalar(name)
    match name:
        case "contrastive_representation":  # as it is
            del others["labels"]
            loss = lambda student, teacher, others: contrast(student, teacher, **others)  # noqa: E731
        case "center_relation" | "hybrid_order":  # with given centres
            centers = np.zeros((CLASSES, WIDTH), np.float32)
            kernel = getattr(losses, name)
            loss = lambda student, teacher, _: kernel(student, teacher, centers).sum()  # noqa: E731
        case "cross_entropy":  # has no teacher
            others["labels"] = others["labels"][:-2]
    both = ("rows", "labels") if name == "cross_entropy" else ("student", "teacher")
    fewer, narrow = (jax.eval_shape(lambda x=x: x) for x in (student[:-2], student[..., :-1]))
    if not name.startswith("mk_mmd"):
        with pytest.raises(ValueError, match=r"{} \(7, .*{} \(5,".format(*both)):
            jax.eval_shape(loss, student, fewer, others)
    if name in WIDTHS_MAY_DIFFER:
        assert jax.eval_shape(loss, student, narrow, others).shape == ()
    elif name != "cross_entropy":
        width = student.shape[-1]
        sizes = rf"student \(7, .*\b{width}\b.*teacher \(7, .*\b{width - 1}\b"
        with pytest.raises(ValueError, match=sizes):
            jax.eval_shape(loss, student, narrow, others)
