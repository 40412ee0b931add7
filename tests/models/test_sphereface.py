import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST
from jax import lax

from kd_jax import models
from kd_jax.errors import UsageError
from kd_jax.models.sphereface import PReLU, SphereFace, caffe_xavier, small_normal


def conv(x, kernel, stride=1):
    """XLA's own."""
    return lax.conv_general_dilated(
        x, kernel, (stride,) * 2, [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def prelu(x, params):
    return jnp.maximum(x, 0) + params["slope"][None, None, None] * jnp.minimum(x, 0)


def literal(params, images):
    """The prototxt: the layers one after the other."""
    maps, x = [], images
    for stage, units in [("stage1", 2), ("stage2", 0), ("stage3", 1)]:
        head = params[f"{stage}_conv"]
        x = conv(x, head["kernel"], 2) + head["bias"][None, None, None]
        x = prelu(x, params[f"{stage}_prelu"])
        for i in range(units):
            unit = params[f"{stage}_unit{i + 1}"]
            y = prelu(conv(x, unit["Conv_0"]["kernel"]), unit["PReLU_0"])
            y = prelu(conv(y, unit["Conv_1"]["kernel"]), unit["PReLU_1"])
            x = x + y
        maps.append(x)
    flat = x.reshape(len(x), -1)
    embedding = flat @ params["embedding"]["kernel"] + params["embedding"]["bias"][None]
    directions = params["classifier"]["kernel"]
    directions = directions / jnp.linalg.norm(directions, axis=0, keepdims=True)
    return embedding @ directions, embedding, maps


def tiny(**options):
    options = {"units": (2, 0, 1), "channels": (3, 4, 5), "embedding_size": 6, **options}
    return SphereFace(num_classes=7, **options)


def filled(network, images):
    """Random parameters, without compiling the initialisers."""
    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape), p.dtype), shapes)


def test_agrees_with_the_layers_written_out():
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, 18, 13, 3)), jnp.float32)
    network = tiny()
    params = filled(network, images)

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(params):
        def ours(params):
            outputs = network.apply({"params": params}, images, train=True)
            return jnp.sum(jnp.sin(outputs.logits)), outputs

        def theirs(params):
            results = literal(params, images)
            return jnp.sum(jnp.sin(results[0])), results

        return [jax.grad(f, has_aux=True)(params) for f in (ours, theirs)]

    (gradients, outputs), (exact, (logits, embedding, maps)) = both(params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    close(outputs.embedding, embedding)
    close(outputs.logits, logits)
    jax.tree.map(close, list(outputs.maps), maps)
    assert [m.shape[1:] for m in maps] == [(9, 7, 3), (5, 4, 4), (3, 2, 5)]
    for got, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
        assert np.abs(got).max() > 0
    lengths = np.linalg.norm(outputs.embedding, axis=1, keepdims=True)
    close(outputs.logits, lengths * outputs.cosines)
    assert outputs.stem is None
    for map_, raw in zip(outputs.maps, outputs.preactivations, strict=True):
        np.testing.assert_array_equal(map_, raw)
    assert min(map_.min() for map_ in outputs.maps) < 0  # not activated


def test_kernels_start_as_caffes():
    kernel = caffe_xavier(jax.random.key(0), (3, 3, 12, 300))
    assert kernel.dtype == jnp.float32
    bound = np.sqrt(3 / (9 * 12))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), 1 / np.sqrt(9 * 12), rtol=0.02)
    kernel = small_normal(jax.random.key(0), (3, 3, 12, 300))
    np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.02)
    assert np.abs(kernel).max() > 0.03  # not truncated


def test_a_network_starts_near_the_identity():
    network = tiny(channels=(32, 32, 32), embedding_size=64)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    init = functools.partial(network.init_with_output, train=False)
    outputs, variables = jax.jit(init, compiler_options=FAST)(jax.random.key(0), images)
    assert set(variables) == {"params"}
    params = variables["params"]
    assert params["stage1_unit2"].keys() == {"Conv_0", "Conv_1", "PReLU_0", "PReLU_1"}
    for stage in ("stage1", "stage3"):
        np.testing.assert_array_equal(params[f"{stage}_prelu"]["slope"], np.full(32, 0.25))
        assert not params[f"{stage}_conv"]["bias"].any()
        unit = params[f"{stage}_unit1"]
        np.testing.assert_array_equal(unit["PReLU_1"]["slope"], np.full(32, 0.25))
        assert unit["Conv_1"].keys() == {"kernel"}
        np.testing.assert_allclose(unit["Conv_1"]["kernel"].std(), 0.01, rtol=0.05)
    np.testing.assert_allclose(params["stage3_conv"]["kernel"].std(), 288**-0.5, rtol=0.05)
    assert not params["embedding"]["bias"].any()
    np.testing.assert_allclose(params["embedding"]["kernel"].std(), 32**-0.5, rtol=0.05)
    assert params["classifier"].keys() == {"kernel"}
    assert 0.1 < outputs.maps[-1].std() < 1  # neither vanishing nor exploding


@pytest.mark.parametrize("name", ["sphereface4", "sphereface20", "sphereface36_thin"])
def test_width_is_that_of_the_channels(name):
    network = models.create(name, num_classes=3, width=0.5)
    init = functools.partial(network.init_with_output, train=False)
    outputs, _ = jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 112, 96, 3)))
    first = 9 if "thin" in name else 32
    assert [m.shape[1:] for m in outputs.maps] == [
        (56 // n, 48 // n, first * n) for n in (1, 2, 4, 8)
    ]
    assert outputs.embedding.shape == (2, 512)


def test_a_step_in_bfloat16_is_finite_with_float32_parameters():
    network = models.create("sphereface4", num_classes=3, width=0.05, dtype="bfloat16")
    network = network.clone(units=(1, 0, 0, 1))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    images = images.at[1].set(0)

    @functools.partial(jax.jit, compiler_options=FAST)
    def step(params):
        def loss(params):
            outputs = network.apply({"params": params}, images, train=True)
            return jnp.mean(outputs.logits**2) + jnp.mean(outputs.cosines), outputs

        return jax.grad(loss, has_aux=True)(params)

    gradients, outputs = step(filled(network, images))
    assert {m.dtype for m in outputs.maps} == {jnp.dtype("bfloat16")}
    for array in (outputs.logits, outputs.embedding, outputs.cosines, *jax.tree.leaves(gradients)):
        assert array.dtype == jnp.float32 and np.isfinite(array).all()


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


@pytest.mark.parametrize("size", [(1, 1), (5, 4), (33, 17)])
def test_any_size_but_none(size):
    init = functools.partial(tiny().init_with_output, train=False)
    outputs, _ = jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, *size, 1)))
    assert outputs.maps[0].shape[1:3] == tuple(-(-n // 2) for n in size)
    assert outputs.embedding.shape == (2, 6)
    with pytest.raises(UsageError, match="SphereFace cannot see images of 0x4 pixels"):
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 0, 4, 3)))


def test_heads():
    def outputs_of(**options):
        init = functools.partial(tiny(**options).init_with_output, train=False)
        return jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 8, 8, 3)))

    outputs, variables = outputs_of(head="linear")
    assert outputs.cosines is None
    assert variables["params"]["classifier"].keys() == {"kernel", "bias"}
    outputs, variables = outputs_of(head_scale=64.0)
    assert outputs.cosines.shape == outputs.logits.shape == (2, 7)
    with pytest.raises(UsageError, match=r"units=\(1,\) and channels=.*one number a stage"):
        tiny(units=(1,))
