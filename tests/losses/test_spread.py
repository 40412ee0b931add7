"""Losses of several images must not depend on the distribution of the batch over devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kd_jax.losses import (
    _triplets,
    class_centers,
    contrast_memory,
    contrastive_pairs,
    contrastive_representation,
    correlation_congruence,
    distance_margin,
    distance_matrix_gap,
    hybrid_order_and_terms,
    info_nce,
    mk_mmd,
    multi_similarity,
    n_pair,
    neighbor_ranking,
    pair_relation,
    probabilistic_transfer,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
    triplet_margin,
    triplet_relation,
)


def hybrid(student, teacher, labels, **options):
    """Computes HORKD, including the pair and the triplet relation; returns all results."""
    centers, counts = class_centers(teacher, labels, 5, **options)
    # With these weights, all terms have a visible part of the gradient.
    weights = {"feature_weight": 0.1, "pair_weight": 1.0, "triplet_weight": 1.0}
    loss, terms = hybrid_order_and_terms(
        student, teacher, centers, mapped=2 * student, present=counts > 0, **weights, **options
    )
    return loss, (centers, counts, terms)


def contrast(student, teacher, **options):
    """Computes CRD; returns the new memory too."""
    student, teacher = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher))
    return contrastive_representation(student, teacher, **options)


def metric(student, teacher, labels, **options):
    """Computes the losses of metric learning; returns all of them."""
    mined = {"key": jax.random.key(0), "margin": 3.0, **options}
    values = {
        **{
            mining: triplet_margin(student, labels, mining=mining, **mined)
            for mining in ("all", "batch_hard", "distance", "semihard")
        },
        "margin": distance_margin(
            student, labels, np.float32([1, 2, 1, 2]), mining="all", **options
        ),
        "contrastive": contrastive_pairs(student, labels, **options),
        "n_pair": n_pair(student, labels, **options),
        "multi_similarity": multi_similarity(student, labels, **options),
        "ranking": neighbor_ranking(student, teacher, alpha=0.1, **options),
        "gap": distance_matrix_gap(student, teacher, **options),
    }
    return sum(values.values()), values


def loss_only(loss, **fixed):
    return lambda student, teacher, **options: (loss(student, teacher, **fixed, **options), ())


LOSSES = {
    "hybrid": hybrid,
    "contrast": contrast,
    "metric": metric,
    "mk_mmd": loss_only(mk_mmd),
    "info_nce": loss_only(info_nce, temperature=1.0, symmetric=True),
    "rkd_distance": loss_only(rkd_distance),
    "rkd_angle": loss_only(rkd_angle),
    "similarity": loss_only(similarity_preserving),
    "probabilistic": loss_only(probabilistic_transfer),
    "correlation": loss_only(correlation_congruence),
    "correlation:paper": loss_only(correlation_congruence, variant="paper"),
}


def losses(weights, batch, memory, axis_name=None):
    """Computes losses of a student and a teacher that share weights, so both get gradients.

    Each loss has its own copy of the weights, so one backward pass gives all gradients.
    """
    images, labels, index, negatives, where = batch
    results = {}
    for name, w in weights.items():
        options = {"where": where, "axis_name": axis_name}
        if name in ("hybrid", "metric"):
            options |= {"labels": labels}
        if name == "contrast":
            options |= {"memory": memory, "index": index, "negatives": negatives}
        results[name] = LOSSES[name](jnp.tanh(images @ w), images @ w, **options)
    return sum(value for value, _ in results.values()), results


def gradients(*arguments, axis_name=None):
    """Returns the gradient and the results of each loss."""
    return jax.grad(functools.partial(losses, axis_name=axis_name), has_aux=True)(*arguments)


def spread(how, devices):
    """Returns a function that computes the same with the batch on several devices."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P(), P("data"), P())
    mean = functools.partial(jax.lax.pmean, axis_name="data")
    local = functools.partial(gradients, axis_name="data")
    match how:
        case "jit":
            shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
            return jax.jit(gradients, in_shardings=shardings)
        case "jit, mesh set":

            def with_mesh(*arguments):
                with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                    return gradients(*arguments)

            shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
            return jax.jit(with_mesh, in_shardings=shardings)
        case "pmap":
            return jax.pmap(
                lambda *arguments: mean(local(*arguments)),
                axis_name="data",
                in_axes=(None, 0, None),
                out_axes=None,
            )
        case "shard_map":
            return jax.jit(
                jax.shard_map(
                    lambda *arguments: mean(local(*arguments)),
                    mesh=mesh,
                    in_specs=specs,
                    out_specs=P(),
                )
            )


def compute(function, *arguments):
    return function.lower(*arguments).compile(compiler_options=FAST)(*arguments)


@pytest.fixture(scope="module", autouse=True)
def small_batches_are_split():
    """The triplets of a batch as small as here are split over the devices too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_triplets, "_SPLIT", 2)
        yield


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_each_device_processes_its_share_of_the_triplets(devices):
    """The number of triplets in the loop of a device is N^3 / devices."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    x = jnp.zeros((16, 4))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = str(jax.make_jaxpr(lambda x: triplet_relation(x, x, chunk_size=1))(x))
    lengths = {int(length) for length in re.findall(r"length=(\d+)", program)}
    assert lengths == {16 // devices}


def labeled(loss, **fixed):
    return lambda x, y, **options: loss(x + y, np.arange(x.shape[0]) // 4, **fixed, **options)


PAIRS = {
    "pair_relation": pair_relation,
    "rkd_distance": rkd_distance,
    "similarity_preserving": similarity_preserving,
    "probabilistic_transfer": probabilistic_transfer,
    "correlation_congruence": correlation_congruence,
    "correlation_congruence:paper": functools.partial(correlation_congruence, variant="paper"),
    "mk_mmd": mk_mmd,
    "info_nce": functools.partial(info_nce, symmetric=True),
    "neighbor_ranking": neighbor_ranking,
    "distance_matrix_gap": distance_matrix_gap,
}
LABELED = {
    "triplet_margin": labeled(triplet_margin),
    "triplet_margin:all": labeled(triplet_margin, mining="all"),
    "triplet_margin:distance": labeled(triplet_margin, mining="distance", key=jax.random.key(0)),
    "distance_margin": labeled(distance_margin, mining="all"),
    "contrastive_pairs": labeled(contrastive_pairs),
    "n_pair": labeled(n_pair),
    "multi_similarity": labeled(multi_similarity),
}


@pytest.mark.parametrize("name", [*PAIRS, *LABELED])
def test_each_device_processes_its_share_of_the_pairs(name):
    """Under `shard_map`, eight devices divide the operations of one device by 7.9 or more."""
    grad = jax.value_and_grad(functools.partial((PAIRS | LABELED)[name], axis_name="data"))
    x = jax.ShapeDtypeStruct((256, 32), np.float32)

    def operations(devices):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        split = jax.shard_map(grad, mesh=mesh, in_specs=P("data"), out_specs=(P(), P("data")))
        return jax.jit(split).lower(x, x).cost_analysis()["flops"]

    assert operations(1) / operations(8) > 7.9


def test_a_sharded_jit_splits_the_pairs():
    """The compiler splits all these losses too. With one unsplit, the ratio is below 5.5."""
    x = jax.ShapeDtypeStruct((256, 32), np.float32)

    def operations(devices):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        split = NamedSharding(mesh, P("data"))
        grad = jax.value_and_grad(lambda x, y: sum(loss(x, y) for loss in PAIRS.values()))
        program = jax.jit(grad, in_shardings=split).lower(x, x).compile(compiler_options=FAST)
        return program.cost_analysis()["flops"]

    assert operations(1) / operations(8) > 6


@pytest.fixture(scope="module")
def single():
    """Returns the arguments and the results of one device."""
    rng = np.random.default_rng(0)
    images, weights = (rng.normal(size=s).astype(np.float32) for s in ((16, 12), (12, 10)))
    order = rng.permutation(20)[:16]
    negatives = (order[:, None] + np.arange(1, 7)) % 20
    where = ~np.isin(np.arange(16), [4, 5, 9])  # the third of eight devices has no images
    batch = images, np.arange(16) % 4, order, negatives, where
    arguments = dict.fromkeys(LOSSES, weights), batch, contrast_memory(jax.random.key(0), 20, 10)
    return arguments, compute(jax.jit(gradients), *arguments)


@pytest.mark.parametrize(
    "how, devices, names",
    [
        # A shard_map that is not checked. test_metric_losses.py has the losses of "metric".
        ("pmap", 8, [name for name in LOSSES if name != "metric"]),
        pytest.param("shard_map", 8, [*LOSSES], marks=pytest.mark.long),
        ("jit", 8, ["hybrid", "contrast", "mk_mmd"]),
        ("jit, mesh set", 8, ["hybrid", "rkd_angle"]),
    ],
)
def test_devices_do_not_change_the_results(single, how, devices, names):
    (weights, batch, memory), expected = single
    if how == "pmap":
        batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    weights, *expected = ({name: x[name] for name in names} for x in (weights, *expected))
    got = compute(spread(how, devices), weights, batch, memory)

    def close(path, x, y):
        bound = 1e-5 * abs(y).max()
        np.testing.assert_allclose(x, y, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, list(got), expected)


def test_meshes_with_explicit_axes_take_replicated_features():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    student, teacher = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)
    grad = jax.value_and_grad(similarity_preserving)
    expected, reference = compute(jax.jit(grad), student, teacher)
    with jax.set_mesh(mesh):
        features = jax.device_put((student, teacher), NamedSharding(mesh, P("data")))
        replicated = jax.jit(lambda *x: grad(*(jax.reshard(y, P()) for y in x)))
        value, gradient = jax.device_get(compute(replicated, *features))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, reference, atol=1e-5 * abs(reference).max())
