import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.models.convolution import Conv, product_is_faster, shifted_sum, sum_is_faster


def _value_and_gradients(module, params, x):
    def weighted_sum(params, x):
        y = module.apply(params, x)
        weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return jnp.sum(y.astype(jnp.float32) * weights), y

    (_, y), gradients = jax.value_and_grad(weighted_sum, argnums=(0, 1), has_aux=True)(params, x)
    return y, gradients


def _assert_equal_to_flax(*shapes, features=8, tolerance=1e-5, **options):
    """Same parameters, value and gradients; one compilation for all shapes."""
    ours, flax = Conv(features, **options), nn.Conv(features, **options)
    rng = np.random.default_rng(0)
    cases = []
    for shape in shapes:
        x = jnp.asarray(rng.normal(size=shape), jnp.float32)
        params = [jax.eval_shape(module.init, jax.random.key(1), x) for module in (ours, flax)]
        assert params[0] == params[1]
        cases.append((jax.tree.map(lambda p: rng.normal(size=p.shape, scale=0.3), params[0]), x))
    cases = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), cases)

    def both(cases):
        return [[_value_and_gradients(m, *case) for case in cases] for m in (ours, flax)]

    result, expected = jax.jit(both, compiler_options=FAST)(cases)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("window", [1, 3])
def test_equals_flax(window, strides):
    sizes = [(1, 1), (2, 2), (4, 4), (1, 5), (2, 3), (7, 2)]
    _assert_equal_to_flax(
        *((2, *size, 5) for size in sizes),
        kernel_size=(window, window),
        strides=(strides, strides),
        padding=window // 2,
    )


_DEPTHWISE = {"features": 6, "feature_group_count": 6}


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((3, 2), {"padding": "SAME"}),
        ((3, 2), {"padding": "VALID"}),
        ((3, 2), {"padding": "CIRCULAR"}),
        ((3, 2), {"padding": ((2, 0), (0, 3)), "strides": (2, 1)}),
        ((3, 2), {"padding": 3, "strides": (3, 3)}),  # the corner windows contain padding only
        ((3, 2), {"padding": 1, "use_bias": False, "kernel_init": nn.initializers.ones}),
        ((3, 2), {"padding": 1, "dtype": jnp.bfloat16, "tolerance": 2e-2}),
        ((3, 2), {"padding": 2, "kernel_dilation": 2}),
        ((3, 2), {"padding": 1, "input_dilation": 2}),
        # Of a window of 4 at stride 3 on one padded pixel, only the first and last tap contain it.
        ((1, 1), {"padding": 3, "strides": (3, 3), "kernel_size": (4, 4)}),
        ((3, 2), {"padding": 1, "feature_group_count": 2}),
        ((5, 4), {"kernel_size": (1, 1), "feature_group_count": 2, "strides": (2, 2)}),
        ((5, 4), {"padding": 1, **_DEPTHWISE}),
        ((5, 4), {"padding": 1, "strides": (2, 2), **_DEPTHWISE}),
        ((1, 1), {"padding": 1, "strides": (2, 2), **_DEPTHWISE}),
        (
            (7, 6),
            {"padding": ((2, 0), (0, 3)), "kernel_size": (2, 5), "strides": (1, 3), **_DEPTHWISE},
        ),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_equals_flax_with_options(size, options):
    _assert_equal_to_flax((2, *size, 6), **{"kernel_size": (3, 3), **options})


def test_equals_flax_in_one_and_three_dimensions_and_without_batch():
    _assert_equal_to_flax((2, 2, 6), kernel_size=(3,))
    _assert_equal_to_flax((2, 2, 2, 2, 6), kernel_size=(3, 3, 3))
    _assert_equal_to_flax((2, 2, 6), kernel_size=(3, 3))


def test_product_is_faster_on_small_maps():
    def chosen(size, window, stride=1):
        pad = window // 2
        return product_is_faster(
            (size, size), (window, window), (stride, stride), ((pad, pad), (pad, pad))
        )

    assert all(chosen(size, 1, stride) for size in (1, 8, 32) for stride in (1, 2))
    assert chosen(2, 3) and not chosen(3, 3) and not chosen(16, 3)
    assert chosen(4, 3, stride=2) and not chosen(5, 3, stride=2)
    assert not product_is_faster((2, 2), (3, 3), (1, 1), ((0, 0), (0, 0)))  # an empty result


def test_the_platform_of_the_program_decides():
    def calls_xla(size, groups=1, features=4, platform="cpu"):
        conv = Conv(features, (3, 3), feature_group_count=groups)
        x = jnp.ones((1, size, size, 4))
        variables = jax.eval_shape(conv.init, jax.random.key(0), x)
        lowered = jax.jit(conv.apply).trace(variables, x).lower(lowering_platforms=(platform,))
        return "stablehlo.convolution" in lowered.as_text()

    assert not calls_xla(2) and calls_xla(8)
    assert not calls_xla(8, groups=4)
    assert calls_xla(8, groups=4, features=8)  # two features per channel
    assert calls_xla(8, groups=2)
    assert not sum_is_faster((8, 8), (7, 7), (1, 1), ((3, 3), (3, 3)))
    for platform in ("tpu", "cuda"):
        assert calls_xla(2, platform=platform) and calls_xla(8, groups=4, platform=platform)


def test_shifted_sum_of_bfloat16_adds_in_float32():
    # 256 + 1 is 256 in bfloat16, so that eight ones after it would be lost.
    x = jnp.ones((1, 3, 3, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256)
    kernel = jnp.ones((3, 3, 1, 1), jnp.bfloat16)
    y = shifted_sum(x, kernel, (1, 1), ((0, 0), (0, 0)))
    assert y.dtype == jnp.bfloat16 and y.item() == 264


@pytest.mark.parametrize(("size", "groups"), [(3, 1), (1, 1), (3, 4)])  # XLA, product, shifted sum
def test_the_gradient_of_a_kernel_is_a_float32_sum(size, groups):
    """256 + 1 is 256 in bfloat16, so that the one would be lost."""
    conv = Conv(4, (size, size), padding=0, feature_group_count=groups, dtype=jnp.bfloat16)
    x = jnp.ones((2, size, size, 4)).at[0].set(256)
    params = jax.eval_shape(conv.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)

    def loss(params):
        y = conv.apply(params, x)
        assert y.dtype == jnp.bfloat16
        return y.sum(dtype=jnp.float32)

    found = jax.grad(loss)(params)["params"]
    assert found["kernel"].dtype == found["bias"].dtype == jnp.float32
    np.testing.assert_array_equal(found["kernel"], 257)


def test_the_gradient_of_a_bias_is_a_float32_sum():
    """In bfloat16 the CPU adds ones up to 256 only."""
    conv = Conv(2, (1, 1), dtype=jnp.bfloat16)
    x = jnp.zeros((64, 8, 8, 1))
    params = {"kernel": jnp.zeros((1, 1, 1, 2)), "bias": jnp.ones(2)}

    @jax.jit
    @jax.grad
    def gradient(params):
        return conv.apply({"params": params}, x).sum(dtype=jnp.float32)

    np.testing.assert_array_equal(gradient(params)["bias"], 64 * 8 * 8)


def test_it_is_summed_over_the_devices_of_shard_map():
    conv = Conv(2, (1, 1), use_bias=False, dtype=jnp.bfloat16)
    x = jnp.ones((2, 1, 1, 2)).at[0].set(256)
    params = {"params": {"kernel": jnp.zeros((1, 1, 2, 2))}}
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    total = jax.shard_map(
        jax.grad(lambda params, x: conv.apply(params, x).sum(dtype=jnp.float32)),
        mesh=mesh,
        in_specs=(jax.P(), jax.P("data")),
        out_specs=jax.P(),
    )
    np.testing.assert_array_equal(jax.jit(total)(params, x)["params"]["kernel"], 257)


def test_gpus_round_it_and_tpus_do_not():
    conv = Conv(4, (3, 3), use_bias=False, dtype=jnp.bfloat16)
    x = jnp.ones((1, 8, 8, 4))
    variables = jax.eval_shape(conv.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda v: conv.apply(v, x).sum(dtype=jnp.float32)))
    for platform, result in (("tpu", "f32"), ("cuda", "bf16")):
        text = gradient.trace(variables).lower(lowering_platforms=(platform,)).as_text()
        assert f"-> tensor<3x3x4x4x{result}>" in text, platform
