"""Hooks and the plan of a run: they change no number."""

import pytest
import small_config
from etils import epath

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.experiment.overview import later_work, overview
from kd_jax.experiment.run import Run
from kd_jax.training.hooks import Hook, register_hook


@pytest.fixture(scope="module")
def plan(finished):
    return Run(small_config.changed({}), finished[0]).plan


def test_hooks_with_norms_change_no_number(finished, tmp_path, capsys):
    entries = []
    register_hook("kept_for_a_test", lambda step, metrics: entries.append((step, dict(metrics))))
    hooks = {"mine": {"name": "kept_for_a_test", "every": 5, "norms": True}}
    config = small_config.changed({"stages.student": ..., "hooks": hooks})
    summary = kd_jax.run(config, tmp_path)
    assert small_config.numbers(summary) == small_config.numbers(finished[1])[:1]
    losses = [step for step, metrics in entries if "train/loss" in metrics]
    assert losses == [5, 10, 15, 20]
    norms = [metrics for _, metrics in entries if "gradient_norm/student" in metrics]
    assert len(norms) == 4
    assert all(metrics["weight_norm/student"] > 0 for metrics in norms)
    accuracies = [m["evaluation/accuracy"] for _, m in entries if "evaluation/accuracy" in m]
    assert accuracies[-1] == summary["stages"][0]["last"]["accuracy"]
    error = capsys.readouterr().err
    assert "[teacher] stage 1 of 1" in error
    assert "[teacher] compiling the train step ..." in error


def test_a_hook_without_its_package_is_found_before_training(tmp_path, monkeypatch):
    class Missing(Hook):
        def check(self):
            raise UsageError("a package is missing: install it.")

    register_hook("missing_for_a_test", Missing)
    config = small_config.changed({"hooks": {"mine": {"name": "missing_for_a_test"}}})
    with pytest.raises(UsageError, match=r"hooks\.mine: a package is missing"):
        Run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_plan_names_stages_networks_and_their_state(plan, finished, tmp_path):
    workdir, summary = finished
    text = overview(plan, epath.Path(workdir), ["teacher"])
    head, _, _, teacher, student = text.splitlines()
    assert "small: 2 stages on 1 x cpu (cpu); images of 8x8x1: " in head
    assert "160 train" in head
    assert f"tiny at 8x8, {summary['stages'][0]['params']:,} parameters" in teacher
    assert teacher.endswith("finished |")
    assert "tiny at 4x4" in student
    assert "tiny at 8x8, from teacher" in student
    assert "resumes at step 20" in student
    assert "to do |" in overview(plan, epath.Path(tmp_path), []).splitlines()[-1]


def test_later_work_is_in_steps_of_the_stage(plan):
    later = later_work(plan, [])
    # The student's step also computes the teacher, without its backward pass.
    assert 20 / 3 < later["teacher"] < 20
    assert later["student"] == 0
    assert list(later_work(plan, ["teacher"])) == ["student"]
