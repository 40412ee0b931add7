import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.core.errors import UsageError
from kd_jax.methods.modules import GuidedModule


def traced(shape, *size, dtype=jnp.float32):
    x = jax.ShapeDtypeStruct((4, *size, 6), dtype)
    return jax.eval_shape(GuidedModule(10, shape).init_with_output, jax.random.key(0), x)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((32, 32), (4, 4, 16)), ((4, 4), (4, 4, 16)), ((7, 5), (4, 2, 16)), ((15, 9), (3, 4, 8))],
)
def test_reduces_any_map_to_the_shape_of_the_last(size, shape):
    outputs, variables = traced(shape, *size)
    assert outputs.feature_maps[0].shape == (4, *shape)
    assert outputs.embedding.shape == (4, shape[-1])
    assert outputs.logits.shape == (4, 10)
    inner = shape[-1] // 4  # a bottleneck
    assert variables["params"]["conv2"]["kernel"].shape == (3, 3, inner, inner)


def test_the_whole_map_has_an_influence():
    module = GuidedModule(3, (2, 2, 8))
    maps = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    shapes = jax.eval_shape(module.init, jax.random.key(1), maps)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), shapes)

    @functools.partial(jax.jit, compiler_options=FAST)
    def gradient(params, maps):
        def total(maps):
            outputs, _ = module.apply(params, maps, mutable=["batch_stats"])
            return outputs.logits[0, 0], outputs

        return jax.grad(total, has_aux=True)(maps)

    gradients, outputs = gradient({"params": params["params"]}, maps)
    assert np.all(np.abs(gradients[0]).sum(-1) > 0)
    mean = np.mean(outputs.feature_maps[0], (1, 2))
    np.testing.assert_allclose(outputs.embedding, mean, rtol=1e-5)
    np.testing.assert_array_equal(outputs.feature_maps[0], np.maximum(outputs.preactivations[0], 0))


def test_computes_in_the_dtype_of_the_map():
    outputs, variables = traced((4, 4, 16), 8, 8, dtype=jnp.bfloat16)
    assert outputs.feature_maps[0].dtype == jnp.bfloat16
    others = (outputs.logits, outputs.embedding, *jax.tree.leaves(variables))
    assert {array.dtype for array in others} == {jnp.dtype("float32")}


def test_a_map_smaller_than_the_last_is_refused():
    with pytest.raises(UsageError, match=r"3x8 to the last one's 4x4: take fewer guided modules"):
        traced((4, 4, 16), 3, 8)
