import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.errors import UsageError
from kd_jax.models import GuidedModule


def outputs(size, shape, dtype=jnp.float32, **options):
    module = GuidedModule(10, shape, **options)
    maps = jax.random.normal(jax.random.key(0), (4, *size, 6)).astype(dtype)
    variables = jax.jit(module.init)(jax.random.key(1), maps)
    apply = jax.jit(lambda params: module.apply(params, maps, mutable=["batch_stats"])[0])
    return apply({"params": variables["params"]}), variables["params"]


@pytest.mark.parametrize(
    ("size", "shape"),
    [((32, 32), (4, 4, 16)), ((4, 4), (4, 4, 16)), ((7, 5), (4, 2, 16)), ((15, 9), (3, 4, 8))],
)
def test_brings_any_map_to_the_shape_of_the_last(size, shape):
    out, params = outputs(size, shape)
    assert out.maps[0].shape == (4, *shape)
    assert out.embedding.shape == (4, shape[-1])
    assert out.logits.shape == (4, 10)
    assert np.isfinite(out.logits).all()
    inner = shape[-1] // 4  # a bottleneck
    assert params["conv2"]["kernel"].shape == (3, 3, inner, inner)
    np.testing.assert_allclose(out.embedding, out.maps[0].mean((1, 2)), rtol=1e-5)


def test_sees_the_whole_map_however_large_it_is():
    module = GuidedModule(3, (2, 2, 8))
    maps = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    variables = module.init(jax.random.key(1), maps)

    def total(maps):
        return module.apply(variables, maps, mutable=["batch_stats"])[0].logits[0, 0]

    assert np.all(jnp.abs(jax.jit(jax.grad(total))(maps)[0]).sum(-1) > 0)


def test_computes_in_the_dtype_of_the_map():
    out, params = outputs((8, 8), (4, 4, 16), jnp.bfloat16)
    assert out.maps[0].dtype == jnp.bfloat16
    assert out.logits.dtype == out.embedding.dtype == params["conv1"]["kernel"].dtype == jnp.float32


def test_a_map_smaller_than_the_last_is_refused():
    with pytest.raises(UsageError, match=r"3x8 to the last map's 4x4: take fewer guided modules"):
        outputs((3, 8), (4, 4, 16))
