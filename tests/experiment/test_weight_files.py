"""First weights from files: of PyTorch originals and of the user's own networks."""

import pathlib

import jax
import numpy as np
import pytest
from small_config import changed, student_config
from small_weights import write_flax, write_pytorch

import kd_jax
from kd_jax.core.devices import data_mesh, replicated
from kd_jax.core.errors import UsageError
from kd_jax.experiment.run import Run
from kd_jax.experiment.specs import experiment
from kd_jax.training.checkpoints import Checkpoints

OPTIONS = {"width": 0.25, "shortcut": "A"}
RESNET = {"name": "resnet8", "options": OPTIONS}
HIGH = "stages.student.networks.teacher"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths and variables of the files by name."""
    folder = tmp_path_factory.mktemp("weights")
    gray, color, tiny = (folder / f"{name}.npz" for name in ("gray", "color", "tiny"))
    return {
        "pytorch": (gray, write_pytorch(gray, shape=(8, 8, 1), **OPTIONS)[1]),
        "color": (color, write_pytorch(color, **OPTIONS)[1]),
        "flax": (tiny, write_flax(tiny, width=2.0)[1]),
    }


def config(path, **network):
    """Returns a config of one stage whose teacher is in a file."""
    values = student_config(path)
    values["stages"]["student"]["networks"]["teacher"] |= network
    return values


def test_a_pytorch_file_is_a_teacher(files, tmp_path):
    path, variables = files["pytorch"]
    normalization = {"mean": [0.3], "std": [0.4]}
    plan = Run(config(path, **RESNET, normalization=normalization), tmp_path).plan
    info = plan.roles.info("student", "teacher")
    assert (info.name, info.options, info.num_classes) == ("resnet8", OPTIONS, 10)
    assert (info.size, info.mean, info.std) == ((8, 8), (0.3,), (0.4,))
    assert plan.stages["student"].views.roles["teacher"] == info.view
    weights = plan.roles.weights("student", "teacher")
    read = weights.read(plan.shapes["student"]["teacher"], replicated(data_mesh(1)))
    jax.tree.map(np.testing.assert_array_equal, read, variables)


def test_without_a_normalization_it_is_that_of_the_data(files, tmp_path):
    roles = Run(config(files["pytorch"][0], **RESNET), tmp_path).plan.roles
    assert roles.info("student", "teacher").mean == roles.info("student", "student").mean


def test_a_relative_path_and_a_resolution(files, tmp_path, monkeypatch):
    monkeypatch.chdir(files["pytorch"][0].parent)
    values = config("gray.npz", **RESNET, resolution=4)
    assert Run(values, tmp_path).plan.roles.info("student", "teacher").size == (4, 4)


def test_a_trained_network_starts_from_a_file_with_another_head(files, tmp_path):
    path, variables = tmp_path / "tiny.npz", files["flax"][1]
    write_flax(path, classes=4, width=2.0)
    values = changed({"stages.student": ..., "stages.teacher.epochs": 0.1})
    stage = values["stages"]["teacher"]
    stage["networks"]["student"] |= {"init_from": str(path), "init_head": False}
    stage["optimizers"] = {"default": {"name": "sgd", "learning_rate": 1e-30}}
    kd_jax.run(values, tmp_path / "run")
    params = kd_jax.load(tmp_path / "run" / "teacher").variables["params"]
    assert params.pop("classifier")["kernel"].shape == (32, 10)
    expected = {k: v for k, v in variables["params"].items() if k != "classifier"}
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_run_resumes_only_with_the_same_content(files, tmp_path, monkeypatch):
    path, content = tmp_path / "tiny.npz", files["flax"][0].read_bytes()
    path.write_bytes(content)
    values = config(path, name="tiny", options={"width": 2.0})
    values["stages"]["student"]["epochs"] = 1.0
    save = Checkpoints.save

    def killed(self, *args, **kwargs):
        save(self, *args, **kwargs)
        self.wait()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", killed)
        Run(values, tmp_path / "run").run()
    with np.load(path) as file:
        arrays = dict(file)
    arrays["params/classifier/bias"] = arrays["params/classifier/bias"] + 1
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match=r"weights.teacher.hash was .*delete .*student"):
        Run(values, tmp_path / "run").run()
    path.write_bytes(content)
    (stage,) = Run(values, tmp_path / "run").run()["stages"]
    assert stage["last"]["epoch"] == 1
    assert "accuracy/teacher" in stage["last"]


@pytest.mark.parametrize(
    ("file", "network", "says"),
    [
        ("pytorch", {}, r"teacher.name is missing: init_from = '.*' is a file, so name its"),
        ("pytorch", {"name": "resnet8"}, r"teacher: .* does not fit resnet8; .*layer"),
        ("pytorch", {"name": "resnet9"}, r"teacher.name = 'resnet9' is unknown"),
        ("pytorch", {**RESNET, "init_role": "student"}, r"init_role and init_checkpoint are not"),
        ("pytorch", {**RESNET, "bgr": True}, r"teacher: bgr needs images of 3 channels"),
        (
            "pytorch",
            {**RESNET, "normalization": {"mean": [0.5, 0.5], "std": [0.5]}},
            r"teacher.normalization has 2 means and 1 standard deviations, .* 1 channels",
        ),
        ("color", RESNET, r"teacher: .* sees images of 3 channels, but these images have 1"),
        ("flax", {"name": "tiny", "bgr": True}, r"teacher: .* no file of a PyTorch original"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence(files, tmp_path, file, network, says):
    with pytest.raises(UsageError, match=says) as error:
        Run(config(files[file][0], **network), tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_another_number_of_classes_is_refused(tmp_path):
    path = tmp_path / "tiny.npz"
    write_flax(path, classes=4)
    says = r"was trained with num_classes 4, but these images have 10: .* set init_head = False"
    with pytest.raises(UsageError, match=says):
        Run(config(path, name="tiny"), tmp_path / "run")


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"'no.pth' is no finished stage and no file: name an"):
        Run(config("no.pth", **RESNET), tmp_path / "run")


def test_options_of_files_are_refused_elsewhere(finished, tmp_path):
    folder = pathlib.Path(finished[0]) / "teacher"
    for values in (config(folder, bgr=False), changed({f"{HIGH}.bgr": False})):
        with pytest.raises(UsageError, match=r"is a stage, which knows the normalization of its"):
            Run(values, tmp_path / "run")
    low = "stages.student.networks.student"
    with pytest.raises(UsageError, match=r"with a file in init_from only; .* data.normalization"):
        experiment(changed({f"{low}.normalization": {"mean": [0.5], "std": [0.5]}}))
