"""What cannot run is found before anything is computed or written."""

import dataclasses

import pytest
import small_faces
from small_config import changed

from kd_jax.core.errors import UsageError
from kd_jax.experiment.run import Run
from kd_jax.methods import METHODS, Supervised

TEACHER, STUDENT = "stages.teacher", "stages.student"


def refused(tmp_path, config, says):
    with pytest.raises(UsageError, match=says) as error:
        Run(config, tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data.batch_size": 161}, r"data.batch_size = 161 is impossible: choose 1 to 160"),
        (
            {"num_devices": 8, "data.batch_size": 12},
            "data.batch_size = 12 does not divide over 8 devices: choose 8 or 16",
        ),
        (
            {"num_devices": 8, "data.eval_batch_size": 50},
            "data.eval_batch_size = 50 does not divide over 8 devices: choose 48 or 56",
        ),
        ({"num_devices": 9}, "num_devices = 9 is impossible: choose 1 to 8"),
        ({"num_devices": 0}, "num_devices = 0 is impossible"),
        ({"data.train_split": "trian"}, "split 'trian' cannot be read"),
        ({"data.train_split": "train[:0]"}, "is empty"),
        ({"data.stream": True}, r"Digits always reads the whole set .* set data.stream = False"),
        (
            {"data.normalization": {"mean": [0.5] * 2, "std": [0.5]}},
            r"data.normalization has 2 means and 1 standard deviations, .* 1 channels",
        ),
        (
            {f"{STUDENT}.networks.student.resolution": 9},
            "stages.student.networks.student.resolution = 9 is impossible: choose 1 to 8",
        ),
        (
            {f"{TEACHER}.networks.student.name": "tinny"},
            r"stages.teacher.networks.student.name = 'tinny' is unknown: choose one of tiny",
        ),
        (
            {f"{TEACHER}.networks.student.options": {"depth": 3}},
            "stages.teacher.networks.student: tiny option = 'depth' is unknown",
        ),
        (
            {f"{TEACHER}.networks.student.options": {"dtype": "bf16"}},
            "stages.teacher.networks.student: dtype = 'bf16' is unknown: choose one of bfloat16",
        ),
        (
            {f"{TEACHER}.networks.student.options": {"width": 0}},
            "stages.teacher.networks.student: tiny needs num_classes >= 1 and width > 0",
        ),
        (
            {f"{STUDENT}.networks.student.init_from": "teacher"},
            "stages.student.networks.student cannot start from 'teacher': the shapes differ",
        ),
        (
            {
                f"{STUDENT}.networks.student": {
                    "init_from": "teacher",
                    "init_head": False,
                    "options": {"width": 1.0},
                }
            },
            "stages.student.networks.student cannot start from 'teacher': the shapes differ",
        ),
        (
            {f"{STUDENT}.networks.teacher.init_from": "/nowhere"},
            r"networks.teacher.init_from = '/nowhere' is no finished stage",
        ),
    ],
)
def test_what_cannot_run_is_found_before_anything_is_written(tmp_path, changes, says):
    refused(tmp_path, changed(changes), says)


def test_networks_that_a_method_cannot_use_are_found_at_once(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class SameWidth(Supervised):
        def __call__(self, adapters, outputs, batch, *, axis_name=None):
            raise ValueError("student [2, 16] and teacher [2, 32] differ")

    monkeypatch.setitem(METHODS._entries, "same_width", SameWidth)
    changes = {f"{TEACHER}.method": {"name": "same_width"}}
    refused(tmp_path, changed(changes), r"stages.teacher.method: student \[2, 16\] and teacher")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    small_faces.write(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"probability": 2.0}, "networks.student.degradation: probability must be 0 to 1"),
        ({"sizes": (3, 13)}, r"student.degradation.sizes .*\(3, 13\) .* 1 to 12"),
    ],
)
def test_a_degradation_beyond_the_images_is_named(faces, tmp_path, changes, says):
    config = small_faces.get_config(faces)
    config["stages"]["student"]["networks"]["student"]["degradation"] |= changes
    refused(tmp_path, config, says)


@pytest.mark.parametrize("execution", ["jit", "pmap"])
def test_a_loss_that_a_network_cannot_have_is_found_at_once(faces, tmp_path, execution):
    config = small_faces.get_config(faces) | {"execution": execution}
    config["stages"]["student"]["method"]["loss"] = "arcface"
    refused(tmp_path, config, r"stages.student.method: .* angular")
