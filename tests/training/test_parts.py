"""Frozen networks in parts: equal results, and no exchange between the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.devices import data_mesh, split
from kd_jax.training import parts

X = np.random.default_rng(0).normal(size=(48, 4, 4, 3)).astype(np.float32)


def network(images):
    """Returns a map and two vectors per image, as a network does."""
    maps = jnp.tanh(images)
    return {"maps": maps, "means": maps.mean((1, 2)), "sums": maps.sum((1, 2, 3))}


@pytest.fixture
def sizes(monkeypatch):
    """Divides on this platform, too, into parts of two images; returns the sizes it has seen."""
    monkeypatch.setattr(parts, "IMAGES", 2)
    monkeypatch.setattr(parts.lax, "platform_dependent", lambda x, *, tpu, default: tpu(x))
    seen = []

    def apply(images):
        seen.append(len(images))
        return network(images)

    return seen, apply


@pytest.mark.parametrize("devices", [1, 8])
def test_parts_of_every_device_are_joined_in_order(sizes, devices):
    seen, apply = sizes
    mesh = data_mesh(devices)

    def run(images):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return parts.forward(apply, images)

    shardings = {"in_shardings": split(mesh), "out_shardings": split(mesh)}
    program = jax.jit(run, **shardings).lower(X).compile()
    jax.tree.map(np.testing.assert_array_equal, program(X), jax.jit(network)(X))
    assert set(seen) == {2 * devices}
    assert "all-" not in program.as_text()


def test_parts_under_pmap(sizes):
    seen, apply = sizes
    found = jax.pmap(lambda images: parts.forward(apply, images))(X.reshape(8, 6, 4, 4, 3))
    assert set(seen) == {2}
    np.testing.assert_array_equal(found["maps"].reshape(X.shape), jax.jit(network)(X)["maps"])


@pytest.mark.parametrize(
    "inputs",
    [X[:2], X[:5], np.arange(48)],
    ids=["one part", "a rest", "indices"],
)
def test_other_inputs_are_not_divided(sizes, inputs):
    seen = []
    parts.forward(lambda x: seen.append(x.shape), inputs)
    assert seen == [inputs.shape]


def test_other_platforms_compute_all_at_once(monkeypatch):
    monkeypatch.setattr(parts, "IMAGES", 2)
    text = jax.jit(lambda x: parts.forward(network, x)).lower(X).as_text()
    assert "while" not in text
    tpu = jax.jit(lambda x: parts.forward(network, x)).trace(X).lower(lowering_platforms=("tpu",))
    assert "while" in tpu.as_text()
