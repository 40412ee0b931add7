"""Properties of all losses: masks, invariances, errors."""

import functools

import jax
import numpy as np
import pytest
from losses.table import (
    ATTENTION,
    CLASSES,
    FACTORS,
    IMAGES,
    KINDS,
    MASKED,
    NORMALIZED,
    SHAPES,
    WIDTH,
    compiled,
    contrast,
    example,
    given,
    scalar,
)

from kd_jax import losses


def test_every_public_loss_is_in_the_table():
    others = {"ContrastMemory", "contrast_memory", "contrast_negatives", "class_centers"}
    others |= {"shared_contrast_negatives", "hybrid_order_and_terms"}  # test_contrast, test_hybrid
    others |= {"standardized_logits", "inter_class_relation", "intra_class_relation"}
    # test_correlations.py and test_layers.py
    others |= {"attended_layers", "hierarchical_context"}
    # The input of these is cosines: test_margins.py.
    others |= {"a_softmax", "a_softmax_blend", "arcface", "cosface", "normalized_softmax"}
    others |= {"sphereface_r", "proxy_nca"}
    assert {name.split(":")[0] for name in KINDS} == set(losses.__all__) - others


# The smallest batches with a loss; other losses need two images.
FEWEST = {
    "triplet_relation": 3,
    "contrastive_representation": 1,
    "neighbor_ranking": 3,
    "n_pair": 5,
}
FEWEST |= dict.fromkeys(["center_relation", "hybrid_order", "mk_mmd", "mk_mmd:raw"], 1)


@pytest.mark.parametrize("name", MASKED)
def test_too_few_images_have_no_loss(name):
    student, teacher, others = example(KINDS[name])

    def of(images):
        return compiled(name)(student, teacher, others | {"where": np.arange(IMAGES) < images})

    assert abs(of(images=max(4, FEWEST.get(name, 2)))[0]) > 1e-3
    # Similarities of one image have rounding errors.
    rounded = name.startswith(("similarity", "probabilistic", "correlation"))
    for images in range(FEWEST.get(name, 2)):
        value, gradients = of(images)
        np.testing.assert_allclose(value, 0, atol=1e-12 * rounded)
        for gradient in gradients:
            np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-7 * rounded)


RELATIONS = ["pair_relation", "triplet_relation", "rkd_distance", "rkd_angle"]
SIMILARITIES = ["similarity_preserving", "probabilistic_transfer", "correlation_congruence:paper"]


@pytest.mark.parametrize("name", RELATIONS + SIMILARITIES)
def test_relations_do_not_depend_on_order_rotation_and_scale(name):
    student, teacher, others = example("rows")
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    order = rng.permutation(IMAGES)

    def value(student, teacher=teacher):
        return compiled(name)(student, teacher, others)[0]

    close = functools.partial(np.testing.assert_allclose, desired=value(student), rtol=1e-5)
    close(value(student[order], teacher[order]))
    for factor in (-1, 3, 1e3, 1e-2):
        close(value(np.float32(factor) * student))
    close(value(student @ rotation))
    close(value(student[:, rng.permutation(WIDTH)]))
    # Only relations do not depend on the mean.
    assert (abs(value(student + 1) / value(student) - 1) > 0.01) == (name in SIMILARITIES)
    if name in RELATIONS:
        close(value(student + 1))


@pytest.mark.parametrize("name", [*NORMALIZED, *ATTENTION, *FACTORS])
def test_normalized_losses_do_not_depend_on_the_scale(name):
    student, teacher, others = example(KINDS[name])
    expected, gradients = compiled(name)(student, teacher, others)
    error = 1e-6 if name == "normalized_feature_l2" else 1e-5
    for factor in np.float32([1e-25, 1e-20, 0.1, 3, 1e20, 1e25]):
        value, got = compiled(name)(factor * student, teacher / factor, others)
        np.testing.assert_allclose(value, expected, rtol=error)
        for one, other in zip((got[0] * factor, got[1] / factor), gradients, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * abs(other).max())


# These losses compare only relations, or maps without their channels.
WIDTHS_MAY_DIFFER = [
    *RELATIONS,
    "rkd_distance:paper",
    "rkd_angle:paper",
    "similarity_preserving",
    "similarity_preserving:maps",
    "probabilistic_transfer",
    "distance_matrix_gap",
    "neighbor_ranking",
    *ATTENTION,
    "factor_transfer",
    "neuron_selectivity",
]


@pytest.mark.parametrize("name", KINDS)
def test_errors_name_the_wrong_shapes(name):
    student = np.zeros(SHAPES[KINDS[name]], np.float32)
    others, loss = given(IMAGES), scalar(name)
    match name:
        case "contrastive_representation":
            del others["labels"]
            loss = lambda student, teacher, others: contrast(student, teacher, **others)  # noqa: E731
        case "center_relation" | "hybrid_order":
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


# The wrapper of CRD applies the mask before the loss does.
CHECKED = [name for name in MASKED if ":" not in name and name != "contrastive_representation"]


@pytest.mark.parametrize("name", CHECKED)
def test_errors_name_a_wrong_mask(name):
    student, teacher, others = example("rows")
    with pytest.raises(ValueError, match="where must be boolean; got float"):
        jax.eval_shape(scalar(name), student, teacher, others | {"where": np.ones(IMAGES)})
    with pytest.raises(ValueError, match=r"one flag per row.*\(3,\).*\(7, (16|32)\)"):
        jax.eval_shape(scalar(name), student, teacher, others | {"where": np.ones(3, bool)})
