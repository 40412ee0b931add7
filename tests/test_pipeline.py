import copy
import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small_config

from kd_jax.data.sources import Digits
from kd_jax.devices import data_mesh
from kd_jax.errors import UsageError
from kd_jax.methods import METHODS, Supervised
from kd_jax.pipeline import Run
from kd_jax.training import Checkpoints
from kd_jax.weights import load


def config(**changes):
    values = small_config.get_config().to_dict()
    for key, value in changes.items():
        *path, last = key.split("__")
        place = values
        for name in path:
            place = place[name]
        place[last] = value
    return values


def numbers(summary):
    """What must not depend on how often a run was stopped."""
    keys = ("name", "network", "resolution", "params", "last", "best")
    return [{key: stage[key] for key in keys} for stage in summary["stages"]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder and results of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, Run(config(), workdir).run()


def test_a_run_leaves_results_for_people_and_programs(finished):
    workdir, summary = finished
    results = json.loads((workdir / "results.json").read_text())
    assert results == summary
    assert results["experiment"] == "small"
    assert results["config"] == json.loads(json.dumps(config()))
    assert results["device"] == {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1}
    assert {"kd_jax", "jax", "flax", "optax", "orbax-checkpoint"} <= set(results["versions"])
    teacher, student = results["stages"]
    assert (teacher["resolution"], student["resolution"]) == (8, 4)
    assert teacher["params"] > student["params"]
    for stage in (teacher, student):
        assert 0 <= stage["last"]["accuracy"] <= stage["best"]["accuracy"] <= 1
        assert (stage["last"]["step"], stage["last"]["epoch"]) == (20, 2.0)
        lines = (workdir / stage["name"] / "metrics.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert [entry["step"] for entry in entries] == [5, 10, 15, 20]
        assert entries[-1]["accuracy"] == stage["last"]["accuracy"]
        assert max(e["accuracy"] for e in entries) == stage["best"]["accuracy"]
    assert {"pair_relation", "accuracy/teacher"} <= set(entries[0]["train"])
    report = (workdir / "report.md").read_text()
    assert f"{student['last']['accuracy']:.2%}" in report
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_not_run_again(finished):
    workdir, summary = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("checkpoints/*")}
    assert Run(config(), workdir).run() == summary
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("checkpoints/*")} == before


def test_where_a_run_goes_on_may_change(finished):
    workdir, summary = finished
    elsewhere = Run(config(num_devices=2, checkpoint_minutes=1.0), workdir).run()
    assert numbers(elsewhere) == numbers(summary)
    assert elsewhere["device"]["count"] == 1  # where it was trained, not where it is shown


def test_the_best_checkpoint_is_the_best_result(finished):
    workdir, summary = finished
    for stage in summary["stages"]:
        with Checkpoints(workdir / stage["name"] / "checkpoints", read_only=True) as checkpoints:
            assert checkpoints.best == stage["best"]["step"]
            assert checkpoints.latest == stage["last"]["step"]


def test_a_network_may_be_taken_over_with_other_options(finished, tmp_path):
    workdir, _ = finished
    stages = {"student": config()["stages"]["student"]}
    path = str(workdir / "teacher")
    options = {"init_from": path, "frozen": True, "options": {"dtype": "bfloat16"}}
    stages["student"]["networks"]["teacher"] = options
    run = Run(config(stages=stages, pipeline=("student",)), tmp_path)
    card = run.plan.networks.card("student", "teacher")
    assert (card.name, card.options) == ("tiny", {"width": 2.0, "dtype": "bfloat16"})
    assert card.mean == run.plan.networks.weights("student", "teacher").card.mean
    with pytest.raises(UsageError, match=r"was trained with filter 'bicubic', .* have 'box'"):
        Run(config(stages=stages, pipeline=("student",), data__filter="box"), tmp_path / "box")


def test_another_config_is_refused_and_nothing_is_lost(finished):
    workdir, summary = finished
    with pytest.raises(UsageError, match=r"seed was 0, is 1; .*new --workdir"):
        Run(config(seed=1), workdir)
    with pytest.raises(UsageError, match=r"stages.student.epochs was 2.0, is 3.0"):
        Run(config(stages__student__epochs=3.0), workdir)
    assert Run(config(), workdir).run() == summary


def test_a_trained_student_works_anywhere(finished):
    workdir, summary = finished
    student = load(workdir / "student")
    images = Digits().load("test[:50]")
    predicted = np.asarray(jax.jit(student)(images.images).logits).argmax(-1)
    assert np.mean(predicted == images.labels) == pytest.approx(
        summary["stages"][1]["last"]["accuracy"]
    )
    with pytest.raises(UsageError, match="holds the roles student, but no 'assistant'"):
        load(workdir / "student", role="assistant")
    with pytest.raises(UsageError, match="no finished stage"):
        load(workdir / "nothing")


def interrupted(workdir, monkeypatch, saves, values=None):
    """Runs until the given number of checkpoints is written, then is gone without a word."""

    class Killed(BaseException):
        pass

    save, count = Checkpoints.save, 0

    def limited(self, *args, **kwargs):
        nonlocal count
        save(self, *args, **kwargs)
        self.wait()
        count += 1
        if count == saves:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", limited)
        Run(values or config(), workdir).run()


def logs(workdir, stage):
    """What must not depend on how often a stage was stopped, of its whole way."""
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "images_per_second": None} for line in lines]


@pytest.mark.parametrize("saves", [2, 6])
def test_an_interrupted_run_ends_bit_for_bit_as_if_it_had_not_been(
    finished, tmp_path, monkeypatch, saves
):
    interrupted(tmp_path, monkeypatch, saves)
    assert not (tmp_path / "results.json").exists()
    assert numbers(Run(config(), tmp_path).run()) == numbers(finished[1])
    for stage in ("teacher", "student"):
        assert logs(tmp_path, stage) == logs(finished[0], stage)


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """Folder and results of a run of EKD that was never stopped."""
    workdir = tmp_path_factory.mktemp("online")
    return workdir, Run(small_config.online_config().to_dict(), workdir).run()


def test_an_interrupted_online_stage_ends_bit_for_bit_too(online, tmp_path, monkeypatch):
    often = small_config.online_config().to_dict() | {"checkpoint_minutes": 1e-9}
    interrupted(tmp_path, monkeypatch, 3, often)  # between two evaluations
    with Checkpoints(tmp_path / "ekd" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest % 5
    again = Run(small_config.online_config().to_dict(), tmp_path).run()
    assert numbers(again) == numbers(online[1])
    assert {"accuracy/teacher", "accuracy_gap/teacher"} < set(again["stages"][0]["last"])
    assert logs(tmp_path, "ekd") == logs(online[0], "ekd")
    for role in ("teacher", "student"):
        ours, theirs = (load(w / "ekd", role=role).variables for w in (tmp_path, online[0]))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_only_the_backbone_of_an_online_student_remains(online):
    workdir, summary = online
    network = load(workdir / "ekd")
    bare = network.network.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False)
    assert jax.tree.map(np.shape, network.variables) == jax.tree.map(np.shape, bare)
    # not even in what was saved: `load` reads only what it looks for
    saved = workdir / "ekd" / "checkpoints" / "10"
    stored = ocp.StandardCheckpointHandler().metadata(saved / "network_student").tree
    is_array = lambda x: hasattr(x, "shape") and hasattr(x, "dtype")  # noqa: E731
    assert jax.tree.map(lambda x: x.shape, stored, is_leaf=is_array) == jax.tree.map(np.shape, bare)
    assert "module1" in (saved / "adapters" / "_METADATA").read_text()
    size = sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    assert size == summary["stages"][0]["params"]
    images = Digits().load("test[:50]")
    predicted = np.asarray(jax.jit(network)(images.images).logits).argmax(-1)
    accuracy = summary["stages"][0]["last"]["accuracy"]
    assert np.mean(predicted == images.labels) == pytest.approx(accuracy)


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1)])
def test_begun_on_some_devices_and_ended_on_others(finished, tmp_path, monkeypatch, before, after):
    with monkeypatch.context() as patch:
        patch.setattr("kd_jax.pipeline.data_mesh", lambda _: data_mesh(before))
        interrupted(tmp_path, patch, 6)
    monkeypatch.setattr("kd_jax.pipeline.data_mesh", lambda _: data_mesh(after))
    summary = Run(config(), tmp_path).run()
    for stage, other in zip(summary["stages"], finished[1]["stages"], strict=True):
        assert stage["last"] == pytest.approx(other["last"], rel=1e-5)


def test_another_teacher_is_noticed(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    interrupted(workdir, monkeypatch, 6)
    shutil.rmtree(workdir / "teacher")
    other = tmp_path / "other"
    stages = {"teacher": config()["stages"]["teacher"]}
    Run(config(seed=1, stages=stages, pipeline=("teacher",)), other).run()
    shutil.copytree(other / "teacher", workdir / "teacher")
    with pytest.raises(UsageError, match=r"weights.teacher.hash was .*delete .*student"):
        Run(config(), workdir).run()


def test_weights_come_from_another_run_too(finished, tmp_path):
    stages = copy.deepcopy(config()["stages"])
    del stages["teacher"]
    stages["student"]["networks"]["teacher"]["init_from"] = str(finished[0] / "teacher")
    summary = Run(config(stages=stages, pipeline=("student",)), tmp_path).run()
    assert numbers(summary) == numbers(finished[1])[1:]


def test_pmap_runs_the_same_experiment(finished, tmp_path):
    summary = Run(config(execution="pmap", num_devices=2), tmp_path).run()
    for stage, other in zip(summary["stages"], finished[1]["stages"], strict=True):
        assert stage["last"]["cross_entropy"] == pytest.approx(
            other["last"]["cross_entropy"], rel=1e-4
        )


def test_calls_of_several_steps_as_on_accelerators(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_jax.training.loop.fused_steps", lambda: 3)
    summary = Run(config(checkpoint_minutes=1e-6), tmp_path).run()  # saves after every call too
    for stage, other in zip(summary["stages"], finished[1]["stages"], strict=True):
        assert stage["last"] == pytest.approx(other["last"], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_with_its_name(tmp_path):
    optimizers = {"default": {"name": "sgd", "learning_rate": 1e30}}
    with pytest.raises(UsageError, match=r"Stage 'teacher': cross_entropy became (nan|inf) at"):
        Run(config(stages__teacher__optimizers=optimizers), tmp_path).run()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__batch_size": 161}, r"data.batch_size 161 .* 160 training images"),
        (
            {"num_devices": 8, "data__eval_batch_size": 50},
            r"data.eval_batch_size = 50 does not divide over 8 devices: choose 48 or 56",
        ),
        (
            {"stages__student__networks__student__resolution": 9},
            r"stages.student.networks.student.resolution = 9 is impossible: choose 1 to 8",
        ),
        (
            {"stages__teacher__networks__student__name": "tinny"},
            r"stages.teacher.networks.student: .*'tinny'.*tiny",
        ),
        (
            {"stages__teacher__networks__student__options": {"depth": 3}},
            r"stages.teacher.networks.student: tiny has no option 'depth'",
        ),
        (
            {"stages__teacher__networks__student__options": {"dtype": "bf16"}},
            r"stages.teacher.networks.student: tiny cannot compute in bf16",
        ),
        (
            {"stages__student__networks__student__init_from": "teacher"},
            r"stages.student.networks.student cannot start from 'teacher': the shapes differ",
        ),
        ({"num_devices": 9}, "num_devices = 9 is impossible: choose 1 to 8"),
        ({"num_devices": 0}, "num_devices = 0 is impossible"),
    ],
)
def test_what_cannot_run_is_found_before_anything_is_written(tmp_path, changes, says):
    with pytest.raises(UsageError, match=says):
        Run(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_networks_that_a_method_cannot_use_are_found_at_once(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class SameWidth(Supervised):
        def __call__(self, adapters, outputs, batch, *, axis_name=None):
            raise ValueError("student [2, 16] and teacher [2, 32] differ")

    monkeypatch.setitem(METHODS, "same_width", SameWidth)
    changes = {"stages__teacher__method": {"name": "same_width"}}
    with pytest.raises(UsageError, match=r"stages.teacher.method: student \[2, 16\] and teacher"):
        Run(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=re.escape(f"--workdir={tmp_path}/file")):
        Run(config(), tmp_path / "file")
