"""The losses that couple a batch have one value and gradient however the batch is spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kd_jax.losses import center_relation, class_centers, pair_relation, triplet_relation


def loss(weights, images, labels, where, axis_name=None):
    """Student and teacher share weights here, so that the gradient takes both ways."""
    student, teacher = jnp.tanh(images @ weights), images @ weights
    options = {"where": where, "axis_name": axis_name}
    centers, counts = class_centers(teacher, labels, 5, **options)
    by_image = center_relation(student, teacher, centers, present=counts > 0)
    return (
        pair_relation(student, teacher, **options)
        + triplet_relation(student, teacher, **options)
        + by_image.mean()
    )


def spread(how, devices):
    """Value and gradient of the global batch over some devices."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P(), P("data"), P("data"), P("data"))

    def local(*arguments):
        return loss(*arguments, axis_name="data")

    def local_gradient(*arguments):
        return jax.lax.pmean(jax.value_and_grad(local)(*arguments), "data")

    def mean_gradient(*arguments):
        return jax.value_and_grad(lambda *a: jax.lax.pmean(local(*a), "data"))(*arguments)

    match how:
        case "jit":
            shardings = [NamedSharding(mesh, spec) for spec in specs]
            return jax.jit(jax.value_and_grad(loss), in_shardings=shardings)
        case "pmap":
            mapped = jax.pmap(
                local_gradient, axis_name="data", in_axes=(None, 0, 0, 0), out_axes=None
            )
            split = lambda x: x.reshape(devices, -1, *x.shape[1:])  # noqa: E731
            return lambda weights, *batch: mapped(weights, *map(split, batch))
        case "shard_map":  # its gradients are summed over devices: average first
            return jax.jit(jax.shard_map(mean_gradient, mesh=mesh, in_specs=specs, out_specs=P()))


@pytest.fixture(scope="module")
def eager():
    rng = np.random.default_rng(0)
    images, weights = rng.normal(size=(16, 12)), rng.normal(size=(12, 10))
    arguments = weights.astype(np.float32), images.astype(np.float32), np.arange(16) % 4
    arguments = (*arguments, np.arange(16) != 5)
    return arguments, jax.value_and_grad(loss)(*arguments)


WAYS = [("jit", 1), ("jit", 2), ("jit", 8), ("pmap", 1), ("pmap", 2), ("pmap", 8)]


@pytest.mark.parametrize("how, devices", [*WAYS, ("shard_map", 8)])
def test_spreading_changes_nothing(eager, how, devices):
    arguments, (expected, expected_gradient) = eager
    value, gradient = spread(how, devices)(*arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    bound = 1e-5 * abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, atol=bound)


def test_one_call_serves_many_batches(eager):
    (weights, images, labels, where), (expected, _) = eager
    many = jax.jit(jax.vmap(loss, in_axes=(None, 0, None, None)))
    values = many(weights, np.stack([images, images[:, ::-1]]), labels, where)
    np.testing.assert_allclose(values[0], expected, rtol=1e-5)
    swapped = jax.jit(loss)(weights[::-1], images, labels, where)
    np.testing.assert_allclose(values[1], swapped, rtol=1e-5)
