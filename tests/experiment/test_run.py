"""Whole runs: their results, and the conditions under which a folder can be used again."""

import errno
import functools
import json
import os
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small_config
from etils import epath
from small_config import changed, numbers, student_config

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.core.lock import locked
from kd_jax.data import SOURCES
from kd_jax.experiment.building import to_config
from kd_jax.experiment.run import Run
from kd_jax.experiment.specs import experiment
from kd_jax.training.checkpoints import Checkpoints


def test_a_run_leaves_results_for_people_and_programs(finished):
    workdir, summary = finished
    results = json.loads((workdir / "results.json").read_text())
    assert results == summary
    assert results["experiment"] == "small"
    spec = experiment(changed({}))
    assert results["config"] == json.loads(json.dumps(to_config(spec)))
    assert results["config"] == json.loads((workdir / "config.json").read_text())
    assert results["device"] == {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1}
    assert {"kd_jax", "jax", "flax", "optax", "orbax-checkpoint"} <= set(results["versions"])
    teacher, student = results["stages"]
    assert (teacher["resolution"], student["resolution"]) == (8, 4)
    assert teacher["params"] > student["params"]
    for stage in (teacher, student):
        assert stage["metric"] == "accuracy"
        assert 0 <= stage["last"]["accuracy"] <= stage["best"]["accuracy"] <= 1
        assert (stage["last"]["step"], stage["last"]["epoch"]) == (20, 2.0)
        lines = (workdir / stage["name"] / "metrics.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert [entry["step"] for entry in entries] == [5, 10, 15, 20]
        assert entries[-1]["accuracy"] == stage["last"]["accuracy"]
        assert max(e["accuracy"] for e in entries) == stage["best"]["accuracy"]
    assert {"pair_relation", "accuracy/teacher"} <= set(entries[0]["train"])
    assert {"accuracy/teacher", "accuracy_gap/teacher"} <= set(entries[0])
    report = (workdir / "report.md").read_text()
    assert f"{student['last']['accuracy']:.2%}" in report
    assert "highest accuracy, chosen on the same images" in report
    assert "[teacher](teacher/metrics.jsonl)" in report
    assert teacher["size"] == [8, 8]
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_finished_run_is_not_run_again(finished, as_dictionary):
    workdir, summary = finished
    config = small_config.get_config()
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("checkpoints/*")}
    assert kd_jax.run(config.to_dict() if as_dictionary else config, workdir) == summary
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("checkpoints/*")} == before


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run."""
    shutil.copytree(finished[0], tmp_path / "copied")
    return tmp_path / "copied", finished[1]


def test_a_finished_run_writes_nothing(finished, monkeypatch):
    workdir, results = finished

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("kd_jax.experiment.run.write_file", refuse)
    monkeypatch.setattr("kd_jax.experiment.run.locked", refuse)
    assert Run(changed({}), workdir).run() == results


def test_damaged_results_are_written_again(copied):
    workdir, summary = copied
    for text in ("{", "[]", '{"stages": [{}]}'):
        (workdir / "results.json").write_text(text)
        assert Run(changed({}), workdir).run() == summary
        assert json.loads((workdir / "results.json").read_text()) == summary


def test_two_runs_do_not_share_a_folder(copied):
    workdir, _ = copied
    (workdir / "student" / "stage.json").unlink()
    run, says = Run(changed({}), workdir), r"--workdir=.* is in use by process \d+ on "
    with locked(epath.Path(workdir), "--workdir"), pytest.raises(UsageError, match=says):
        run.run()


def test_devices_and_times_may_change(copied):
    workdir, summary = copied
    again = Run(changed({"num_devices": 2, "checkpoint_minutes": 1.0}), workdir).run()
    assert numbers(again) == numbers(summary)
    assert again["device"]["count"] == 1  # where it was trained, not where it is shown


def test_a_default_may_be_spelled_later(finished):
    workdir, _ = finished
    config = changed({"seed": 0, "data.filter": "bicubic", "pipeline": ["teacher", "student"]})
    config["stages"]["teacher"]["method"] = {"name": "supervised", "loss": "cross_entropy"}
    assert Run(config, workdir).config == Run(changed({}), workdir).config


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("seed", 1, "seed was 0, is 1; "),
        ("stages.student.epochs", 3.0, "stages.student.epochs was 2.0, is 3.0"),
        ("data.filter", "box", "data.filter was 'bicubic', is 'box'"),
    ],
)
def test_another_config_is_refused(finished, key, value, says):
    with pytest.raises(UsageError, match=rf"{re.escape(says)}.*new --workdir"):
        Run(changed({key: value}), finished[0])


def test_parts_of_a_config_may_be_configdicts(finished):
    config = small_config.get_config()
    mixed = {**config, "stages": dict(config.stages)}
    assert Run(mixed, finished[0]).config == finished[1]["config"]


def test_a_workdir_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=re.escape(f"--workdir={tmp_path}/file")):
        Run(changed({}), tmp_path / "file")


def test_a_config_that_json_cannot_hold_is_named(tmp_path):
    config = changed(
        {"stages.teacher.networks.student.options": {"width": 2.0, "dtype": np.float32}}
    )
    with pytest.raises(UsageError, match=r"options\.dtype = .* must be made of numbers, words"):
        Run(config, tmp_path / "run")


def test_the_best_checkpoint_is_the_best_result(finished):
    workdir, summary = finished
    for stage in summary["stages"]:
        with Checkpoints(workdir / stage["name"] / "checkpoints", read_only=True) as checkpoints:
            assert checkpoints.best == stage["best"]["step"]
            assert checkpoints.latest == stage["last"]["step"]


def accuracy_of(stage, **options):
    """Returns the accuracy of a loaded network on the test images of the runs."""
    network = jax.jit(kd_jax.load(stage, **options))
    images = SOURCES.get("digits")().load("test[:50]")
    return np.mean(np.asarray(network(images.images).logits).argmax(-1) == images.labels)


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_trained_student_works_anywhere(finished, checkpoint):
    workdir, summary = finished
    expected = summary["stages"][1][checkpoint]["accuracy"]
    assert accuracy_of(workdir / "student", checkpoint=checkpoint) == pytest.approx(expected)


def test_only_the_backbone_of_an_online_student_remains(online):
    workdir, summary = online
    network = kd_jax.load(workdir / "ekd")
    image = np.zeros((1, 8, 8, 1), np.float32)
    init = functools.partial(network.network.init, train=False)
    bare = jax.eval_shape(init, jax.random.key(0), image)
    assert jax.tree.map(np.shape, network.variables) == jax.tree.map(np.shape, bare)
    # `load` reads only what it looks for, so the files are checked too.
    saved = workdir / "ekd" / "checkpoints" / "10"
    stored = ocp.StandardCheckpointHandler().metadata(saved / "network_student").tree
    is_array = lambda x: hasattr(x, "shape") and hasattr(x, "dtype")  # noqa: E731
    assert jax.tree.map(lambda x: x.shape, stored, is_leaf=is_array) == jax.tree.map(np.shape, bare)
    assert "module1" in (saved / "adapters" / "_METADATA").read_text()
    (stage,) = summary["stages"]
    size = sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    assert size == stage["params"]
    assert (stage["role"], stage["network"]) == ("student", "tiny")
    assert accuracy_of(workdir / "ekd") == pytest.approx(stage["last"]["accuracy"])
    assert {"accuracy/teacher", "accuracy_gap/teacher"} < set(stage["last"])
    teacher = accuracy_of(workdir / "ekd", role="teacher")
    assert teacher == pytest.approx(stage["last"]["accuracy/teacher"])


def test_one_stage_at_a_time(finished, tmp_path):
    config = changed({})
    with pytest.raises(UsageError, match=r"teacher.init_from = '.*teacher' is no finished stage"):
        kd_jax.run(config, tmp_path / "run", stages=["student"])
    assert not (tmp_path / "run").exists()
    first = kd_jax.run(config, tmp_path, stages=["teacher"])
    assert [stage["name"] for stage in first["stages"]] == ["teacher"]
    both = kd_jax.run(config, tmp_path, stages=["student"])
    assert numbers(both) == numbers(finished[1])
    assert json.loads((tmp_path / "results.json").read_text()) == both


@pytest.mark.parametrize("stages", [["studnt"], []])
def test_stages_that_there_are_not(tmp_path, stages):
    with pytest.raises(UsageError, match="--stages"):
        kd_jax.run(changed({}), tmp_path / "run", stages=stages)


def test_pmap_runs_the_same_experiment(finished, tmp_path):
    workdir, summary = finished
    config = student_config(workdir / "teacher", execution="pmap", num_devices=2)
    (stage,) = Run(config, tmp_path).run()["stages"]
    expected = summary["stages"][1]["last"]["cross_entropy"]
    assert stage["last"]["cross_entropy"] == pytest.approx(expected, rel=1e-4)


def test_calls_of_several_steps_as_on_accelerators(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_jax.experiment.stage_run.fused_steps", lambda mesh: 2)
    workdir, summary = finished
    config = student_config(workdir / "teacher", checkpoint_minutes=1e-6)  # saves after every call
    (stage,) = Run(config, tmp_path).run()["stages"]
    assert stage["last"] == pytest.approx(summary["stages"][1]["last"], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_with_its_name(tmp_path):
    optimizers = {"default": {"name": "sgd", "learning_rate": 1e30}}
    config = changed({"stages.teacher.optimizers": optimizers})
    with pytest.raises(UsageError, match=r"Stage 'teacher': cross_entropy became (nan|inf) at"):
        Run(config, tmp_path).run()


@pytest.mark.parametrize(
    ("evaluator", "says"),
    [
        ({"name": "verification", "pairs": "no.txt", "images": "."}, "no.txt cannot be read"),
        ({"name": "verification", "pairs": "fifo", "images": "."}, "fifo cannot be read"),
        ({"name": "verification", "pairs": "list", "images": "no"}, "no cannot be read"),
        ({"name": "verification", "pairs": "no.bin"}, "no.bin cannot be read"),
        (
            {"name": "verification", "pairs": "list", "images": ".", "threshold_pairs": "no.txt"},
            "no.txt cannot be read",
        ),
        ({"name": "identification", "images": "list"}, "list cannot be read"),
    ],
)
def test_files_of_later_stages_are_missing_before_the_first_is_trained(
    tmp_path, monkeypatch, evaluator, says
):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "list").write_text("")
    config = changed({"stages.student.evaluators": {"faces": evaluator}})
    with pytest.raises(UsageError, match=rf"^stages\.student\.evaluators\.faces: {says} \("):
        Run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
