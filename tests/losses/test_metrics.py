"""Metric learning against lenscloth/RKD, pytorch-metric-learning and formulas.

`official_metrics.py` writes the values and the gradients of the first two.
"""

import functools
import pathlib

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax import losses
from kd_jax.losses import _mining
from kd_jax.losses._numerics import unit_rows

KEY = jax.random.key(0)


def triplet(normalize=False, **options):
    def loss(x, given):
        own = {"key": KEY, "normalize": normalize}
        return losses.triplet_margin(x, given["labels"], **own, **options)

    return loss


def rank(alpha, beta):
    return lambda x, given: losses.neighbor_ranking(x, given["teacher"], alpha=alpha, beta=beta)


def classifier(loss, **options):
    """Returns a loss of embeddings and proxies [C, D]."""

    def mean(x, proxies, given):
        cosines = jnp.matmul(unit_rows(x), unit_rows(proxies).T, precision="highest")
        return loss(cosines, given["labels"], **options).mean()

    return mean


def margin(nu):
    def loss(x, boundary, given):
        boundary = boundary[0] if boundary.shape == (1,) else boundary
        options = {"mining": "all", "boundary_weight": nu, "normalize": True}
        return losses.distance_margin(x, given["labels"], boundary, **options)

    return loss


def labeled(loss, **options):
    return lambda x, given: loss(x, given["labels"], **options)


OFFICIAL = {
    **{f"rkd_{name}": triplet(mining=name) for name in ("all", "hard", "semihard", "distance")},
    "triplet_nonzero": triplet(True, mining="all", reduction="nonzero"),
    "batch_hard": triplet(True, mining="batch_hard"),
    "batch_hard_nonzero": triplet(True, mining="batch_hard", reduction="nonzero"),
    "rank_3_3": rank(3, 3),
    "rank_2_2": rank(2, 2),
    "contrastive": labeled(losses.contrastive_pairs, normalize=True, positive_margin=0.1),
    "n_pair": labeled(losses.n_pair, normalize=True),
    "multi_similarity": labeled(losses.multi_similarity, epsilon=None),
    "multi_similarity_mined": labeled(losses.multi_similarity),
    "margin": margin(0.3),
    "margin_classes": margin(0.1),
    "proxy_nca": classifier(losses.proxy_nca, scale=3.0),
    "normalized_softmax": classifier(losses.normalized_softmax, scale=20.0),  # temperature 0.05
    "arcface": classifier(losses.arcface, margin=np.radians(28.6)),
}


@pytest.fixture(scope="module")
def official():
    with np.load(pathlib.Path(__file__).with_name("official_metrics.npz")) as archive:
        return dict(archive)


@pytest.fixture(scope="module", params=[np.float64, np.float32])
def found(request, official):
    """Returns the values and the gradients of all losses in one precision."""
    dtype = request.param
    second = {"margin": [1.2], "margin_classes": 1.2 + np.linspace(0, 0.3, 4)}

    def results(arrays):
        given = {k: arrays[k] for k in ("labels", "teacher")}
        result = {}
        for name, loss in OFFICIAL.items():
            inputs = [arrays["student"]]
            if f"{name}/gradient1" in official:
                inputs.append(arrays.get(name, arrays["proxies"]))
            places = tuple(range(len(inputs)))
            value = jax.value_and_grad(functools.partial(loss, given=given), places)
            result[name] = value(*inputs)
        return result

    with jax.enable_x64(dtype == np.float64):
        arrays = {k: official[k].astype(dtype) for k in ("student", "teacher", "proxies")}
        arrays |= {k: np.asarray(x, dtype) for k, x in second.items()}
        arrays["labels"] = official["labels"].astype(np.int32)
        return dtype, jax.device_get(jax.jit(results, compiler_options=FAST)(arrays))


@pytest.mark.parametrize("name", OFFICIAL)
def test_values_and_gradients_are_those_of_the_reference_code(found, official, name):
    dtype, results = found
    value, gradients = results[name]
    error = 1e-10 if dtype == np.float64 else 2e-6
    assert value.dtype == dtype
    np.testing.assert_allclose(value, official[name], rtol=error)
    for i, gradient in enumerate(gradients):
        expected = official[f"{name}/gradient{i}"]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=error * abs(expected).max())


LABELS = np.array([0, 0, 0, 1, 1, 2])
SAME = LABELS[:, None] == LABELS
POSITIVE = SAME & ~np.eye(6, dtype=bool)


def embeddings(seed, width=5):
    return np.random.default_rng(seed).normal(size=(6, width)).astype(np.float32)


def distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=2)


def test_the_papers_contrastive_loss_is_a_mean_of_squares():
    """Hadsell et al., eq. 4."""
    x, options = embeddings(0), {"negative_margin": 3.0, "variant": "paper"}
    d = distances(x)
    hinges = np.where(POSITIVE, d, np.where(SAME, 0, np.maximum(3 - d, 0)))
    assert (hinges[~SAME] == 0).any() and (hinges[~SAME] > 0).any()
    found = losses.contrastive_pairs(x, LABELS, **options)
    np.testing.assert_allclose(found, (hinges**2).sum() / 2 / 30, rtol=1e-5)


def test_the_papers_proxies_leave_the_own_class_out_of_the_sum():
    """Movshovitz-Attias et al., eq. 4, with distances of unit vectors."""
    x, proxies = unit_rows(embeddings(0)), unit_rows(embeddings(1)[:3])
    d = np.square(x[:, None] - proxies[None]).sum(2)
    own = LABELS[:, None] == np.arange(3)
    expected = d[own] + np.log(np.where(own, 0, np.exp(-d)).sum(1))
    found = losses.proxy_nca(x @ proxies.T, LABELS, variant="paper")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isnan(losses.proxy_nca(x @ proxies.T, LABELS + 1, variant="paper")[-1])
    for variant in ("paper", "pytorch-metric-learning"):
        alone = losses.proxy_nca(x @ proxies[:1].T, 0 * LABELS, variant=variant)
        np.testing.assert_array_equal(alone, np.zeros(6))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_relative_teacher_is_one_norm_of_all_pairs(normalize):
    """`train_distillation.py` of yulu0724/EmbeddingDistillation."""
    pair = embeddings(0), embeddings(1, width=4)
    ours, theirs = (distances(np.asarray(unit_rows(x)) if normalize else x) for x in pair)
    found = losses.distance_matrix_gap(*pair, normalize=normalize)
    np.testing.assert_allclose(found, np.sqrt(np.square(ours - theirs).sum()), rtol=1e-5)


def test_negatives_are_drawn_by_the_density_of_their_distances():
    """Wu et al., eq. 3 and 4, with the distances of RKD's `DistanceWeighted`."""
    x = np.asarray(unit_rows(embeddings(0)))
    mask = np.ones(6, bool)
    weights = np.asarray(_mining.negative_weights(x, mask, ~SAME, None))
    d = np.maximum(distances(x), 0.5)  # some are above 1.4
    expected = np.where(~SAME & (d < 1.4), d ** (2 - 5) * (1 - d**2 / 4) ** (-(5 - 3) / 2), 0)
    assert (expected[~SAME] == 0).any()
    totals = weights.sum(1, keepdims=True)
    sums = expected.sum(1, keepdims=True)
    near = sums[:, 0] > 0
    found, drawn = (x[near] / total[near] for x, total in ((weights, totals), (expected, sums)))
    np.testing.assert_allclose(found, drawn, rtol=1e-5)
    # The drawn negative of a positive pair is seen in the loss max(0, 0 - d_an + 2).
    pairs = _mining.measured_pairs(jnp.asarray(x), jnp.asarray(LABELS), jnp.asarray(mask), None)

    def draw(key):
        return _mining.select(pairs, jnp.asarray(x), jnp.asarray(mask), "distance", key, None)

    drawn = jax.vmap(draw)(jax.random.split(KEY, 4000))
    assert (np.asarray(drawn.mask) == POSITIVE).all()
    for i in range(5):
        j = np.flatnonzero(POSITIVE[i])[0]
        for n in np.flatnonzero(~SAME[i]):
            share = np.isclose(drawn.negative[:, i, j], pairs.distances[i, n]).mean()
            np.testing.assert_allclose(share, weights[i, n] / totals[i, 0], atol=0.035)


def test_negatives_that_are_all_too_far_have_equal_probabilities():
    x = np.float32([[1, 0], [1, 0], [-1, 0], [-1, 0]])
    labels = np.array([0, 0, 1, 1])
    negative = labels[:, None] != labels
    weights = _mining.negative_weights(x, np.ones(4, bool), negative, None)
    np.testing.assert_array_equal(weights, negative)


def test_the_counts_of_a_binary_search():
    ordered = np.sort(np.float32([[1, 1, 2, 5], [3, 3, 3, np.inf]]), 1)
    values = np.float32([[0, 1, 2, 9], [3, 4, 2, np.inf]])
    for equal, side in ((False, "left"), (True, "right")):
        expected = [np.searchsorted(*row, side=side) for row in zip(ordered, values, strict=True)]
        np.testing.assert_array_equal(_mining.count_below(ordered, values, equal=equal), expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mining": "easy"}, "mining must be 'all' or 'batch_hard' or 'distance'"),
        ({"reduction": "sum"}, "reduction must be 'mean' or 'nonzero'; got 'sum'"),
        ({"mining": "distance"}, "mining 'distance' needs key"),
    ],
)
def test_errors_name_the_option(options, says):
    with pytest.raises(ValueError, match=says):
        losses.triplet_margin(embeddings(0), LABELS, **options)


def test_impossible_boundaries_and_rankings():
    x = embeddings(0)
    with pytest.raises(ValueError, match=r"boundary must be a scalar or \[C\]"):
        losses.distance_margin(x, LABELS, np.ones((2, 2)), mining="all")
    assert np.isnan(losses.distance_margin(x, LABELS, np.ones(2), mining="all"))
    for options in ({"neighbors": 0}, {"beta": 0.5}):
        with pytest.raises(ValueError, match="neighbors and beta must be 1 or more"):
            losses.neighbor_ranking(x, x, **options)


def test_no_array_has_a_number_per_triplet():
    """All intermediate results have at most 2 N^2 numbers."""
    x, labels = jnp.zeros((40, 3)), jnp.arange(40) // 4
    for mining in _mining.MINING:
        for loss in (losses.triplet_margin, losses.distance_margin):
            run = functools.partial(loss, labels=labels, mining=mining, key=KEY)
            program = jax.make_jaxpr(jax.grad(run))(x)
            assert max(sizes(program.jaxpr)) <= 2 * 40**2


def sizes(program):
    """Yields the sizes of all results of a program."""
    for equation in program.eqns:
        yield from (getattr(x.aval, "size", 0) for x in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)
