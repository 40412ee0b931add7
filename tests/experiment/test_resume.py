"""Runs that are stopped at any moment end with the same numbers."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest
import small_config
from interrupted import interrupted
from small_config import changed, numbers, student_config

import kd_jax
from kd_jax.core.devices import data_mesh, replicated
from kd_jax.core.errors import UsageError
from kd_jax.core.stop import Stopped
from kd_jax.experiment.run import Run
from kd_jax.training.checkpoints import Checkpoints


def logs(workdir, stage):
    """Returns the whole log of a stage without the speed."""
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "images_per_second": None} for line in lines]


def trained_values(stage):
    """Returns the values that the optimizer moves, where the networks are their averages."""
    with Checkpoints(stage / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore_stored(10, "trained", replicated(data_mesh(1)))


def test_an_interrupted_run_ends_with_the_same_numbers(finished, tmp_path, monkeypatch):
    often = changed({"checkpoint_minutes": 1e-9})  # after every step
    interrupted(tmp_path, monkeypatch, 2, often)
    assert not (tmp_path / "student").exists()
    assert not (tmp_path / "results.json").exists()
    kd_jax.run(changed({}), tmp_path, stages=["teacher"])
    interrupted(tmp_path, monkeypatch, 2, often)  # in the second stage
    assert (tmp_path / "student").exists()
    assert not (tmp_path / "student" / "stage.json").exists()
    assert numbers(Run(changed({}), tmp_path).run()) == numbers(finished[1])
    for stage in ("teacher", "student"):
        assert logs(tmp_path, stage) == logs(finished[0], stage)


def test_an_interrupted_online_stage_ends_with_the_same_numbers(online, tmp_path, monkeypatch):
    config = small_config.online_config().to_dict()
    often = config | {"checkpoint_minutes": 1e-9}
    interrupted(tmp_path, monkeypatch, 3, often)  # between two evaluations
    with Checkpoints(tmp_path / "ekd" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest % 5
    again = Run(config, tmp_path).run()
    assert numbers(again) == numbers(online[1])
    assert logs(tmp_path, "ekd") == logs(online[0], "ekd")
    for role in ("teacher", "student"):
        ours, theirs = (
            kd_jax.load(workdir / "ekd", role=role).variables for workdir in (tmp_path, online[0])
        )
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    ours, theirs = (trained_values(workdir / "ekd") for workdir in (tmp_path, online[0]))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert "student" in theirs["params"]


def test_a_run_resumes_on_other_devices(finished, tmp_path, monkeypatch):
    """It starts on one device, continues on eight, and ends on one."""
    workdir, summary = finished
    config = student_config(workdir / "teacher", num_devices=None)
    for devices in (1, 8):
        with monkeypatch.context() as patch:
            patch.setattr("kd_jax.experiment.run.data_mesh", lambda _, n=devices: data_mesh(n))
            interrupted(tmp_path, patch, 1, config)
    monkeypatch.setattr("kd_jax.experiment.run.data_mesh", lambda _: data_mesh(1))
    (stage,) = Run(config, tmp_path).run()["stages"]
    assert stage["last"] == pytest.approx(summary["stages"][1]["last"], rel=1e-5)


def test_a_signal_saves_and_stops(tmp_path, monkeypatch):
    config = changed({"stages.student": ...})
    evaluated = Checkpoints.save

    def stopping(self, *args, **kwargs):
        evaluated(self, *args, **kwargs)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stopping)
        with pytest.raises(Stopped, match="stage 'teacher' is saved at step 5 of 20"):
            Run(config, tmp_path).run()
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("flag", ["jax_threefry_partitionable", "jax_default_matmul_precision"])
def test_other_settings_of_jax_are_noticed(finished, tmp_path, monkeypatch, flag):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "teacher" / "stage.json").unlink()
    before = getattr(jax.config, flag)
    changed_flag = not before if isinstance(before, bool) else "highest"
    jax.config.update(flag, changed_flag)
    try:
        with pytest.raises(UsageError, match=rf"flags.{flag} was '{before}', is '{changed_flag}'"):
            Run(changed({}), tmp_path / "run").run()
    finally:
        jax.config.update(flag, before)


def test_another_teacher_is_noticed(finished, tmp_path, monkeypatch):
    workdir, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(finished[0] / "teacher", workdir / "teacher")
    interrupted(workdir, monkeypatch, 2, changed({}))
    shutil.rmtree(workdir / "teacher")
    Run(changed({"seed": 1, "stages.student": ...}), other).run()
    shutil.copytree(other / "teacher", workdir / "teacher")
    with pytest.raises(UsageError, match=r"weights.teacher.hash was .*delete .*student"):
        Run(changed({}), workdir).run()
