"""Arrays whose names are the paths of the variables in Flax."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.pretrained.flax_names import has_flax_names, to_variables, without_module

SHAPES = {
    "params": {
        "hidden": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)},
        "classifier": {"bias": jax.ShapeDtypeStruct((3,), jnp.bfloat16)},
    },
    "counters": {"steps": jax.ShapeDtypeStruct((), jnp.int32)},
}
KERNEL = np.arange(6, dtype=np.float64).reshape(2, 3)
TENSORS = {
    "params/hidden/kernel": KERNEL,
    "params/classifier/bias": np.ones(3, ml_dtypes.bfloat16),
    "counters/steps": np.array(7, np.int32),
}


def test_variables_have_the_dtypes_of_the_network():
    variables = to_variables(TENSORS, SHAPES, "mine", "file.npz")
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(
        lambda x: (x.shape, x.dtype), SHAPES
    )
    np.testing.assert_array_equal(variables["params"]["hidden"]["kernel"], KERNEL)
    assert variables["counters"]["steps"] == 7


def test_names_of_pytorch_have_no_slash():
    assert has_flax_names(TENSORS)
    assert not has_flax_names({"layer1.0.conv1.weight": KERNEL})


def test_a_module_is_left_out_of_all_collections():
    tensors = {**TENSORS, "batch_stats/classifier/mean": KERNEL, "params/other/classifier": KERNEL}
    assert set(without_module(tensors, "classifier")) == {
        "params/hidden/kernel",
        "counters/steps",
        "params/other/classifier",
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"params/hidden/kernel": None}, "it lacks params/hidden/kernel; name each array by"),
        ({"hidden/kernel": KERNEL}, "it has in addition hidden/kernel; choose the network"),
        ({"params/hidden/kernel": KERNEL.T}, r"kernel \[3, 2\] instead of \[2, 3\]"),
        (
            {"counters/steps": np.array(7.0, np.float32)},
            "steps as float32, but the variable is int32",
        ),
        ({"params/hidden/kernel": KERNEL * np.nan}, "params/hidden/kernel with NaN or inf"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes, says):
    tensors = {name: array for name, array in {**TENSORS, **changes}.items() if array is not None}
    with pytest.raises(UsageError, match=says) as error:
        to_variables(tensors, SHAPES, "mine", "file.npz")
    assert str(error.value).startswith("file.npz ")
