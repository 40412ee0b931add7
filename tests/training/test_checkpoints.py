import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stage import example, init, make_stage

from kd_jax.core.devices import data_mesh, replicated
from kd_jax.core.errors import UsageError
from kd_jax.training import init_state
from kd_jax.training.checkpoints import Checkpoints

META = {"networks": {"student": {"name": "tiny"}}}


@pytest.fixture(scope="module")
def state():
    """A state of the right shapes with random values; nothing is compiled."""

    def first():
        stage = make_stage()
        variables = init(stage)
        frozen = {"teacher": variables.pop("teacher")}
        statistics = {"sums": jnp.zeros((5, 32)), "counts": jnp.zeros(5)}
        return init_state(stage, example(), frozen, trained=variables, statistics=statistics)

    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(10 * rng.random(leaf.shape), leaf.dtype), jax.eval_shape(first)
    )


def at(state, step):
    """Returns the state with another step and other parameters."""
    params = jax.tree.map(lambda x: x + step, state.params)
    return state.replace(step=jnp.asarray(step, jnp.int32), params=params)


def shapes(state):
    return jax.eval_shape(lambda: state)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


def one_device():
    return replicated(data_mesh(1))


def test_what_is_saved_is_restored_to_the_last_bit(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
        checkpoints.save(at(state, 3), {"seconds": 0.1}, META, score=0.5)
    for devices in (1, 8):
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert checkpoints.read_json(3, "meta") == META
            found, progress = checkpoints.restore(shapes(state), replicated(data_mesh(devices)))
        equal(found, at(state, 3))
        assert progress == {"seconds": 0.1}
        assert len(found.step.devices()) == devices


def test_averages_are_the_stored_networks_and_the_trained_values_remain(state, tmp_path):
    averages = {"params": at(state, 5).params, "model_state": state.model_state}
    whole = at(state, 3).replace(ema=averages)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(whole, {}, META)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        equal(checkpoints.restore(shapes(whole), one_device())[0], whole)
        shown = whole.averaged.variables("student")
        equal(checkpoints.restore_network(3, "student", shapes(shown), one_device()), shown)
        adapters = checkpoints.restore_stored(3, "adapters", one_device())["params"]
        equal(adapters, averages["params"]["adapters"])


def test_the_latest_two_and_the_best_are_kept(state, tmp_path):
    scores = {1: -0.7, 2: -0.1, 3: -0.8, 4: None, 5: -0.9, 6: None}  # negative: -loss
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best is None
        for step, score in scores.items():
            checkpoints.save(at(state, step), {}, META, score)
        checkpoints.wait()
        assert (checkpoints.latest, checkpoints.best) == (6, 2)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "5", "6"]


def test_of_equals_the_latest_is_the_best(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step, score in {1: 0.5, 2: 0.5, 3: 0.4, 4: 0.3}.items():
            checkpoints.save(at(state, step), {}, META, score)
        checkpoints.wait()
        assert checkpoints.best == 2  # the same as in Progress.record


def test_the_score_of_version_0_1_is_accuracy(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step, score in {1: 0.9, 2: 0.3}.items():
            checkpoints.save(at(state, step), {}, META, score)
    for step, accuracy in {1: 0.2, 2: 0.8}.items():
        path = tmp_path / "c" / str(step) / "metrics" / "metrics"
        path.write_text(json.dumps({"accuracy": accuracy}))
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best == 2
        checkpoints.save(at(state, 3), {}, META, 0.5)
        checkpoints.save(at(state, 4), {}, META, 0.5)
        checkpoints.wait()
        assert checkpoints.best == 2
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3", "4"]


@pytest.mark.parametrize("devices", [1, 8])
def test_an_item_is_read_in_its_stored_shapes(state, tmp_path, devices):
    bare = state.replace(
        step=jnp.asarray(2, jnp.int32), params={**state.params, "adapters": {}}, method_state={}
    )
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META)
        checkpoints.save(bare, {}, META)
    sharding = replicated(data_mesh(devices))
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        found = checkpoints.restore_stored(1, "adapters", sharding)
        equal(found, {"params": at(state, 1).params["adapters"], "state": state.method_state})
        assert len(found["state"]["centers"].devices()) == devices
        assert checkpoints.restore_stored(2, "adapters", sharding) == {}
        restored, _ = checkpoints.restore(shapes(bare), sharding)
        equal(restored, bare)


def test_reading_changes_nothing(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META, 0.5)
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (1, 1)
        template = shapes(state).variables("student")
        checkpoints.restore_network(1, "student", template, one_device())
    assert sorted(tmp_path.rglob("*")) == before


def test_broken_metrics_are_one_sentence_too(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META, 0.5)
        checkpoints.save(at(state, 2), {}, META, 0.4)
    (tmp_path / "c" / "1" / "metrics" / "metrics").write_text("{")
    says = r"The checkpoint .*/c/1 is damaged .*: delete that folder to resume from step 2"
    with pytest.raises(UsageError, match=says):
        Checkpoints(tmp_path / "c")


def test_a_state_that_is_donated_after_save_is_saved_whole(state, tmp_path):
    step = jax.jit(lambda s: at(s, 1), donate_argnums=0)
    current = at(state, 1)
    expected = jax.device_get(current)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(current, {}, META)
        for _ in range(20):
            current = step(current)
        checkpoints.wait()
        found, _ = checkpoints.restore(shapes(state), one_device())
    equal(found, expected)


def test_one_network_is_read_without_the_rest(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META)
        checkpoints.wait()
        shutil.rmtree(tmp_path / "c" / "1" / "optimizer")
        template = shapes(state).variables("student")
        found = checkpoints.restore_network(1, "student", template, one_device())
    equal(found, at(state, 1).variables("student"))


# TensorStore's other reads fail when nobody waits for them any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_one_sentence_with_a_remedy(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(at(state, step), {}, META, 0.5)
        checkpoints.wait()
    for file in (tmp_path / "c" / "2").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Checkpoints(tmp_path / "c") as checkpoints:
        says = rf"{re.escape(str(tmp_path))}/c/2 is damaged .* delete that folder .* from step 1"
        with pytest.raises(UsageError, match=says):
            checkpoints.restore(shapes(state), one_device())
        with pytest.raises(UsageError, match=says):
            checkpoints.restore_stored(2, "adapters", one_device())
    shutil.rmtree(tmp_path / "c" / "2")
    with Checkpoints(tmp_path / "c") as checkpoints:
        equal(checkpoints.restore(shapes(state), one_device())[0], at(state, 1))


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


def test_other_shapes_are_refused_instead_of_cast(state, tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(at(state, 1), {}, META)
        checkpoints.wait()
        template = shapes(state).variables("student")
        half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), template)
        with pytest.raises(UsageError, match=r"float32 .* but bfloat16 .* is needed"):
            checkpoints.restore_network(1, "student", half, one_device())
        more = {**template, "other": template}
        with pytest.raises(UsageError, match=r"network_student has nothing at other"):
            checkpoints.restore_network(1, "student", more, one_device())
