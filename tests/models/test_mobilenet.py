import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kd_jax import models
from kd_jax.errors import UsageError
from kd_jax.models import convolution, layers
from kd_jax.models.mobilenet import InvertedResidual, MobileNetV2


def _conv(x, kernel, strides=(1, 1), pads=None):
    """XLA's own; the groups follow from the shapes."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads or [(kernel.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


# (map, window, strides, padding)
_DEPTHWISE = [
    ((5, 4), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((5, 4), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((1, 1), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((7, 6), (2, 5), (1, 3), ((2, 0), (0, 3))),
]


def test_shifted_sum_equals_xla():
    rng = np.random.default_rng(0)
    cases = [
        [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, *size, 3), (*window, 1, 3))]
        for size, window, *_ in _DEPTHWISE
    ]

    @jax.jit
    def both(cases):
        results = []
        for f in (convolution.shifted_sum, _conv):
            for (x, k), (*_, strides, pads) in zip(cases, _DEPTHWISE, strict=True):
                assert convolution.sum_is_faster(x.shape[1:3], k.shape[:2], strides, pads)
                g = functools.partial(f, strides=strides)
                g = functools.partial(g, **{"pads" if f is _conv else "padding": pads})
                y, backward = jax.vjp(g, x, k)
                results.append((y, *backward(jnp.sin(y))))
        return results

    results = both(cases)
    count = len(_DEPTHWISE)
    for ours, theirs in zip(results[:count], results[count:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_shifted_sum_of_bfloat16_adds_in_float32():
    # 256 + 1 is 256 in bfloat16, so that eight ones after it would be lost.
    x = jnp.ones((1, 3, 3, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256)
    kernel = jnp.ones((3, 3, 1, 1), jnp.bfloat16)
    y = convolution.shifted_sum(x, kernel, (1, 1), ((0, 0), (0, 0)))
    assert y.dtype == jnp.bfloat16 and y.item() == 264


def test_depthwise_convolutions_are_sums_on_the_cpu(monkeypatch):
    def program(features, size=8, groups=4):
        conv = layers.convolution(jnp.float32)(features, 3, groups=groups)
        x = jnp.ones((1, size, size, 4))
        variables = jax.eval_shape(conv.init, jax.random.key(0), x)
        return str(jax.make_jaxpr(conv.apply)(variables, x))

    assert "conv_general_dilated" not in program(4)
    assert "conv_general_dilated" in program(8)  # two features a channel
    assert "conv_general_dilated" in program(4, groups=2)
    assert not convolution.sum_is_faster((8, 8), (7, 7), (1, 1), ((3, 3), (3, 3)))
    monkeypatch.setattr(convolution.jax, "default_backend", lambda: "tpu")
    assert "conv_general_dilated" in program(4)


@pytest.mark.parametrize(
    ("features", "strides", "added"), [(4, 1, True), (4, 2, False), (6, 1, False)]
)
def test_block(features, strides, added):
    block = InvertedResidual(
        features,
        strides,
        expansion=2,
        conv=layers.convolution(jnp.float32),
        norm=layers.batch_norm(train=False, axis_name=None),
    )
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 4)), jnp.float32)
    variables = jax.eval_shape(block.init, jax.random.key(0), x)

    def fill(path, leaf):
        if path[-1].key in ("kernel", "scale"):
            return jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        return jnp.full(leaf.shape, 1.0 - 1e-5 if path[-1].key == "var" else 0.0, jnp.float32)

    variables = jax.tree_util.tree_map_with_path(fill, variables)
    params = variables["params"]
    kernels = [params[f"Conv_{i}"]["kernel"] for i in range(3)]
    assert [k.shape for k in kernels] == [(1, 1, 4, 8), (3, 3, 1, 8), (1, 1, 8, features)]
    expected = x
    for i, kernel in enumerate(kernels):
        expected = _conv(expected, kernel, (strides, strides) if i == 1 else (1, 1))
        expected = np.asarray(expected) * np.asarray(params[f"BatchNorm_{i}"]["scale"])
        expected = expected if i == 2 else np.maximum(expected, 0)
    expected = expected + x if added else expected
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), expected, rtol=1e-4, atol=1e-4)


def _shapes(network, *shape):
    init = functools.partial(network.init_with_output, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))


def test_widen_spares_the_embedding_below_one():
    for widen, width, expected in [(0.25, 1, (6, 80, 1280)), (1.5, 0.5, (18, 240, 960))]:
        network = models.create("mobilenet_v2", num_classes=2, widen=widen, width=width)
        network = network.clone(blocks=(1,) * 7)
        outputs, _ = _shapes(network, 1, 32, 32, 3)
        assert outputs.embedding.shape[-1] == expected[-1]
        assert tuple(outputs.maps[i].shape[-1] for i in (0, -1)) == expected[:2]


def test_any_image_but_none():
    network = MobileNetV2(num_classes=2, blocks=(1,) * 7, width=0.05)
    for size, maps in [
        *(((size, size), [(size // n,) * 2 for n in (2, 4, 8, 16)]) for size in (16, 32, 64)),
        ((1, 1), [(1, 1)] * 4),
        ((9, 64), [(5, 32), (3, 16), (2, 8), (1, 4)]),
    ]:
        outputs, _ = _shapes(network, 1, *size, 3)
        assert [m.shape[1:3] for m in outputs.maps] == maps
    with pytest.raises(UsageError, match="MobileNetV2 cannot see images of 0x4 pixels"):
        _shapes(network, 1, 0, 4, 3)
