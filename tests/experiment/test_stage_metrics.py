"""StageMetrics of a stage: a validation split, further evaluators, and the best checkpoint."""

import json

import numpy as np
import pytest
from small_config import changed

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.experiment.run import Run
from kd_jax.training.checkpoints import Checkpoints


def teacher_config(**changes):
    """Returns the config of the teacher alone, with some keys of `data` and of the stage set."""
    data = changes.pop("data", {})
    config = changed({"stages.student": ...})
    config["data"] |= data
    config["stages"]["teacher"] |= {"epochs": 1.0, "evaluate_every": 0.25, **changes}
    return config


def log(workdir):
    lines = (workdir / "teacher" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def validated(tmp_path_factory, programs):
    """Folder and results of a run with a validation split and a further evaluator."""
    workdir = tmp_path_factory.mktemp("validated")
    evaluators = {"near": {"name": "retrieval", "ks": [1, 2]}}
    config = teacher_config(data={"validation_fraction": 0.25}, evaluators=evaluators)
    return workdir, config, kd_jax.run(config, workdir)


def test_the_best_is_chosen_on_the_validation_split(validated):
    workdir, _, summary = validated
    (stage,) = summary["stages"]
    assert stage["metric"] == "validation/accuracy"
    entries = log(workdir)
    scores = [entry["validation/accuracy"] for entry in entries]
    last = len(scores) - 1 - int(np.argmax(scores[::-1]))  # the latest of equals
    assert stage["best"]["step"] == entries[last]["step"]
    with Checkpoints(workdir / "teacher" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.best == stage["best"]["step"]
    assert "highest validation/accuracy.\n" in (workdir / "report.md").read_text()


def test_the_validation_images_are_not_trained_on(validated):
    workdir, config, summary = validated
    plan = Run(config, workdir).plan
    sizes = {split: len(images) for split, images in plan.images.items()}
    assert sizes == {"train": 120, "validation": 40, "test": 50}
    kept, held_out = (plan.images[split].images for split in ("train", "validation"))
    assert not {image.tobytes() for image in kept} & {image.tobytes() for image in held_out}
    assert summary["stages"][0]["last"]["step"] == 120 // 16
    meta = Checkpoints(workdir / "teacher" / "checkpoints", read_only=True)
    with meta as checkpoints:
        assert {"train_images", "validation_images", "test_images"} <= set(
            checkpoints.read_json(checkpoints.latest, "meta")
        )


def test_further_evaluators_have_their_name_as_a_prefix(validated):
    workdir, _, summary = validated
    metrics = {"accuracy", "cross_entropy", "validation/accuracy", "validation/cross_entropy"}
    near = {"near/recall_at_1", "near/recall_at_2"}
    assert set(summary["stages"][0]["last"]) == metrics | near | {"step", "epoch"}
    assert 0 <= log(workdir)[-1]["near/recall_at_1"] <= log(workdir)[-1]["near/recall_at_2"] <= 1


def test_an_evaluator_gives_the_result_where_there_are_no_test_images(tmp_path, programs):
    evaluators = {"near": {"name": "retrieval", "split": "train", "ks": [2]}}
    config = teacher_config(data={"test_split": None}, evaluators=evaluators)
    (stage,) = kd_jax.run(config, tmp_path)["stages"]
    assert (stage["result"], stage["metric"]) == ("near/recall_at_2", "near/recall_at_2")
    assert set(stage["last"]) == {"near/recall_at_2", "step", "epoch"}
    report = (tmp_path / "report.md").read_text()
    assert "| near/recall_at_2 |" in report
    assert "test images" not in report
    assert "chosen on the same images" in report


def test_without_test_images_something_else_must_be_evaluated(tmp_path):
    says = "stages.teacher evaluates nothing without data.test_split: set data.validation_fraction"
    with pytest.raises(UsageError, match=says):
        kd_jax.run(teacher_config(data={"test_split": None}), tmp_path)
    plan = Run(teacher_config(data={"test_split": None, "validation_fraction": 0.25}), tmp_path)
    assert set(plan.plan.images) == {"train", "validation"}


@pytest.mark.parametrize(("best", "sign"), [("-cross_entropy", -1), ("near/recall_at_1", 1)])
def test_another_metric_chooses_the_best(tmp_path, best, sign):
    evaluators = {"near": {"name": "retrieval", "split": "test", "ks": [1]}}
    summary = kd_jax.run(teacher_config(best=best, evaluators=evaluators), tmp_path)
    (stage,) = summary["stages"]
    name = best.removeprefix("-")
    assert stage["metric"] == best
    assert sign * stage["best"][name] == max(sign * entry[name] for entry in log(tmp_path))


def test_an_unknown_metric_is_one_sentence(tmp_path):
    says = r"stages.teacher.best = 'acuracy' is unknown: choose one of accuracy, "
    with pytest.raises(UsageError, match=says) as error:
        kd_jax.run(teacher_config(best="acuracy"), tmp_path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("evaluator", "says"),
    [
        ({"split": "validation"}, "split = 'validation' has no images: set data.test_split or"),
        ({"ks": [50]}, r"ks = \(50,\) is impossible: choose 1 to 49"),
    ],
)
def test_an_evaluator_that_does_not_fit_is_one_sentence(tmp_path, evaluator, says):
    evaluators = {"near": {"name": "retrieval", **evaluator}}
    with pytest.raises(UsageError, match=says):
        kd_jax.run(teacher_config(evaluators=evaluators), tmp_path)


def test_every_output_of_a_method_is_evaluated(finished, online):
    frozen = finished[1]["stages"][1]["last"]
    teacher = finished[1]["stages"][0]["last"]
    for metric in ("accuracy", "cross_entropy"):
        assert frozen[f"{metric}/teacher"] == pytest.approx(teacher[metric])
    for last in (frozen, online[1]["stages"][0]["last"]):
        gap = last["accuracy/teacher"] - last["accuracy"]
        assert last["accuracy_gap/teacher"] == pytest.approx(gap)
