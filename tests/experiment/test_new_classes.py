"""Retrieval: test images of classes that are not trained on, batches of classes, center crops."""

import json

import numpy as np
import pytest
from small_config import changed

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.data import ClassOrder
from kd_jax.data.sources.digits import Digits
from kd_jax.experiment.run import Run

NEAR = {"near": {"name": "retrieval", "ks": [1, 2]}}
DATA = {
    "train_split": "train",
    "test_split": "test",
    "batch_size": 12,
    "images_per_class": 4,
    "augmentation": {"crop": 6, "flip": True},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Options of a source whose training images are the digits 0 to 5, and test images 6 to 9."""
    folder, images = tmp_path_factory.mktemp("digits"), Digits().load("train[:200]")
    for split, rows in (("train", images.labels < 6), ("test", images.labels > 5)):
        part = images.keep(rows)
        np.savez(folder / f"{split}.npz", images=part.images, labels=part.labels)
    return {"name": "npz", "path": f"{folder}/{{split}}.npz"}


def config(source, evaluators, **stage):
    values = {f"stages.teacher.{key}": value for key, value in stage.items()}
    values |= {f"data.{key}": value for key, value in DATA.items()}
    return changed(
        {
            "stages.student": ...,
            "data.source": source,
            "stages.teacher.evaluators": evaluators,
            "stages.teacher.epochs": 0.5,
            **values,
        }
    )


def test_a_run_is_evaluated_by_retrieval(digits, tmp_path, programs):
    values = config(digits, NEAR)
    run = Run(values, tmp_path)
    assert isinstance(run.plan.order, ClassOrder)
    assert run.plan.images["train"].num_classes == 6
    assert run.plan.images["test"].num_classes == 10
    assert set(run.plan.images["test"].labels) == {6, 7, 8, 9}
    view = run.plan.stages["teacher"].views.roles["student"]
    assert view.size == (6, 6)  # of stored images of 8x8
    (stage,) = run.run()["stages"]
    assert (stage["result"], stage["metric"]) == ("near/recall_at_1", "near/recall_at_1")
    assert {"near/recall_at_1", "near/recall_at_2"} <= set(stage["last"])
    assert "accuracy" not in stage["last"]
    assert "near/recall_at_1" in (tmp_path / "report.md").read_text()
    assert kd_jax.load(tmp_path / "teacher").info.num_classes == 6


def test_validation_images_have_training_classes(digits, tmp_path, monkeypatch):
    values = config(digits, NEAR)
    values["data"]["validation_fraction"] = 0.2
    run = Run(values, tmp_path)
    metrics = []
    monkeypatch.setattr(
        "kd_jax.training.loop.Loop.run", lambda loop, *_: metrics.append((loop.result, loop.best))
    )
    with pytest.raises(TypeError):  # nothing is trained
        run.run()
    assert metrics == [("near/recall_at_1", "validation/accuracy")]


@pytest.mark.parametrize(
    ("evaluators", "stage", "says"),
    [
        ({}, {}, r"^stages\.teacher\.evaluators is empty, but the test images have other classes"),
        (
            {"top": {"name": "classification"}},
            {},
            r"^stages\.teacher\.evaluators\.top compares the logits of the training classes with",
        ),
        (
            NEAR,
            {"best": "accuracy"},
            r"^stages\.teacher\.best = 'accuracy' is unknown: .* near/rec",
        ),
        (
            NEAR,
            {"accumulate": 3},
            r"^stages\.teacher\.accumulate = 3 does not leave 2 or more of the data\.images_per",
        ),
    ],
)
def test_what_does_not_fit_is_named(digits, tmp_path, evaluators, stage, says):
    with pytest.raises(UsageError, match=says):
        Run(config(digits, evaluators, **stage), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_images_can_be_classified(digits, tmp_path):
    evaluators = NEAR | {"train": {"name": "classification", "split": "train"}}
    run = Run(config(digits, evaluators, best="train/accuracy"), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["data"]["images_per_class"] == 4
    assert run.plan.steps("teacher") == round(0.5 * (len(run.plan.images["train"]) // 12))
