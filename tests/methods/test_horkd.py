import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.core.devices import AXIS
from kd_jax.core.errors import UsageError
from kd_jax.methods import HORKD, Adapters, Ramp
from kd_jax.models import Outputs

N, C = 16, 5
LABELS = jnp.asarray(np.arange(N) % 4, jnp.int32)  # class 4 has no images
BATCH = {"label": LABELS, "index": jnp.arange(N)}
ALL = HORKD(
    feature_weight=0.3,
    pair_weight=2.0,
    triplet_weight=3.0,
    center_weight=0.7,
    normalize=False,
    reduction="mean",
)


def outputs(seed, width):
    rng = np.random.default_rng(seed)
    embedding, logits = (
        jnp.asarray(rng.normal(size=(N, size)).astype(np.float32)) for size in (width, C)
    )
    return Outputs(logits, embedding, (), ())


def both(student=6, teacher=6):
    return {"teacher": outputs(0, teacher), "student": outputs(1, student)}


def statistics(method, by_role, parts=1):
    """Sums over parts of the set."""
    found = []
    for rows in np.split(np.arange(N), parts):
        part = jax.tree.map(lambda x, rows=rows: x[rows], by_role)
        batch = {key: value[rows] for key, value in BATCH.items()}
        found.append(method.statistics(part, batch, jnp.ones(len(rows), bool)))
    return jax.tree.map(lambda *x: sum(x), *found)


def start(method, by_role):
    return method.init(jax.random.key(2), by_role, BATCH, statistics(method, by_role), None)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("centers", ["dataset", "batch"])
def test_the_loss_is_equation_8(reduction, centers):
    method = dataclasses.replace(ALL, reduction=reduction, centers=centers)
    by_role = both()
    adapters = start(method, by_role)
    assert adapters.params == {}  # equal widths need no map
    loss, terms, state = method(adapters, by_role, BATCH)
    g, f = by_role["student"].embedding, by_role["teacher"].embedding
    means, counts = losses.class_centers(f, LABELS, C)
    total = getattr(jnp, reduction)
    expected = {
        "cross_entropy": total(losses.cross_entropy(by_role["student"].logits, LABELS)),
        "feature_l1": total(losses.feature_l1(g, f)),
        "pair_relation": losses.pair_relation(g, f, reduction=reduction),
        "triplet_relation": losses.triplet_relation(g, f, reduction=reduction),
        "center_relation": total(
            losses.center_relation(g, f, means, present=counts > 0, reduction=reduction)
        ),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5)
    weights = dict(zip(expected, (1.0, 0.3, 2.0, 3.0, 0.7), strict=True))
    np.testing.assert_allclose(loss, sum(weights[k] * expected[k] for k in expected), rtol=1e-5)
    assert state is adapters.state


@pytest.mark.parametrize("centers", ["dataset", "batch"])
@pytest.mark.parametrize("normalize", [False, True])
def test_batchmean_is_the_sum_over_the_number_of_images(normalize, centers):
    method = dataclasses.replace(ALL, normalize=normalize, centers=centers)
    by_role = both()
    adapters = start(method, by_role)
    summed, averaged = (
        dataclasses.replace(method, reduction=reduction)(adapters, by_role, BATCH)[0]
        for reduction in ("sum", "batchmean")
    )
    np.testing.assert_allclose(averaged, summed / N, rtol=1e-5)


def test_normalized_embeddings_have_no_scale():
    method = dataclasses.replace(ALL, normalize=True)
    by_role = both()
    scaled = {
        role: outputs.replace(embedding=outputs.embedding * scale)
        for (role, outputs), scale in zip(by_role.items(), (3.0, 0.1), strict=True)
    }
    loss, longer = (method(start(method, x), x, BATCH)[0] for x in (by_role, scaled))
    np.testing.assert_allclose(longer, loss, rtol=1e-5)


def test_dataset_centers_do_not_depend_on_the_batches():
    by_role = both()
    whole, parts = (statistics(ALL, by_role, parts) for parts in (1, 4))
    np.testing.assert_allclose(whole["sums"], parts["sums"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(whole["counts"], parts["counts"])
    state = start(ALL, by_role).state
    np.testing.assert_array_equal(state["present"], [True, True, True, True, False])
    expected, _ = losses.class_centers(by_role["teacher"].embedding, LABELS, C)
    np.testing.assert_allclose(state["centers"], expected, rtol=1e-5, atol=1e-6)


def test_dataset_centers_need_statistics():
    says = r"HORKD needs the class centers of the training set: .* or set centers = 'batch'"
    with pytest.raises(UsageError, match=says):
        ALL.init(jax.random.key(0), both(), BATCH, {}, None)


@pytest.mark.parametrize("term", ["feature", "pair", "triplet", "center"])
def test_a_weight_of_zero_leaves_its_term_out(term):
    method = dataclasses.replace(ALL, **{f"{term}_weight": 0.0})
    by_role = both(student=4, teacher=6)
    adapters = start(method, by_role)
    _, terms, _ = method(adapters, by_role, BATCH)
    assert not any(name.startswith(term) for name in terms)
    assert len(terms) == 4
    assert ("centers" in adapters.state) == (term != "center")


def test_weights_may_be_ramps():
    ramp = Ramp(end=4.0, epochs=4.0)
    method = dataclasses.replace(ALL, hard_weight=ramp, feature_weight=ramp, center_weight=ramp)
    by_role = both(student=4, teacher=6)
    adapters = start(method, by_role)
    assert "map" in adapters.params
    assert "centers" in adapters.state
    for epoch in (0.0, 2.0):  # a weight of 0 at an epoch does not leave the term out
        loss, terms, _ = method(adapters, by_role, {**BATCH, "epoch": jnp.asarray(epoch)})
        weights = {"pair_relation": 2.0, "triplet_relation": 3.0}
        expected = sum(weights.get(name, epoch) * value for name, value in terms.items())
        assert len(terms) == 5
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_map_is_made_only_where_embeddings_of_different_widths_are_compared():
    by_role = both(student=4, teacher=6)
    assert start(ALL, by_role).params["map"]["kernel"].shape == (4, 6)
    relations = dataclasses.replace(ALL, feature_weight=0.0, center_weight=0.0)
    assert start(relations, by_role).params == {}


def test_the_map_learns_and_the_teacher_does_not():
    by_role = both(student=4, teacher=6)
    adapters = start(ALL, by_role)

    def loss(params, by_role):
        return ALL(Adapters(params, adapters.state), by_role, BATCH)[0]

    by_params, by_outputs = jax.jit(jax.grad(loss, argnums=(0, 1)))(adapters.params, by_role)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(by_params))
    assert np.abs(by_outputs["student"].embedding).max() > 0
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(by_outputs["teacher"]))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("centers", ["dataset", "batch"])
def test_pmap_is_the_global_batch(reduction, centers):
    method = dataclasses.replace(ALL, reduction=reduction, centers=centers)
    by_role = both(student=4, teacher=6)
    adapters = start(method, by_role)

    def loss(params, by_role, batch, axis_name=None):
        held = Adapters(params, adapters.state)
        value, terms, _ = method(held, by_role, batch, axis_name=axis_name)
        return value, terms

    gradient = jax.grad(loss, has_aux=True)

    def on_device(params, by_role, batch):
        grads, terms = gradient(params, by_role, batch, AXIS)
        return jax.lax.pmean((grads, terms), AXIS)

    spread = functools.partial(jax.tree.map, lambda x: x.reshape(4, -1, *x.shape[1:]))
    run = jax.pmap(on_device, AXIS, in_axes=(None, 0, 0), out_axes=None, devices=jax.devices()[:4])
    found = run(adapters.params, spread(by_role), spread(BATCH))
    expected = jax.jit(gradient)(adapters.params, by_role, BATCH)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"centers": "epoch"}, "centers = 'epoch' is unknown: choose one of batch, dataset"),
        ({"reduction": "max"}, "reduction = 'max' is unknown: choose one of batchmean, mean, sum"),
        ({"pair_weight": float("nan")}, "pair_weight must be 0 or more"),
        (
            dict.fromkeys(
                [f"{name}_weight" for name in ("hard", "feature", "pair", "triplet", "center")], 0.0
            ),
            "must be greater than 0",
        ),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        HORKD(**options)
