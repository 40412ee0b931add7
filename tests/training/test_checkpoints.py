import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stage import make_stage, start

from kd_jax.devices import data_mesh, replicated
from kd_jax.errors import UsageError
from kd_jax.training import Checkpoints

META = {"networks": {"student": {"name": "tiny"}}}


@pytest.fixture(scope="module")
def state():
    return start(make_stage(), data_mesh(1))[2]


def at(state, step):
    """The state, as if it stood at another step."""
    params = jax.tree.map(lambda x: x + step, state.params)
    return state.replace(step=jnp.asarray(step, jnp.int32), params=params)


def shapes(state):
    return jax.eval_shape(lambda: state)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


def test_what_is_saved_comes_back_bit_for_bit(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
        checkpoints.save(at(state, 3), {"seconds": 0.1}, META, accuracy=0.5)
    for devices in (1, 8):
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert checkpoints.read_json(3, "meta") == META
            found, progress = checkpoints.restore(shapes(state), replicated(data_mesh(devices)))
        equal(found, at(state, 3))
        assert progress == {"seconds": 0.1}
        assert len(found.step.devices()) == devices


def test_the_latest_two_and_the_best_are_kept(state, tmp_path):
    accuracies = {1: 0.3, 2: 0.9, 3: 0.2, 4: None, 5: 0.1, 6: None}
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step, accuracy in accuracies.items():
            checkpoints.save(at(state, step), {}, META, accuracy)
        checkpoints.wait()
        assert (checkpoints.latest, checkpoints.best) == (6, 2)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "5", "6"]


def test_of_equals_the_latest_is_the_best(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step, accuracy in {1: 0.5, 2: 0.5, 3: 0.4, 4: 0.3}.items():
            checkpoints.save(at(state, step), {}, META, accuracy)
        checkpoints.wait()
        assert checkpoints.best == 2  # as Progress.record has it


def test_reading_changes_nothing(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META, 0.5)
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (1, 1)
        template = shapes(state).variables("student")
        checkpoints.restore_network(1, "student", template, replicated(data_mesh(1)))
    assert sorted(tmp_path.rglob("*")) == before


def test_broken_metrics_are_one_sentence_too(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META, 0.5)
    (tmp_path / "c" / "1" / "metrics" / "metrics").write_text("{")
    with pytest.raises(UsageError, match=r"cannot be read .* delete its folder"):
        Checkpoints(tmp_path / "c").save(at(state, 2), {}, META, 0.5)


def test_saving_goes_on_while_the_state_is_donated(state, tmp_path):
    step = jax.jit(lambda s: at(s, 1), donate_argnums=0)
    current = at(state, 1)
    expected = jax.device_get(current)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(current, {}, META)
        for _ in range(20):
            current = step(current)
        checkpoints.wait()
        found, _ = checkpoints.restore(shapes(state), replicated(data_mesh(1)))
    equal(found, expected)


def test_one_network_is_read_without_the_rest(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META)
        checkpoints.wait()
        shutil.rmtree(tmp_path / "c" / "1" / "optimizer")
        template = shapes(state).variables("student")
        found = checkpoints.restore_network(1, "student", template, replicated(data_mesh(1)))
    equal(found, at(state, 1).variables("student"))


# TensorStore's other reads fail when nobody waits for them any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broken_checkpoint_is_one_sentence_with_a_way_out(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(at(state, step), {}, META, 0.5)
        checkpoints.wait()
    for file in (tmp_path / "c" / "2").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Checkpoints(tmp_path / "c") as checkpoints:
        says = rf"{re.escape(str(tmp_path))}/c/2 is damaged .* delete that folder .* from step 1"
        with pytest.raises(UsageError, match=says):
            checkpoints.restore(shapes(state), replicated(data_mesh(1)))
    shutil.rmtree(tmp_path / "c" / "2")
    with Checkpoints(tmp_path / "c") as checkpoints:
        equal(checkpoints.restore(shapes(state), replicated(data_mesh(1)))[0], at(state, 1))


def test_a_half_written_checkpoint_does_not_count(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META, 0.5)
        checkpoints.wait()
    whole = tmp_path / "c" / "1"
    shutil.copytree(whole / "optimizer", tmp_path / "c" / "2.orbax-checkpoint-tmp" / "optimizer")
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest == 1
        checkpoints.save(at(state, 2), {}, META, 0.6)
        checkpoints.wait()
        assert checkpoints.latest == 2


def test_other_shapes_are_refused_not_cast(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META)
        checkpoints.wait()
        template = shapes(state).variables("student")
        half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), template)
        with pytest.raises(UsageError, match=r"float32 .* but bfloat16 .* is needed"):
            checkpoints.restore_network(1, "student", half, replicated(data_mesh(1)))
        more = {**template, "other": template}
        with pytest.raises(UsageError, match=r"network_student has nothing at other"):
            checkpoints.restore_network(1, "student", more, replicated(data_mesh(1)))
