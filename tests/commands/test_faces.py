"""Runs on faces: streamed and degraded images, and weights from elsewhere."""

import signal

import numpy as np
import pytest
import small_faces

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.core.stop import Stopped
from kd_jax.data import StreamedLoader
from kd_jax.evaluation.faces import read_pairs
from kd_jax.experiment.run import Run


def numbers(summary):
    return [(stage["last"], stage["best"]) for stage in summary["stages"]]


def student_config(faces, trained, **data):
    """Returns the config of the student alone, which starts from the trained teacher."""
    config = small_faces.get_config(faces, **data)
    del config["stages"]["teacher"]
    source = str(trained[0] / "teacher")
    config["stages"]["student"]["networks"]["teacher"]["init_from"] = source
    return config


def test_a_streamed_run_under_pmap(faces, trained, tmp_path):
    config = student_config(faces, trained, stream=True)
    config |= {"execution": "pmap", "num_devices": 2}
    ((last, _),) = numbers(Run(config, tmp_path).run())
    assert last == pytest.approx(numbers(trained[1])[1][0], rel=1e-4)


def test_a_stream_that_is_interrupted_is_the_same_run(faces, trained, tmp_path, monkeypatch):
    """The images of the other run were in the memory of the devices."""
    config = small_faces.get_config(faces, stream=True)
    steps = StreamedLoader.steps

    def stopping(self, order, step, count):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return steps(self, order, step, count)

    with monkeypatch.context() as patch:
        patch.setattr(StreamedLoader, "steps", stopping)
        with pytest.raises(Stopped, match="saved at step 5"):
            Run(config, tmp_path).run()
    assert numbers(Run(config, tmp_path).run()) == numbers(trained[1])


def test_validation_images_stream_too(faces, trained, tmp_path):
    config = student_config(faces, trained, stream=True, validation_fraction=0.25)
    config["stages"]["student"]["epochs"] = 0.1
    (stage,) = Run(config, tmp_path).run()["stages"]
    assert stage["metric"] == "validation/accuracy"
    assert "validation/accuracy/teacher" in stage["last"]


def test_pairs_are_verified_during_training(faces, trained, tmp_path):
    config = student_config(faces, trained)
    evaluator = {"name": "verification", "pairs": str(faces / "pairs.txt"), "images": str(faces)}
    config["stages"]["student"] |= {
        "epochs": 0.1,
        "evaluators": {"pairs": {**evaluator, "probe_sizes": [4]}},
        "best": "pairs/accuracy_4",
    }
    (stage,) = Run(config, tmp_path / "run").run()["stages"]
    assert 0 <= stage["last"]["pairs/accuracy_4"] <= 1
    assert stage["metric"] == "pairs/accuracy_4"
    config["stages"]["student"]["evaluators"]["pairs"]["size"] = [12, 12]
    with pytest.raises(UsageError, match="set size to use their center"):
        Run(config, tmp_path / "squeezed").run()


def test_weights_from_elsewhere_must_see_the_same_part_of_the_images(faces, trained, tmp_path):
    config = student_config(faces, trained)
    config["data"]["source"]["size"] = (12, 12)
    with pytest.raises(UsageError, match=r"would be squeezed .* change data.source.size"):
        Run(config, tmp_path / "run")


def test_weights_from_elsewhere_must_see_the_same_channels(trained, tmp_path):
    config = small_faces.get_config(tmp_path)
    config["data"] = {
        "source": {"name": "digits"},
        "train_split": "train[:50]",
        "test_split": "test[:50]",
        "batch_size": 8,
    }
    network = {"init_from": str(trained[0] / "teacher"), "init_head": False}
    config["stages"] = {
        "student": {**config["stages"]["teacher"], "networks": {"student": network}}
    }
    with pytest.raises(UsageError, match="was trained with channels 3, but these images have 1"):
        Run(config, tmp_path / "run")


def test_a_trained_network_separates_the_persons(faces, trained):
    pairs = read_pairs(str(faces / "pairs.txt"), str(faces))
    embedder = kd_jax.Embedder(kd_jax.load(trained[0] / "student"), batch_size=16)
    embeddings = embedder(pairs.images)
    expected = kd_jax.load(trained[0] / "student")(pairs.images).embedding
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = (unit[pairs.first] * unit[pairs.second]).sum(1)
    assert cosines[pairs.same].mean() > cosines[~pairs.same].mean()
