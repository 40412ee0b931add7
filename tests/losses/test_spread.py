"""The losses that couple a batch have one value and gradient however the batch is spread."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kd_jax.losses import (
    class_centers,
    contrast_memory,
    contrastive_representation,
    correlation_congruence,
    hybrid_order,
    info_nce,
    mk_mmd,
    pair_relation,
    probabilistic_transfer,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
    triplet_relation,
)

LOSSES = {
    "pair": pair_relation,
    "triplet": triplet_relation,
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "similarity": similarity_preserving,
    "probabilistic": probabilistic_transfer,
    "correlation": correlation_congruence,
    "correlation:paper": functools.partial(correlation_congruence, variant="paper"),
    "mk_mmd": mk_mmd,
    "info_nce": functools.partial(info_nce, temperature=1.0),
}


def losses(weights, batch, memory, axis_name=None):
    """Student and teacher share weights here, so that the gradient takes both ways.

    Returns every loss, then what else is the same on all devices: centres, counts, new memory.
    """
    images, labels, index, negatives, where = batch
    student, teacher = jnp.tanh(images @ weights), images @ weights
    options = {"where": where, "axis_name": axis_name}
    values = {name: loss(student, teacher, **options) for name, loss in LOSSES.items()}

    centers, counts = class_centers(teacher, labels, 5, **options)
    # With weights for which no relation drowns.
    weighted = {"present": counts > 0, "feature_weight": 0.1, "pair_weight": 1.0, **options}
    values["hybrid"] = hybrid_order(student, teacher, centers, triplet_weight=1.0, **weighted)

    embeddings = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher)]
    rows = {"index": index, "negatives": negatives}
    values["contrast"], memory = contrastive_representation(*embeddings, memory, **rows, **options)
    return values, (centers, counts, memory)


def gradients(*arguments, axis_name=None):
    """The gradient of each loss, and the losses with what else comes out."""

    def stacked(*arguments):
        values, others = losses(*arguments, axis_name=axis_name)
        return values, (values, others)

    return jax.jacrev(stacked, has_aux=True)(*arguments)


def spread(how, devices):
    """Gradients and values of the global batch over some devices."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P(), P("data"), P())
    mean = functools.partial(jax.lax.pmean, axis_name="data")
    local = functools.partial(gradients, axis_name="data")
    match how:
        case "jit":
            shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
            return jax.jit(gradients, in_shardings=shardings)
        case "pmap":
            return jax.pmap(
                lambda *arguments: mean(local(*arguments)),
                axis_name="data",
                in_axes=(None, 0, None),
                out_axes=None,
            )
        case "shard_map" | "shard_map, unchecked":
            return jax.jit(
                jax.shard_map(
                    lambda *arguments: mean(local(*arguments)),
                    mesh=mesh,
                    in_specs=specs,
                    out_specs=P(),
                    check_vma=how == "shard_map",
                )
            )


def compute(function, *arguments):
    """The function's results, compiled in a fifth of the time."""
    options = {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    return function.lower(*arguments).compile(compiler_options=options)(*arguments)


@pytest.fixture(scope="module")
def single():
    """The batch, and what one device makes of it."""
    rng = np.random.default_rng(0)
    images, weights = (rng.normal(size=s).astype(np.float32) for s in ((16, 12), (12, 10)))
    order = rng.permutation(20)[:16]
    negatives = (order[:, None] + np.arange(1, 7)) % 20
    batch = images, np.arange(16) % 4, order, negatives, np.arange(16) != 5
    arguments = weights, batch, contrast_memory(jax.random.key(0), 20, 10)
    return arguments, compute(jax.jit(gradients), *arguments)


WAYS = [("jit", 2), ("jit", 8), ("pmap", 2), ("pmap", 8), ("shard_map", 8)]
WAYS += [("shard_map, unchecked", 2)]


@pytest.mark.parametrize("how, devices", WAYS)
def test_spreading_changes_nothing(single, how, devices):
    (weights, batch, memory), expected = single
    if how == "pmap":
        batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    got = compute(spread(how, devices), weights, batch, memory)

    def close(path, x, y):
        bound = 1e-5 * abs(y).max()
        np.testing.assert_allclose(x, y, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, got, expected)


def test_explicit_meshes_take_replicated_features():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    student, teacher = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)

    @jax.jit
    def grad(*features):
        features = [jax.reshard(x, P()) for x in features]
        return jax.value_and_grad(similarity_preserving)(*features)

    with jax.set_mesh(mesh):
        spread = jax.device_put((student, teacher), NamedSharding(mesh, P("data")))
        value, gradient = jax.device_get(grad(*spread))
    expected, reference = jax.value_and_grad(similarity_preserving)(student, teacher)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, reference, atol=1e-5 * abs(reference).max())
