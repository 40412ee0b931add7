"""A small config in the place of the quickstart."""

import os
import pathlib

import flax.linen as nn
import pytest
import small_config

from kd_jax import models


@models.register("dense")
class Dense(nn.Module):
    """Two linear layers, which compile fast; the number of images may be symbolic."""

    num_classes: int
    width: float = 1.0
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train):
        pixels = images.reshape(images.shape[0], -1)
        embedding = nn.tanh(models.LinearMap(int(8 * self.width), name="hidden")(pixels))
        logits = models.LinearMap(self.num_classes, name="classifier")(embedding)
        return models.Outputs(logits, embedding)


QUICKSTART = """
import small_config

def get_config(argument=None):
    config = small_config.get_config()
    teacher, student = config.stages.teacher.to_dict(), config.stages.student.to_dict()
    for stage in (teacher, student):
        stage["epochs"] = stage["evaluate_every"] = 0.5
        for network in stage["networks"].values():
            network.update({"name": "dense"} if "init_from" not in network else {})
    student["method"] = {"name": "kd"}  # compiles in less time than HORKD
    alone = {**teacher, "networks": {"student": student["networks"]["student"]}}
    config.stages = {"teacher": teacher, "assistant": student, "student": student,
                     "student_alone": alone}
    return config
"""
"""A config with stages of the quickstart, with tiny networks and few images."""


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """Compiles equal programs of all runs once."""
    with small_config.compiled_once(tmp_path_factory.getbasetemp() / "programs"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory in which `--config=quickstart` is the small config."""
    folder, before = tmp_path_factory.mktemp("docs"), pathlib.Path.cwd()
    (folder / "quickstart").write_text(QUICKSTART)
    os.chdir(folder)
    yield folder
    os.chdir(before)
