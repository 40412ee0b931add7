"""Every config of the project runs, as short as it can be."""

import importlib.util
import pathlib

import numpy as np
import pytest
import small_faces
from ml_collections import ConfigDict

from kd_jax.config import experiment
from kd_jax.methods import Evolutionary, SoftTargets
from kd_jax.pipeline import Run

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
ARGUMENTS = {
    "quickstart.py": ["smoke"],
    "ekd/cifar10.py": [],  # what differs from CIFAR-100's is tested below
    "ekd/cifar100.py": ["smoke,teacher=vgg8,student=resnet8,own_augmentation=true"],
    "ekd/faces.py": [],
    "ekd/digits.py": ["smoke,fixed=true"],
    "ekd/tiny_imagenet.py": [],
    "kdim/casia.py": [],
    "kdim/lfw.py": [],  # tests/experiments/test_kdim_tables.py runs it
    "kdim/vggface2.py": [],
    "horkd/faces.py": ["smoke,teacher=resnet8,student=resnet8,dtype=float32"],
    "horkd/cifar100.py": [
        "smoke,teacher=resnet8,student=resnet8",
        "smoke,teacher=vgg8,student=vgg8,resolution=32,baselines=true",
    ],
}


def get_config(name, argument):
    spec = importlib.util.spec_from_file_location("config", CONFIGS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument), module.__doc__


def dictionaries(config):
    """Every dictionary of a config, by identity."""
    for value in config.values():
        if isinstance(value, ConfigDict):
            yield id(value)
            yield from dictionaries(value)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_setting_a_value_of_one_stage_leaves_the_others(name):
    config, _ = get_config(name, None)
    found = list(dictionaries(config))
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", ["quickstart.py", "horkd/cifar100.py"])
def test_kd_is_a_choice_of_method(name):
    config, _ = get_config(name, "method=soft_targets")
    spec = experiment(config.to_dict())
    assert all(type(spec.stages[s].method) is SoftTargets for s in ("assistant", "student"))


def test_none_is_forgotten():
    assert {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("name", "argument"), [(name, arg) for name, args in ARGUMENTS.items() for arg in args]
)
def test_a_smoke_run_goes_through_all_stages(name, argument, cifar100_folder, tmp_path):
    config, doc = get_config(name, argument)
    assert f"--config=configs/{name}" in doc
    config = config.to_dict()
    config["num_devices"] = 1
    if config["data"]["source"]["name"] == "tfds":
        config["data"]["source"]["data_dir"] = cifar100_folder
    if config["data"]["source"]["name"] == "face_folder":
        small_faces.write(tmp_path / "faces", scale=16)
        config["data"]["source"] |= {"path": str(tmp_path / "faces"), "size": None}
        config["data"] |= {"train_split": "train", "test_split": "test", "batch_size": 8}
    summary = Run(config, tmp_path).run()
    assert [stage["name"] for stage in summary["stages"]] == list(config["pipeline"])
    assert all(np.isfinite(stage["last"]["cross_entropy"]) for stage in summary["stages"])


def test_the_papers_networks_fit_each_other(cifar100_folder, tmp_path):
    """The first step of every stage is traced, not compiled."""
    config = get_config("horkd/cifar100.py", "smoke,baselines=true")[0].to_dict()
    config["num_devices"] = 1
    config["data"]["source"]["data_dir"] = cifar100_folder
    assert set(Run(config, tmp_path).plan.stages) == set(config["pipeline"])


def test_the_full_recipe_of_ekd_is_the_papers():
    config, _ = get_config("ekd/cifar100.py", None)
    assert (config.pipeline, config.seed, config.data.batch_size) == (("ekd",), 5, 64)
    stage = config.stages.ekd
    assert [stage.networks[role].name for role in ("teacher", "student")] == [
        "resnet50",
        "resnet18",
    ]
    assert stage.epochs == 200
    assert stage.optimizers.default.learning_rate == 0.1
    assert stage.optimizers.default.schedule.milestones == [75, 130, 180]
    assert stage.method.temperature == 4
    spec = experiment(config.to_dict())
    assert set(spec.stages["ekd"].trained) == {"teacher", "student"}
    assert spec.stages["ekd"].method == Evolutionary()


@pytest.mark.parametrize(
    ("name", "networks", "source", "padding"),
    [
        ("cifar10", ("vgg19", "vgg11"), "tfds", 4),
        ("tiny_imagenet", ("resnet34", "resnet18"), "tiny_imagenet", 8),
    ],
)
def test_other_images_take_the_same_recipe(name, networks, source, padding):
    argument = "teacher={},student={}".format(*networks)
    config, doc = get_config(f"ekd/{name}.py", argument)
    default, _ = get_config(f"ekd/{name}.py", None)
    assert f"--config=configs/ekd/{name}.py:{argument}" in doc
    assert config.to_dict() == default.to_dict()
    assert config.data.source.name == source
    assert config.data.augmentation.crop_padding == padding
    reference, _ = get_config("ekd/cifar100.py", argument)
    ours, theirs = (c.stages.ekd.to_dict() for c in (config, reference))
    for stage in (ours, theirs):
        for network in stage["networks"].values():
            del network["resolution"]
    assert ours == theirs


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "tiny_imagenet"])
def test_the_images_of_ekd_may_be_arrays(name):
    config, _ = get_config(f"ekd/{name}.py", "npz=own_{split}.npz")
    default, _ = get_config(f"ekd/{name}.py", None)
    assert config.data.source.to_dict() == {"name": "npz", "path": "own_{split}.npz"}
    config.data.source = default.data.source
    assert config.to_dict() == default.to_dict()


def test_ekd_takes_arrays_of_tiny_imagenets_size(tmp_path):
    random = np.random.default_rng(0)
    for split, number in (("train", 128), ("test", 64)):
        images = random.integers(0, 256, (number, 64, 64, 3), dtype=np.uint8)
        np.savez(tmp_path / f"tiny_{split}.npz", images=images, labels=np.arange(number) % 3)
    argument = f"smoke,dtype=float32,teacher=resnet8,student=resnet8,npz={tmp_path}/tiny_{{split}}"
    config, _ = get_config("ekd/tiny_imagenet.py", f"{argument}.npz")
    config.num_devices = 1
    plan = Run(config.to_dict(), tmp_path / "run").plan  # its first step is traced
    assert plan.stages["ekd"].views.roles["student"].size == (64, 64)
    assert (len(plan.train), len(plan.test)) == (128, 64)


@pytest.mark.parametrize(
    ("teacher", "student", "stem"),
    [("vgg19", "vgg11", True), ("vgg11", "shufflenet_v1", False), ("resnet50", "vgg8", False)],
)
def test_the_first_group_of_a_vgg_is_a_block_where_both_are_vggs(teacher, student, stem):
    config, _ = get_config("ekd/cifar100.py", f"teacher={teacher},student={student}")
    assert config.stages.ekd.method.stem is stem


def test_a_fixed_teacher_comes_first():
    config, _ = get_config("ekd/cifar100.py", "fixed=true,teacher_modules=0")
    assert config.pipeline == ("teacher", "ekd")
    method = experiment(config.to_dict()).stages["ekd"].method
    assert (method.evolving, method.teacher_modules, method.student_modules) == (False, 0, None)


def test_the_full_recipe_of_horkd_is_the_papers():
    config, _ = get_config("horkd/cifar100.py", None)
    assert config.pipeline == ("teacher", "assistant", "student")
    networks = {name: stage.networks.student for name, stage in config.stages.items()}
    assert [networks[n].name for n in config.pipeline] == ["resnet50", "resnet18", "resnet18"]
    assert [networks[n].resolution for n in config.pipeline] == [32, 32, 16]
    method = config.stages.student.method
    assert (method.pair_weight, method.triplet_weight, method.center_weight) == (0.02, 0.01, 1.0)
