import jax
import numpy as np
import pytest
from small_stage import train

from kd_jax.methods import EKD
from kd_jax.training.execution import chunk


def assert_close(found, expected, rtol):
    """Compares relative to the largest entry of each array."""
    for path, one in jax.tree_util.tree_leaves_with_path(expected):
        other = dict(jax.tree_util.tree_leaves_with_path(found))[path]
        scale = max(np.abs(one).max(), 1e-3)
        error = np.abs(one - other).max() / scale
        assert error <= rtol, (jax.tree_util.keystr(path), error)


EVERYWHERE = [("jit", 2), ("jit", 8), ("pmap", 1), ("pmap", 2), ("pmap", 8)]


@pytest.mark.parametrize(("execution", "devices"), EVERYWHERE)
def test_devices_and_executions_agree_after_five_steps(one_device, execution, devices):
    state, metrics = train(execution, devices, 5)
    assert int(state.step) == 5
    assert_close(metrics, one_device[1], 1e-4)
    assert_close(state.params, one_device[0].params, 1e-5)
    assert_close(state.model_state, one_device[0].model_state, 1e-5)


@pytest.fixture(scope="module")
def one_device_online():
    """Three steps of two networks with their guided modules."""
    return train("jit", 1, 3, method=EKD())


@pytest.mark.parametrize(("execution", "devices"), [("jit", 2), ("jit", 8), ("pmap", 8)])
def test_they_agree_on_an_online_stage_with_modules(one_device_online, execution, devices):
    expected, metrics = one_device_online
    assert set(expected.params["adapters"]) == {"teacher", "student"}
    state, found = train(execution, devices, 3, method=EKD())
    assert_close(found, metrics, 1e-4)
    assert_close(state.params, expected.params, 1e-4)
    assert_close(state.model_state, expected.model_state, 1e-4)


def test_steps_fused_in_one_call_are_the_same_steps(one_device):
    state, metrics = train("jit", 1, 5, chunk=5)
    assert_close(metrics, one_device[1], 1e-4)
    assert_close(state.params, one_device[0].params, 1e-5)


@pytest.mark.parametrize("fused", [1, 3, 100])
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (10, 20), (4, 5)])
def test_chunks_cover_an_interval_with_at_most_two_sizes(start, stop, fused):
    step, sizes = start, []
    while step < stop:
        sizes.append(chunk(step, stop, start, fused))
        step += sizes[-1]
    assert step == stop
    assert max(sizes) <= fused
    assert len(set(sizes)) <= 2
