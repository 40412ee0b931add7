import jax
import numpy as np
import pytest
from etils import epath

from kd_jax.core.devices import (
    Agreement,
    any_process,
    check_divisible,
    data_mesh,
    keep_programs,
    place,
    replicated,
    split,
)
from kd_jax.core.errors import UsageError


def test_a_batch_is_split_and_a_network_is_on_every_device():
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


def test_the_gram_matrix_of_a_split_batch_compiles():
    """It does not with explicit axes, the default of JAX."""
    rows = place(np.eye(8, dtype=np.float32), split(data_mesh()))
    np.testing.assert_array_equal(jax.jit(lambda x: x @ x.T)(rows), np.eye(8))


@pytest.mark.parametrize(("size", "choices"), [(12, "8 or 16"), (3, "8")])
def test_a_batch_that_does_not_divide_names_the_nearest_sizes(size, choices):
    with pytest.raises(UsageError, match=rf"x = {size} does not divide .* choose {choices}\."):
        check_divisible(size, data_mesh(), "x")
    check_divisible(16, data_mesh(), "x")


@pytest.mark.parametrize("number", [0, 9])
def test_an_impossible_number_of_devices_is_refused(number):
    with pytest.raises(UsageError, match=rf"num_devices = {number} is impossible: choose 1 to 8"):
        data_mesh(number)


@pytest.mark.parametrize(
    ("backend", "chosen", "kept"),
    [("tpu", None, "gs://runs/programs"), ("tpu", "mine", "mine"), ("cpu", None, None)],
)
def test_programs_of_accelerators_are_kept(monkeypatch, backend, chosen, kept):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        jax.config.update("jax_compilation_cache_dir", chosen)
        keep_programs(epath.Path("gs://runs/programs"))
        assert jax.config.jax_compilation_cache_dir == kept
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_one_process_decides_alone():
    assert any_process(True, False) == (True, False)
    assert Agreement()(True, False, 0.25) == (True, False, 0.25)


def test_the_greatest_values_of_all_processes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    agree = Agreement()  # the values are those of the call before
    assert agree(True, 0.5) == (0.0, 0.0)
    assert agree(False, 0.25) == (1.0, 0.5)
    assert agree(False, 0.0) == (0.0, 0.25)
