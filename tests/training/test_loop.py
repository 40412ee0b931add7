"""The loop with a train step that counts; nothing is compiled."""

import dataclasses
import json
import signal
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from kd_jax.core.errors import UsageError
from kd_jax.core.stop import Stopped, StopSignal
from kd_jax.data import BatchOrder
from kd_jax.training import TrainState
from kd_jax.training.log import MetricsLog, ProgressLine
from kd_jax.training.loop import Loop, steps_of_a_call
from kd_jax.training.progress import Progress

ORDER = BatchOrder(seed=0, num_examples=40, batch_size=10)  # four steps per epoch


def test_means_do_not_depend_on_the_number_of_steps_per_call():
    one, many = Progress(), Progress()
    values = np.random.default_rng(0).normal(size=7).astype(np.float32)
    one.add({"loss": values})
    for value in values:
        many.add({"loss": value[None]})
    assert one.count == many.count == 7
    np.testing.assert_allclose(one.take_means()["loss"], values.mean(dtype=np.float64))
    np.testing.assert_allclose(many.take_means()["loss"], values.mean(dtype=np.float64))
    assert one.sums == {}
    assert one.count == 0


@pytest.mark.parametrize("scores", [(0.1, 0.5, 0.5, 0.2), (0.5, 0.4), (-2.0, -1.0, -3.0)])
def test_the_best_is_the_latest_of_equals(scores):
    progress = Progress()
    for step, score in enumerate(scores, 1):
        progress.record(step, {"step": step}, score)
    assert progress.score == max(scores)
    assert progress.best["step"] == max(i for i, x in enumerate(scores, 1) if x == max(scores))
    assert progress.last["step"] == progress.evaluated == len(scores)


class Saves:
    """The states that a loop saves, by step; JSON goes through text."""

    def __init__(self):
        self.states, self.scores = {}, {}

    def save(self, state, progress, meta, score=None):
        step = int(state.step)
        self.states[step] = state, Progress(**json.loads(json.dumps(progress)))
        self.scores[step] = score

    def wait(self):
        pass


def count(state, frozen, images, rows):
    """Adds one per step; the loss of step i is i + 1."""
    steps = int(state.step) + 1 + np.arange(len(rows["index"]), dtype=np.float32)
    return state.replace(step=state.step + len(steps)), {"loss": steps, "term": steps / 2}


@pytest.fixture
def make_loop(tmp_path, monkeypatch):
    """Returns a function for loops over nine steps; up to three steps are one call."""
    monkeypatch.setattr("kd_jax.training.loop.steps_of_a_call", lambda seconds: 3)
    values = {4: 0.4, 8: 0.8, 9: 0.6}

    def make(step=-1, **options):
        parts = {
            "name": "student",
            "run_steps": count,
            "fused": 3,
            "order": ORDER,
            "steps": 9,
            "evaluate_every": 4,
            "evaluate": lambda state: {"accuracy": values[int(state.step)], "error": 1.0},
            "result": "accuracy",
            "best": "accuracy",
            "learning_rate": lambda step: 0.1 * step,
            "checkpoints": Saves(),
            "checkpoint_minutes": 10.0,
            "meta": {},
            "log": MetricsLog(epath.Path(tmp_path / "metrics.jsonl"), step),
            "line": ProgressLine("student", 9, 10, enabled=False),
            "stop": StopSignal(),
        }
        return Loop(**{**parts, **options})

    return make


def begin():
    return TrainState(jnp.zeros((), jnp.int32), {}, {}, {}, {})


def run(loop, state=None, progress=None, frozen=None):
    loader = SimpleNamespace(
        images={},
        max_steps=lambda order: 100,
        steps=lambda order, step, count: {
            "index": np.stack([order(i) for i in range(step, step + count)])
        },
    )
    return loop.run(state or begin(), frozen or {}, loader, progress or Progress())


def log(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_every_interval_and_the_last_step_are_evaluated_saved_and_logged(make_loop, tmp_path):
    loop = make_loop()
    state, progress = run(loop)
    assert int(state.step) == 9
    assert loop.checkpoints.scores == {4: 0.4, 8: 0.8, 9: 0.6}
    assert progress.best == {"step": 8, "epoch": 2.0, "accuracy": 0.8, "error": 1.0}
    assert progress.last["step"] == 9
    entries = log(tmp_path)
    assert [entry["step"] for entry in entries] == [4, 8, 9]
    assert [entry["train"]["loss"] for entry in entries] == [2.5, 6.5, 9.0]
    assert [entry["train"]["term"] for entry in entries] == [1.25, 3.25, 4.5]
    np.testing.assert_allclose([entry["learning_rate"] for entry in entries], [0.3, 0.7, 0.8])


def test_a_minus_prefers_small_values(make_loop):
    errors = {4: 0.4, 8: 0.8, 9: 0.6}
    loop = make_loop(best="-error", evaluate=lambda state: {"error": errors[int(state.step)]})
    _, progress = run(loop)
    assert loop.checkpoints.scores == {4: -0.4, 9: -0.6}  # only the best and the last
    assert progress.best["step"] == 4


def test_an_unknown_metric_lists_the_metrics(make_loop):
    says = r"stages\.student\.best = 'acuracy' is unknown: choose one of accuracy, error\."
    with pytest.raises(UsageError, match=says):
        run(make_loop(best="acuracy"))


def test_a_stopped_run_resumes_with_the_same_numbers(make_loop, tmp_path):
    expected = run(make_loop())[1]
    lines = log(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    stop = StopSignal()

    def interrupted(state, *rest):
        stop.requested, stop.number = int(state.step) >= 4, signal.SIGINT
        return count(state, *rest)

    loop = make_loop(run_steps=interrupted, stop=stop)
    with pytest.raises(Stopped, match="stage 'student' is saved at step 7 of 9") as stopped:
        run(loop)
    assert stopped.value.number == signal.SIGINT
    assert loop.checkpoints.scores == {4: 0.4, 7: None}
    state, progress = loop.checkpoints.states[7]
    assert progress.count == 3
    _, found = run(make_loop(step=progress.evaluated), state, progress)
    same = {"seconds": 0.0}
    assert dataclasses.replace(found, **same) == dataclasses.replace(expected, **same)
    speed = {"images_per_second": 0.0}
    assert [{**line, **speed} for line in log(tmp_path)] == [{**line, **speed} for line in lines]


@pytest.mark.parametrize(
    ("seconds", "steps"), [(0.0, 1), (1e-3, 4000), (0.5, 8), (3.0, 1), (90.0, 1)]
)
def test_two_calls_end_within_ten_seconds(seconds, steps):
    """One call runs and one waits when a request to stop comes."""
    assert steps_of_a_call(seconds) == steps
    assert steps == 1 or 2 * steps * seconds <= 10


def test_a_long_interval_is_saved_in_between(make_loop):
    loop = make_loop(checkpoint_minutes=1e-9)
    run(loop)
    assert loop.checkpoints.scores == {3: None, 4: 0.4, 7: None, 8: 0.8, 9: 0.6}


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"loss": [1, np.nan, np.nan], "term": [1, 2, np.inf]}, "loss became nan at step 2 of 9"),
        ({"loss": [1, np.nan, 3], "term": [1, np.inf, 2]}, "term became inf at step 2 of 9"),
    ],
)
def test_a_loss_that_is_not_finite_names_the_first_step_and_the_term(make_loop, metrics, says):
    def diverging(state, frozen, images, rows):
        found = {name: np.array(values, np.float32) for name, values in metrics.items()}
        return state.replace(step=state.step + 3), found

    loop = make_loop(run_steps=diverging, evaluate_every=3)
    with pytest.raises(UsageError, match=rf"Stage 'student': {says}: lower stages\.student\.opt"):
        run(loop)
    assert loop.checkpoints.states == {}


CAUSE = ", because the frozen network 'teacher' has NaN or infinity in"


@pytest.mark.parametrize(
    ("weight", "logit", "says"),
    [
        (np.nan, 1, f"{CAUSE} params/bias: give stages\\.student\\.networks\\.teacher other"),
        (1, np.inf, f"{CAUSE} logits: give"),
        (1, 1, ": lower stages"),
    ],
)
def test_a_loss_that_is_not_finite_names_the_frozen_network(make_loop, weight, logit, says):
    def poisoned(state, frozen, images, rows):
        return state.replace(step=state.step + 2), {"loss": np.array([1, np.nan], np.float32)}

    def outputs(frozen, images, rows):
        np.testing.assert_array_equal(rows["index"], [ORDER(1)])  # the batch of step 2
        return {"teacher": {"logits": np.array([[1, logit]], np.float32)}}

    variables = {"params": {"bias": jnp.array([1, weight], jnp.bfloat16)}, "seen": jnp.array(3)}
    loop = make_loop(run_steps=poisoned, evaluate_every=2, frozen_outputs=outputs)
    with pytest.raises(UsageError, match=f"Stage 'student': loss became nan at step 2 of 9{says}"):
        run(loop, frozen={"teacher": variables})


def test_a_metric_that_is_not_finite_is_refused(make_loop):
    with pytest.raises(UsageError, match="Stage 'student': accuracy became nan at step 4 of 9"):
        run(make_loop(evaluate=lambda state: {"accuracy": np.nan}))
