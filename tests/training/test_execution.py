import jax
import numpy as np
import pytest
from small_stage import ORDER, SET, make_stage, start, train

from kd_jax.core.devices import data_mesh
from kd_jax.data import resident
from kd_jax.methods import EKD
from kd_jax.training.execution import jit_steps


def assert_close(found, expected, rtol):
    """Compares relative to the largest entry of each array."""
    for path, one in jax.tree_util.tree_leaves_with_path(expected):
        other = dict(jax.tree_util.tree_leaves_with_path(found))[path]
        scale = max(np.abs(one).max(), 1e-3)
        error = np.abs(one - other).max() / scale
        assert error <= rtol, (jax.tree_util.keystr(path), error)


# Eight devices have two images each, so they show every error that two devices show.
TWO = [pytest.param(execution, 2, marks=pytest.mark.long) for execution in ("jit", "pmap")]
EVERYWHERE = [("jit", 8), ("pmap", 1), ("pmap", 8), *TWO]


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


@pytest.mark.parametrize(
    ("execution", "devices", "shared"),
    [
        pytest.param("jit", 2, False, marks=pytest.mark.long),
        ("jit", 8, True),
        ("pmap", 8, False),
    ],
)
def test_they_agree_on_an_online_stage_with_modules(
    one_device_online, execution, devices, shared, monkeypatch
):
    if shared:  # the devices share the images
        monkeypatch.setattr(resident, "memory_limit", lambda _: 4 * SET.images.nbytes - 1)
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


def test_one_program_runs_every_number_of_steps_up_to_its_maximum(one_device):
    mesh = data_mesh(1)
    stage = make_stage("jit")
    loader, frozen, state = start(stage, mesh)
    run = jit_steps(stage, mesh, fused=3)
    losses = []
    for step, count in ((0, 3), (3, 2)):
        state, found = run(state, frozen, loader.images, loader.steps(ORDER, step, count))
        assert found["loss"].shape == (3,)
        losses.extend(found["loss"][:count])
    assert_close({"loss": np.array(losses)}, {"loss": one_device[1]["loss"]}, 1e-4)
    assert int(state.step) == 5
