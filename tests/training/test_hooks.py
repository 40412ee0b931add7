"""Hooks: functions, TensorBoard, and Weights & Biases."""

import struct
import sys
import types

import numpy as np
import pytest
from etils import epath

from kd_jax.core.errors import UsageError
from kd_jax.training.hooks import HOOKS, Hook, HookContext, Sink, register_hook
from kd_jax.training.log import ProgressLine
from kd_jax.training.watch import Watch


def context(folder, step=0):
    return HookContext("small", "teacher", epath.Path(folder), step, {"seed": 0})


class Kept(Sink):
    """Keeps what it receives."""

    def __init__(self):
        self.entries, self.closed = [], False

    def metrics(self, step, metrics):
        self.entries.append((step, dict(metrics)))

    def close(self):
        self.closed = True


def watched(hook, sink, steps, norms=None, fused=1):
    """Runs steps whose loss is their number; returns the watch."""
    line = ProgressLine("teacher", steps, 1, enabled=True)
    watch = Watch({"mine": (hook, sink)}, line, {"default": lambda step: 0.5 * step}, 0, norms)

    def run_steps(state, frozen, images, rows):
        count = len(rows["index"])
        return state + count, {"loss": np.arange(state + 1.0, state + count + 1)}

    run, state = watch.around(run_steps), 0
    for _ in range(0, steps, fused):
        state, _ = run(state, {}, None, {"index": np.zeros((fused, 1))})
    return watch


@pytest.mark.parametrize("fused", [1, 6])
def test_an_entry_is_the_mean_since_the_one_before(fused):
    sink = Kept()
    watch = watched(Hook(every=4), sink, 12, fused=fused)
    watch.close()
    losses = [(step, metrics["train/loss"]) for step, metrics in sink.entries]
    assert losses == [(4, 2.5), (8, 6.5), (12, 10.5)]
    assert sink.entries[0][1]["learning_rate/default"] == 1.5  # that of the fourth step
    assert sink.closed


@pytest.mark.parametrize(("fused", "steps"), [(1, [0, 4, 8]), (3, [0, 3, 6])])
def test_norms_are_computed_only_where_an_entry_begins(fused, steps):
    seen = []

    def norms(state, *_):
        seen.append(state)
        return {"weight_norm/student": np.float32(2)}

    sink = Kept()
    watched(Hook(every=4, norms=True), sink, 9, (norms, 4), fused).close()
    assert seen == steps
    assert [step for step, metrics in sink.entries if "weight_norm/student" in metrics] == steps


def test_evaluations_are_entries_and_see_all_steps_before():
    sink = Kept()
    watch = watched(Hook(every=2), sink, 4)
    assert watch.after(lambda state: {"accuracy": 0.5})(None) == {"accuracy": 0.5}
    assert [step for step, _ in sink.entries] == [2, 4, 4]
    assert sink.entries[-1] == (4, {"evaluation/accuracy": 0.5})


def test_a_hook_that_fails_is_turned_off_and_the_run_continues(capsys):
    def broken(step, metrics):
        raise RuntimeError("no service")

    hook = register_hook("broken_for_a_test", broken)
    assert hook is broken
    made = HOOKS.get("broken_for_a_test")(every=1)
    watch = watched(made, made.open(None), 3)
    watch.close()
    error = capsys.readouterr().err
    assert error.count("the hook mine failed and is off now (RuntimeError: no service)") == 1


def test_weights_and_biases_get_one_run_per_stage(monkeypatch, tmp_path):
    """A module that stands for wandb records the calls of its documented interface."""
    calls = []

    class FakeRun:
        def log(self, metrics, step):
            calls.append(("log", metrics, step))

        def finish(self):
            calls.append(("finish",))

    def init(**options):
        calls.append(("init", options))
        return FakeRun()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    hook = HOOKS.get("wandb")(project="mine", mode="offline")
    hook.check()
    sink = hook.open(context(tmp_path))
    sink.metrics(5, {"train/loss": 1.0})
    sink.close()
    (_, options), *others = calls
    assert (options["project"], options["mode"], options["group"]) == ("mine", "offline", "small")
    assert (options["name"], options["resume"]) == ("small/teacher", "allow")
    assert others == [("log", {"train/loss": 1.0}, 5), ("finish",)]
    hook.open(context(tmp_path, 5))
    assert calls[-1][1]["id"] == options["id"]  # a stage that resumes continues its run


@pytest.mark.parametrize(
    ("name", "module", "says"),
    [
        ("tensorboard", "tensorboardX", r"run `pip install 'kd_jax\[tensorboard\]'`"),
        ("wandb", "wandb", "run `pip install wandb`"),
    ],
)
def test_a_missing_package_is_one_sentence(monkeypatch, name, module, says):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=says):
        HOOKS.get(name)().check()


def events(folder):
    """Yields the events of the files in a folder, by the format of TFRecord."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def test_tensorboard_gets_scalars_and_images(tmp_path):
    pytest.importorskip("tensorboardX")
    hook = HOOKS.get("tensorboard")(images=3)
    sink = hook.open(context(tmp_path))
    sink.images({"student": np.full((5, 4, 4, 1), 7, np.uint8)})
    sink.metrics(50, {"train/loss": 1.5, "weight_norm/student": 2.0})
    sink.close()
    every = [*events(tmp_path / "tensorboard")]
    values = {v.tag: (e.step, v) for e in every for v in e.summary.value}
    assert values["train/loss"][0] == 50
    assert values["train/loss"][1].simple_value == 1.5
    assert values["weight_norm/student"][1].simple_value == 2.0
    (image,) = [v.image for tag, (_, v) in values.items() if tag.startswith("sees/student")]
    assert image.encoded_image_string.startswith(b"\x89PNG")


def test_a_bucket_cannot_hold_event_files():
    with pytest.raises(UsageError, match="is in a bucket"):
        HOOKS.get("tensorboard")().open(context("gs://runs/quickstart/teacher"))
