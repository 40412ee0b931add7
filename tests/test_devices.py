import jax
import numpy as np
import pytest

from kd_jax.devices import check_divisible, data_mesh, place, replicated, split
from kd_jax.errors import UsageError


def test_a_batch_is_spread_and_a_network_is_everywhere():
    mesh = data_mesh()
    assert mesh.size == 8
    array = np.arange(32).reshape(16, 2)
    spread = place(array, split(mesh))
    assert {shard.data.shape for shard in spread.addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(spread, array)
    columns = place(array.T, split(mesh, axis=1))
    assert {shard.data.shape for shard in columns.addressable_shards} == {(2, 2)}
    whole = place(array, replicated(mesh))
    assert len(whole.addressable_shards) == 8
    np.testing.assert_array_equal(whole, array)


def test_products_of_a_spread_batch_need_no_words():
    """With explicit axes, jax' default, the Gram matrix of a spread batch does not compile."""
    rows = place(np.eye(8, dtype=np.float32), split(data_mesh()))
    np.testing.assert_array_equal(jax.jit(lambda x: x @ x.T)(rows), np.eye(8))


@pytest.mark.parametrize(("size", "choices"), [(12, "8 or 16"), (3, "8")])
def test_a_batch_that_does_not_divide_names_the_nearest(size, choices):
    with pytest.raises(UsageError, match=rf"x = {size} does not divide .* choose {choices}\."):
        check_divisible(size, data_mesh(), "x")
    check_divisible(16, data_mesh(), "x")
