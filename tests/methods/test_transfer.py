"""Layers and weights of each baseline are those of RepDistiller's `train_student.py`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.devices import AXIS
from kd_jax.errors import UsageError
from kd_jax.methods import Adapters, Transfer
from kd_jax.methods.transfer import KINDS
from kd_jax.models import GaussianRegressor, HintRegressor, LinearMap, Outputs

N, C = 8, 5
BATCH = {"label": jnp.asarray(np.arange(N) % C, jnp.int32), "index": jnp.arange(N)}


def outputs(seed, channels, size=4):
    keys = iter(jax.random.split(jax.random.key(seed), 2 + len(channels)))
    maps = tuple(
        jax.nn.relu(jax.random.normal(next(keys), (N, size >> i, size >> i, c)))
        for i, c in enumerate(channels)
    )
    embedding = jax.random.normal(next(keys), (N, channels[-1]))
    return Outputs(jax.random.normal(next(keys), (N, C)), embedding, maps, maps)


STUDENT, TEACHER = outputs(0, (3, 4, 6)), outputs(1, (5, 4, 7, 6), size=8)
BOTH = {"student": STUDENT, "teacher": TEACHER}
PAIRS = list(zip(STUDENT.maps, TEACHER.maps[1:], strict=True))


def term(name):
    method = Transfer(name)
    adapters = method.init(jax.random.key(2), BOTH, BATCH, {})
    loss, terms, state = method(adapters, BOTH, BATCH)
    assert state == {}
    hard = losses.cross_entropy(STUDENT.logits, BATCH["label"]).mean()
    np.testing.assert_allclose(loss, hard + KINDS[name].weight * terms[name], rtol=1e-5)
    return terms[name], adapters.params


def test_attention_and_neuron_selectivity_sum_over_the_stages():
    for name, loss in (
        ("attention_transfer", losses.attention_transfer),
        ("neuron_selectivity", losses.neuron_selectivity),
    ):
        found, params = term(name)
        np.testing.assert_allclose(found, sum(loss(*p).mean() for p in PAIRS), rtol=1e-6)
        assert params == {}


def test_relations_compare_embeddings_and_sp_the_last_map():
    embeddings = STUDENT.embedding, TEACHER.embedding
    rkd = 25 * losses.rkd_distance(*embeddings) + 50 * losses.rkd_angle(*embeddings)
    np.testing.assert_allclose(term("rkd")[0], rkd, rtol=1e-6)
    pkt = losses.probabilistic_transfer(*embeddings)
    np.testing.assert_allclose(term("probabilistic_transfer")[0], pkt, rtol=1e-6)
    sp = losses.similarity_preserving(*PAIRS[-1])
    np.testing.assert_allclose(term("similarity_preserving")[0], sp, rtol=1e-6)


def test_correlation_congruence_learns_an_embedding_of_each_network():
    found, params = term("correlation_congruence")
    ours, theirs = (
        LinearMap(128).apply({"params": params[role]}, BOTH[role].embedding)
        for role in ("student", "teacher")
    )
    np.testing.assert_allclose(found, losses.correlation_congruence(ours, theirs), rtol=1e-6)


def test_the_hint_is_the_second_stages():
    found, params = term("fitnet")
    ours, theirs = PAIRS[1]
    regressor = HintRegressor(theirs.shape[-1])
    mapped, _ = regressor.apply({"params": params["hint"]}, ours, mutable=["batch_stats"])
    np.testing.assert_allclose(found, jnp.square(mapped - theirs).mean(), rtol=1e-6)


def test_vid_learns_means_and_scales_of_every_stage():
    found, params = term("variational_information")
    assert sorted(params) == ["map1", "map2", "map3"]
    expected = 0.0
    for i, (ours, theirs) in enumerate(reversed(PAIRS), start=1):
        regressor = GaussianRegressor(theirs.shape[-1])
        mean, log_scale = regressor.apply({"params": params[f"map{i}"]}, ours)
        np.testing.assert_allclose(jax.nn.softplus(log_scale) + 1e-5, 5, rtol=1e-6)
        expected += (0.5 * (jnp.square(mean - theirs) / 5 + np.log(5))).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("module", [HintRegressor(256), GaussianRegressor(256)])
def test_regressors_start_as_pytorchs_convolutions(module):
    params = module.init(jax.random.key(0), jnp.ones((2, 3, 3, 64)))["params"]
    for name, channels in (("conv", 64), ("conv1", 64), ("conv2", 256), ("conv3", 256)):
        if name in params:
            kernel = params[name]["kernel"]
            np.testing.assert_allclose(kernel.std(), 1 / np.sqrt(3 * channels), rtol=0.05)
            assert np.abs(kernel).max() <= 1 / np.sqrt(channels)


def test_beside_soft_targets():
    plain, mixed = (Transfer("rkd", soft_weight=w)(Adapters(), BOTH, BATCH) for w in (0.0, 0.9))
    soft = losses.soft_target_kl(STUDENT.logits, TEACHER.logits, temperature=4.0).mean()
    np.testing.assert_allclose(mixed[0], plain[0] + 0.9 * soft, rtol=1e-5)
    assert "soft_target_kl" not in plain[1]


@pytest.mark.parametrize("name", KINDS)
def test_only_the_student_and_the_modules_learn(name):
    method = Transfer(name)
    adapters = method.init(jax.random.key(2), BOTH, BATCH, {})

    def loss(student, teacher, params):
        both = {"student": student, "teacher": teacher}
        return method(Adapters(params), both, BATCH)[0]

    student, teacher, params = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(
        STUDENT, TEACHER, adapters.params
    )
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(teacher))
    leaves = jax.tree.leaves((student, params))
    assert all(jnp.isfinite(leaf).all() for leaf in leaves)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    assert method.adapter_groups == (("adapters",) if params else ())


@pytest.mark.parametrize("name", KINDS)
def test_under_pmap_it_is_the_loss_of_the_whole_batch(name):
    method = Transfer(name)
    adapters = method.init(jax.random.key(2), BOTH, BATCH, {})
    whole = jax.jit(lambda both, batch: method(adapters, both, batch)[0])(BOTH, BATCH)

    def shares(tree):
        return jax.tree.map(lambda x: x.reshape(2, N // 2, *x.shape[1:]), tree)

    run = functools.partial(method, axis_name=AXIS)
    spread = jax.pmap(lambda both, batch: run(adapters, both, batch)[0], axis_name=AXIS)
    np.testing.assert_allclose(spread(shares(BOTH), shares(BATCH)).mean(), whole, rtol=1e-4)


def test_networks_without_maps_get_one_sentence():
    bare = {role: dataclasses.replace(out, maps=()) for role, out in BOTH.items()}
    with pytest.raises(UsageError, match=r"method.loss needs maps"):
        Transfer("attention_transfer")(Adapters(), bare, BATCH)
    Transfer("rkd")(Adapters(), bare, BATCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "crd"}, "loss must be one of 'attention_transfer'"),
        ({"loss": "rkd", "loss_weight": -1.0}, "loss_weight must be 0 or more"),
        ({"loss": "rkd", "temperature": 0.0}, "temperature must be greater than 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Transfer(**options)
