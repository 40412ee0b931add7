"""Label losses and methods of metric learning. `tests/losses` compares the kernels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.core.devices import AXIS
from kd_jax.core.errors import UsageError
from kd_jax.losses import _numerics
from kd_jax.methods import HORKD, METHODS, MKD, RKD, Adapters, DarkRank, KDim, Supervised
from kd_jax.models import AngularMap, Outputs

N, C = 8, 4
BATCH = {
    "label": jnp.asarray(np.arange(N) % C, jnp.int32),
    "index": jnp.arange(N),
    "key": jax.random.key(3),
}


def outputs(seed, width):
    keys = jax.random.split(jax.random.key(seed))
    return Outputs(
        *(jax.random.normal(key, (N, d)) for key, d in zip(keys, (C, width), strict=True))
    )


STUDENT, TEACHER = outputs(0, 6), outputs(1, 6)
BOTH = {"student": STUDENT, "teacher": TEACHER}
UNIT = _numerics.unit_rows(STUDENT.embedding)
LABELS = BATCH["label"]


def start(method, both=None):
    return method.init(jax.random.key(2), both or BOTH, BATCH, {}, None)


OWN = {
    "triplet": ({"mining": "all"}, lambda: losses.triplet_margin(UNIT, LABELS, mining="all")),
    "margin": ({"mining": "all"}, lambda: losses.distance_margin(UNIT, LABELS, mining="all")),
    "contrastive": ({}, lambda: losses.contrastive_pairs(UNIT, LABELS)),
    "n_pair": ({}, lambda: losses.n_pair(STUDENT.embedding, LABELS)),
    "multi_similarity": ({}, lambda: losses.multi_similarity(UNIT, LABELS)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_label_loss_takes_the_embeddings(name):
    options, expected = OWN[name]
    method = Supervised(loss=name, options=options)
    assert start(method) == Adapters()
    loss, terms, _ = method(Adapters(), BOTH, BATCH)
    np.testing.assert_allclose(loss, expected(), rtol=1e-6)
    assert terms == {name: loss}


def test_negatives_are_drawn_with_the_key_of_the_step():
    method = Supervised(loss="triplet", options={"margin": 2.0})
    first, again, other = (
        method(Adapters(), BOTH, {**BATCH, "key": jax.random.key(seed)})[0] for seed in (0, 0, 1)
    )
    assert first == again != other
    without = {name: value for name, value in BATCH.items() if name != "key"}
    with pytest.raises(UsageError, match="batch has no key, which mining = 'distance' of triplet"):
        method(Adapters(), BOTH, without)


@pytest.mark.parametrize(
    "method", [Supervised, functools.partial(HORKD, centers="batch"), RKD, KDim]
)
def test_proxies_are_trained_adapters_of_every_method_with_a_label_loss(method):
    method = method(loss="proxy_nca", options={"scale": 3.0})
    assert method.adapter_groups == ("adapters",)
    adapters = start(method)
    proxies = adapters.params["label_loss"]
    assert proxies["kernel"].shape == (6, C)
    cosines, _ = AngularMap(C).apply({"params": proxies}, STUDENT.embedding)
    run = jax.value_and_grad(
        lambda params: method(adapters.replace(params=params), BOTH, BATCH)[:2], has_aux=True
    )
    (_, terms), gradients = run(adapters.params)
    expected = losses.proxy_nca(cosines, LABELS, scale=3.0).mean()
    np.testing.assert_allclose(terms["proxy_nca"], expected, rtol=1e-6)
    assert np.abs(gradients["label_loss"]["kernel"]).max() > 0


def test_the_boundary_of_each_class_may_be_learned():
    options = {"mining": "all", "boundary": 0.9, "boundary_weight": 0.1}
    fixed = Supervised(loss="margin", options=options)
    learned = Supervised(loss="margin", options={**options, "learn_boundary": True})
    assert start(fixed) == Adapters()
    params = start(learned).params
    np.testing.assert_allclose(params["label_loss"]["boundary"], np.full(C, 0.9))
    boundary = jnp.asarray([0.5, 0.6, 0.7, 0.8])
    found = learned(Adapters({"label_loss": {"boundary": boundary}}), BOTH, BATCH)[0]
    expected = losses.distance_margin(UNIT, LABELS, boundary, mining="all", boundary_weight=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_sum_of_horkd_counts_a_metric_loss_once_per_image():
    terms = {
        reduction: HORKD(
            loss="triplet", options={"mining": "all"}, centers="batch", reduction=reduction
        )(Adapters(), BOTH, BATCH)[1]["triplet"]
        for reduction in ("sum", "batchmean")
    }
    np.testing.assert_allclose(terms["sum"], N * terms["batchmean"], rtol=1e-6)


def test_rkd_alone_compares_normalized_teachers_with_raw_students():
    """The student of lenscloth/RKD for metric learning: `--l2normalize false`, ratios 1 and 2."""
    unit = TEACHER.replace(embedding=_numerics.unit_rows(TEACHER.embedding))
    method = RKD(hard_weight=0.0, distance_weight=1.0, angle_weight=2.0)
    loss = method(Adapters(), {"student": STUDENT, "teacher": unit}, BATCH)[0]
    pair = STUDENT.embedding, unit.embedding
    expected = losses.rkd_distance(*pair) + 2 * losses.rkd_angle(*pair)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_darkrank_and_mkd_add_a_label_loss():
    metric = {"loss": "triplet", "options": {"mining": "batch_hard", "margin": 0.0}}
    triplet = losses.triplet_margin(UNIT, LABELS, mining="batch_hard", margin=0.0)
    pair = STUDENT.embedding, TEACHER.embedding
    absolute = losses.normalized_feature_l2(*pair).mean()
    relative = losses.distance_matrix_gap(*pair)
    for method, expected in (
        (DarkRank(alpha=0.1, **metric), losses.neighbor_ranking(*pair, alpha=0.1)),
        (MKD(**metric), 0.3 * relative),
        (MKD(absolute_weight=1.5, relative_weight=0.0, **metric), 1.5 * absolute),
        (MKD(absolute_weight=1.0, relative_weight=0.1, **metric), absolute + 0.1 * relative),
    ):
        loss, terms, _ = method(start(method), BOTH, BATCH)
        np.testing.assert_allclose(terms[method.term], expected, rtol=1e-5)
        np.testing.assert_allclose(loss, triplet + expected, rtol=1e-5)
    assert METHODS.get("darkrank") is DarkRank and METHODS.get("mkd") is MKD


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (functools.partial(MKD, relative_weight=0.0), "absolute_weight or relative_weight must be"),
        (functools.partial(DarkRank, alpha=0.0), "alpha must be greater than 0, not 0.0"),
        (functools.partial(DarkRank, neighbors=0), "beta and neighbors must be 1 or more"),
        (functools.partial(HORKD, loss="softmax"), "loss = 'softmax' is unknown"),
        (functools.partial(RKD, options={"margin": 1.0}), "options.margin is not used by"),
    ],
)
def test_impossible_options_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_under_pmap_it_is_the_loss_of_the_whole_batch():
    """One program with the label losses of pairs and triplets, the methods and the proxies."""
    methods = [
        Supervised(loss="triplet", options={"margin": 2.0}),
        HORKD(loss="multi_similarity", centers="batch", reduction="sum"),
        DarkRank(loss="proxy_nca"),
        MKD(loss="n_pair"),
    ]
    adapters = [start(method) for method in methods]

    def run(both, batch, axis_name=None):
        batch = {**batch, "key": BATCH["key"]}
        pairs = zip(methods, adapters, strict=True)
        return [method(own, both, batch, axis_name=axis_name)[0] for method, own in pairs]

    batch = {name: BATCH[name] for name in ("label", "index")}
    shares = jax.tree.map(lambda x: x.reshape(2, N // 2, *x.shape[1:]), (BOTH, batch))
    spread = jax.pmap(functools.partial(run, axis_name=AXIS), axis_name=AXIS)(*shares)
    for found, expected in zip(spread, jax.jit(run)(BOTH, batch), strict=True):
        np.testing.assert_allclose(found.mean(), expected, rtol=1e-4)
