"""Compares the layers and weights of each baseline with RepDistiller's `train_student.py`.

`test_official_updates.py` compares their gradients with those of its code.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.core.devices import AXIS
from kd_jax.core.errors import UsageError
from kd_jax.methods import AT, CC, METHODS, NST, PKT, RKD, SP, VID, Adapters, FitNet, Ramp, Transfer
from kd_jax.methods.modules import GaussianRegressor, HintRegressor
from kd_jax.models import LinearMap, Outputs

N, C = 8, 5
BATCH = {"label": jnp.asarray(np.arange(N) % C, jnp.int32), "index": jnp.arange(N)}
METHOD_WEIGHTS = {
    FitNet: 100.0,
    AT: 1000.0,
    SP: 3000.0,
    CC: 0.02,
    VID: 1.0,
    RKD: 1.0,
    PKT: 30000.0,
    NST: 50.0,
}
"""RepDistiller's options `-b`, in `scripts/run_cifar_distill.sh`."""


def outputs(seed, channels, size=8):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    maps = tuple(
        jnp.asarray(np.maximum(normal(N, size >> i, size >> i, c), 0))
        for i, c in enumerate(channels)
    )
    embedding, logits = (jnp.asarray(normal(N, width)) for width in (channels[-1], C))
    return Outputs(logits, embedding, maps, maps)


STUDENT, TEACHER = outputs(0, (3, 4, 6)), outputs(1, (5, 4, 7, 6))
BOTH = {"student": STUDENT, "teacher": TEACHER}
PAIRS = list(zip(STUDENT.feature_maps, TEACHER.feature_maps[:3], strict=True))


@functools.cache
def start(kind):
    return kind().init(jax.random.key(2), BOTH, BATCH, {}, None)


@functools.cache
def whole(kind):
    """Returns the loss of one step, its terms and its state."""
    method = kind()
    return jax.jit(lambda adapters, both, batch: method(adapters, both, batch))(
        start(kind), BOTH, BATCH
    )


def value(kind):
    return whole(kind)[1][kind.term]


def test_the_names_are_those_of_repdistiller():
    names = ("fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "nst")
    assert tuple(METHODS.get(name) for name in names) == tuple(METHOD_WEIGHTS)


@pytest.mark.parametrize(("kind", "weight"), METHOD_WEIGHTS.items())
def test_the_loss_is_cross_entropy_and_the_weighted_term(kind, weight):
    loss, terms, state = whole(kind)
    assert state == {}
    assert set(terms) == {"cross_entropy", kind.term}
    hard = losses.cross_entropy(STUDENT.logits, BATCH["label"]).mean()
    np.testing.assert_allclose(terms["cross_entropy"], hard, rtol=1e-6)
    np.testing.assert_allclose(loss, hard + weight * terms[kind.term], rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "loss"), [(AT, losses.attention_transfer), (NST, losses.neuron_selectivity)]
)
def test_attention_and_neuron_selectivity_sum_over_the_stages(kind, loss):
    np.testing.assert_allclose(value(kind), sum(loss(*p).mean() for p in PAIRS), rtol=1e-5)
    assert start(kind) == Adapters()


def test_relations_compare_embeddings_and_sp_the_last_map():
    embeddings = STUDENT.embedding, TEACHER.embedding
    rkd = 25 * losses.rkd_distance(*embeddings) + 50 * losses.rkd_angle(*embeddings)
    np.testing.assert_allclose(value(RKD), rkd, rtol=1e-5)
    pkt = losses.probabilistic_transfer(*embeddings)
    np.testing.assert_allclose(value(PKT), pkt, rtol=1e-5)
    sp = losses.similarity_preserving(STUDENT.feature_maps[-1], TEACHER.feature_maps[-1])
    np.testing.assert_allclose(value(SP), sp, rtol=1e-5)


def test_rkd_of_the_paper_l2_normalizes_the_embeddings():
    def unit(x):
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    lengths = jnp.arange(1.0, N + 1)[:, None]
    both = {role: x.replace(embedding=x.embedding * lengths) for role, x in BOTH.items()}
    normalized = {role: x.replace(embedding=unit(x.embedding)) for role, x in BOTH.items()}
    found, own, expected = (
        method(Adapters(), outputs, BATCH)[1]["rkd"]
        for method, outputs in ((RKD(variant="paper"), both), (RKD(), both), (RKD(), normalized))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(own - expected) > 0.01 * expected


def test_correlation_congruence_learns_an_embedding_of_each_network():
    params = start(CC).params
    ours, theirs = (
        LinearMap(128).apply({"params": params[role]}, BOTH[role].embedding)
        for role in ("student", "teacher")
    )
    np.testing.assert_allclose(value(CC), losses.correlation_congruence(ours, theirs), rtol=1e-5)
    narrow = CC(width=3).init(jax.random.key(2), BOTH, BATCH, {}, None).params
    assert narrow["student"]["kernel"].shape == (6, 3)


def test_the_hint_is_the_second_stages():
    ours, theirs = PAIRS[1]
    regressor = HintRegressor(theirs.shape[-1])
    params = {"params": start(FitNet).params["hint"]}
    mapped, _ = regressor.apply(params, ours, mutable=["batch_stats"])
    np.testing.assert_allclose(value(FitNet), jnp.square(mapped - theirs).mean(), rtol=1e-5)


# The entries of `feat` that `train_student.py` pairs where the teacher is a ResNet-18, whose `feat`
# are f0 to f5, and the student a ShuffleNet, with f0 to f4: zip of feat[1:-1], and feat[2].
@pytest.mark.parametrize(
    ("end", "pairs"),
    [("shallowest", [(1, 1), (2, 2), (3, 3)]), ("deepest", [(1, 2), (2, 3), (3, 4)])],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_maps_are_paired_from_one_end(end, pairs, swapped):
    shallow, deep = (STUDENT.replace(feature_maps=tuple(range(1, n))) for n in (4, 5))
    roles = (deep, shallow) if swapped else (shallow, deep)
    expected = [pair[::-1] for pair in pairs] if swapped else pairs
    method = AT(paired_from=end)
    assert method.pairs(*roles) == expected
    assert method.hint(*roles) == expected[1]


def test_the_hint_of_networks_with_one_map_is_this_map():
    both = {role: out.replace(feature_maps=out.feature_maps[-1:]) for role, out in BOTH.items()}
    params = FitNet().init(jax.random.key(2), both, BATCH, {}, None).params
    assert params["hint"]["conv"]["kernel"].shape == (1, 1, 6, 6)


def test_vid_learns_means_and_scales_of_every_stage():
    params = start(VID).params
    assert sorted(params) == ["map1", "map2", "map3"]
    expected = 0.0
    for i, (ours, theirs) in enumerate(PAIRS, start=1):
        regressor = GaussianRegressor(theirs.shape[-1])
        mean, log_scale = regressor.apply({"params": params[f"map{i}"]}, ours)
        np.testing.assert_allclose(jax.nn.softplus(log_scale) + 1e-5, 5, rtol=1e-6)
        expected += (0.5 * (jnp.square(mean - theirs) / 5 + np.log(5))).mean()
    np.testing.assert_allclose(value(VID), expected, rtol=1e-5)


@pytest.mark.parametrize("module", [HintRegressor(256), GaussianRegressor(256)])
def test_regressors_start_as_the_convolutions_of_pytorch(module):
    params = module.init(jax.random.key(0), jnp.ones((2, 3, 3, 64)))["params"]
    for name, channels in (("conv", 64), ("conv1", 64), ("conv2", 256), ("conv3", 256)):
        if name in params:
            kernel = params[name]["kernel"]
            np.testing.assert_allclose(kernel.std(), 1 / np.sqrt(3 * channels), rtol=0.05)
            assert np.abs(kernel).max() <= 1 / np.sqrt(channels)


def test_soft_targets_can_be_added():
    plain, mixed = (PKT(soft_weight=w)(Adapters(), BOTH, BATCH) for w in (0.0, 0.9))
    soft = losses.soft_target_kl(STUDENT.logits, TEACHER.logits, temperature=4.0).mean()
    np.testing.assert_allclose(mixed[0], plain[0] + 0.9 * soft, rtol=1e-5)
    np.testing.assert_allclose(mixed[1]["soft_target_kl"], soft, rtol=1e-6)
    assert "soft_target_kl" not in plain[1]


def test_the_weight_may_be_a_ramp():
    method = PKT(loss_weight=Ramp(end=10.0, epochs=5.0), hard_weight=0.5)
    loss, terms, _ = method(Adapters(), BOTH, {**BATCH, "epoch": 2.0})
    expected = 0.5 * terms["cross_entropy"] + 4.0 * terms["probabilistic_transfer"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", METHOD_WEIGHTS)
def test_under_pmap_it_is_the_loss_of_the_whole_batch(kind):
    def shares(tree):
        return jax.tree.map(lambda x: x.reshape(2, N // 2, *x.shape[1:]), tree)

    run, adapters = functools.partial(kind(), axis_name=AXIS), start(kind)
    spread = jax.pmap(lambda both, batch: run(adapters, both, batch)[0], axis_name=AXIS)
    found = spread(shares(BOTH), shares(BATCH)).mean()
    np.testing.assert_allclose(found, whole(kind)[0], rtol=1e-4)


def test_networks_without_maps_get_one_sentence():
    bare = {role: dataclasses.replace(out, feature_maps=()) for role, out in BOTH.items()}
    for kind in (AT, NST, SP):
        with pytest.raises(UsageError, match=r"method needs feature maps, but .* choose rkd"):
            kind()(Adapters(), bare, BATCH)
    for kind in (FitNet, VID):
        with pytest.raises(UsageError, match="method needs feature maps"):
            kind().init(jax.random.key(0), bare, BATCH, {}, None)
    PKT()(Adapters(), bare, BATCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weight": -1.0}, "loss_weight must be 0 or more"),
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"variant": "own"}, "variant = 'own' is unknown: choose one of "),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RKD(**options)


def test_maps_are_paired_from_a_known_end():
    with pytest.raises(UsageError, match="paired_from = 'last' is unknown: choose one of "):
        AT(paired_from="last")


@dataclasses.dataclass(frozen=True)
class Cosine(Transfer):
    """A baseline of a user's own needs a term and its value."""

    loss_weight: float = 2.0
    term = "cosine"

    def value(self, student, teacher, learned, axis_name):
        assert learned == {}
        return 1 - jnp.mean(student.embedding[:, :3] * teacher.embedding[:, :3])


def test_a_users_own_loss_is_a_few_lines():
    method = Cosine()
    adapters = method.init(jax.random.key(0), BOTH, BATCH, {}, None)
    loss, terms, _ = method(adapters, BOTH, BATCH)
    np.testing.assert_allclose(loss, terms["cross_entropy"] + 2 * terms["cosine"], rtol=1e-6)
