import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.core.errors import UsageError
from kd_jax.models.sphereface import PReLU, SphereFace, caffe_xavier, small_normal


def prelu(x, params):
    return jnp.maximum(x, 0) + params["slope"][None, None, None] * jnp.minimum(x, 0)


def literal(params, images, conv):
    """The layers of the prototxt, one after the other."""
    maps, blocks, x = [], [], images
    for stage, units in [("stage1", 2), ("stage2", 0), ("stage3", 1)]:
        head = params[f"{stage}_conv"]
        x = conv(x, head["kernel"], 2) + head["bias"][None, None, None]
        x = prelu(x, params[f"{stage}_prelu"])
        for i in range(units):
            unit = params[f"{stage}_unit{i + 1}"]
            y = prelu(conv(x, unit["Conv_0"]["kernel"]), unit["PReLU_0"])
            y = prelu(conv(y, unit["Conv_1"]["kernel"]), unit["PReLU_1"])
            x = x + y
            blocks.append(x)
        maps.append(x)
    flat = x.reshape(len(x), -1)
    embedding = flat @ params["embedding"]["kernel"] + params["embedding"]["bias"][None]
    directions = params["classifier"]["kernel"]
    directions = directions / jnp.linalg.norm(directions, axis=0, keepdims=True)
    return embedding @ directions, embedding, maps, blocks


def tiny(**options):
    options = {"units": (2, 0, 1), "channels": (3, 4, 5), "embedding_size": 6, **options}
    return SphereFace(num_classes=7, **options)


def test_agrees_with_the_layers_written_out(filled, xla_convolution):
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, 18, 13, 3)), jnp.float32)
    network = tiny()

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(params):
        def ours(params):
            outputs = network.apply({"params": params}, images, train=True)
            return jnp.sum(jnp.sin(outputs.logits)), outputs

        def theirs(params):
            results = literal(params, images, xla_convolution)
            return jnp.sum(jnp.sin(results[0])), results

        return [jax.grad(f, has_aux=True)(params) for f in (ours, theirs)]

    params = filled(network, images, scale=0.4, train=False)["params"]
    (gradients, outputs), (exact, (logits, embedding, maps, blocks)) = both(params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    close(outputs.embedding, embedding)
    close(outputs.logits, logits)
    jax.tree.map(close, list(outputs.feature_maps), maps)
    jax.tree.map(close, list(outputs.blocks), blocks)
    assert [m.shape[1:] for m in maps] == [(9, 7, 3), (5, 4, 4), (3, 2, 5)]
    for got, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
        assert np.abs(got).max() > 0
    lengths = np.linalg.norm(outputs.embedding, axis=1, keepdims=True)
    close(outputs.logits, lengths * outputs.cosines)
    assert outputs.stem is None
    for map_, raw in zip(outputs.feature_maps, outputs.preactivations, strict=True):
        np.testing.assert_array_equal(map_, raw)
    assert min(map_.min() for map_ in outputs.feature_maps) < 0  # not activated


def test_initial_values_are_caffes():
    kernel = np.asarray(caffe_xavier(jax.random.key(0), (3, 3, 12, 300)))
    assert kernel.dtype == jnp.float32
    bound = np.sqrt(3 / (9 * 12))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), 1 / np.sqrt(9 * 12), rtol=0.02)
    kernel = np.asarray(small_normal(jax.random.key(0), (3, 3, 12, 300)))
    np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.02)
    assert np.abs(kernel).max() > 0.03  # not truncated


def test_a_network_starts_near_the_identity():
    network = tiny(units=(1, 0), channels=(32, 32), embedding_size=64)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    init = functools.partial(network.init_with_output, train=False)
    outputs, variables = jax.jit(init, compiler_options=FAST)(jax.random.key(0), images)
    assert set(variables) == {"params"}
    params = jax.tree.map(np.asarray, variables["params"])
    unit = params["stage1_unit1"]
    assert unit.keys() == {"Conv_0", "Conv_1", "PReLU_0", "PReLU_1"}
    for prelu in (params["stage1_prelu"], params["stage2_prelu"], unit["PReLU_1"]):
        np.testing.assert_array_equal(prelu["slope"], np.full(32, 0.25))
    assert unit["Conv_1"].keys() == {"kernel"}
    np.testing.assert_allclose(unit["Conv_1"]["kernel"].std(), 0.01, rtol=0.05)
    np.testing.assert_allclose(params["stage2_conv"]["kernel"].std(), 288**-0.5, rtol=0.05)
    np.testing.assert_allclose(params["embedding"]["kernel"].std(), 128**-0.5, rtol=0.05)
    for layer in ("stage1_conv", "stage2_conv", "embedding"):
        assert not params[layer]["bias"].any()
    assert params["classifier"].keys() == {"kernel"}
    assert 0.1 < outputs.feature_maps[-1].std() < 1  # neither vanishing nor exploding


def test_slopes_of_bfloat16_maps_get_their_whole_gradient():
    # Of 40,000 ones a sum in bfloat16 stops at 256.
    x = -jnp.ones((4, 100, 100, 2), jnp.bfloat16)

    @jax.jit
    def gradient(slope):
        def total(slope):
            y = PReLU().apply({"params": {"slope": slope}}, x)
            assert y.dtype == jnp.bfloat16
            return jnp.sum(y.astype(jnp.float32))

        return jax.grad(total)(slope)

    np.testing.assert_array_equal(gradient(jnp.full(2, 0.25)), [-40_000, -40_000])


def test_heads(traced):
    outputs, variables = traced(tiny(head="linear"), 2, 8, 8, 3)
    assert outputs.cosines is None
    assert variables["params"]["classifier"].keys() == {"kernel", "bias"}
    outputs, variables = traced(tiny(head_scale=64.0), 2, 8, 8, 3)
    assert outputs.cosines.shape == outputs.logits.shape == (2, 7)
    with pytest.raises(UsageError, match=r"units = \(1,\) and channels = .*one number per stage"):
        tiny(units=(1,))
