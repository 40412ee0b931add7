"""The configs of the project: all are checked, most are traced in full size, some are run."""

import ast
import dataclasses
import pathlib
import shlex
import shutil

import numpy as np
import pytest
import small_config
import small_faces
import small_stage
from ml_collections import ConfigDict

from kd_jax import data, models
from kd_jax.commands import main
from kd_jax.data.preprocessing import Augmentation
from kd_jax.experiment.config_files import load_config, packaged_configs
from kd_jax.experiment.run import Run
from kd_jax.experiment.specs import experiment
from kd_jax.methods import EKD, HORKD, KD, KDim

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NAMES = packaged_configs()


@models.register("narrow")
def narrow(width=1.0, head="linear", **options):
    """Returns a small network that accepts the options of all configs."""
    del width, head
    return small_stage.Tiny(**options)


@data.register("noise")
@dataclasses.dataclass(frozen=True)
class Noise(data.Source):
    """Random images of any size."""

    height: int
    width: int

    def load(self, split):
        shape = (8, self.height, self.width, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return data.ImageSet(images, np.arange(8, dtype=np.int32) % 5, 5)


def commands(name):
    """Returns the words of the `kd-jax train` commands in the docstring of a config."""
    doc = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text())).replace("\\\n", " ")
    lines = [line.split() for line in doc.splitlines()]
    return [shlex.split(" ".join(words[1:])) for words in lines if words[:2] == ["kd-jax", "train"]]


def test_all_configs_are_found():
    assert {f"{name}.py" for name in NAMES} == {
        path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py")
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_the_docstring_are_valid_experiments(name, capsys):
    assert commands(name)
    for words in commands(name):
        assert any(word.split(":")[0] == f"--config={name}" for word in words)
        assert any(word.startswith("--workdir=") for word in words)
        assert main([*words, "--print_config"]) == 0
        assert "data.batch_size = " in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_the_folder_is_the_same_config(name, tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    copied = load_config(str(tmp_path / "configs" / f"{name}.py"))
    assert copied.to_dict() == load_config(name).to_dict()


def dictionaries(config):
    """Yields the identity of every dictionary of a config."""
    for value in config.values():
        if isinstance(value, ConfigDict):
            yield id(value)
            yield from dictionaries(value)


@pytest.mark.parametrize("name", NAMES)
def test_a_change_of_one_stage_changes_no_other(name):
    found = list(dictionaries(load_config(name)))
    assert len(found) == len(set(found))


# ----------------------------------------------------------------------------------- networks


# Stages of KDim with the networks and the outputs of another stage.
AS_OTHERS = {"l2", "alone_lr", "alone_hr"}


@pytest.mark.parametrize(
    ("reference", "size"),
    [
        pytest.param("horkd/cifar100", (32, 32), marks=pytest.mark.long),
        ("horkd/faces", (112, 112)),
        ("ekd/cifar10", (32, 32)),
        pytest.param("ekd/faces", (112, 112), marks=pytest.mark.long),
        ("kdim/casia:baselines=true", (112, 96)),
    ],
)
def test_the_networks_of_full_size_fit_their_methods(reference, size, tmp_path):
    """Traces the first step of every stage; nothing is compiled."""
    config = load_config(reference).to_dict()
    for name in AS_OTHERS.intersection(config["stages"]):
        del config["stages"][name]
    config["pipeline"] = [name for name in config["pipeline"] if name in config["stages"]]
    height, width = size
    config["data"] |= {
        "source": {"name": "noise", "height": height, "width": width},
        "stream": False,
        "batch_size": 8,
    }
    config["num_devices"] = 1
    plan = Run(config, tmp_path).plan
    assert plan.order.steps_per_epoch == 1
    assert set(plan.stages) == set(config["stages"])


# -------------------------------------------------------------------------------- smoke runs


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Compiles equal programs of several runs once."""
    with small_config.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    "reference",
    [
        "quickstart:smoke",
        pytest.param(
            "ekd/digits:smoke,fixed=true,student=narrow,teacher=narrow", marks=pytest.mark.long
        ),
        "kdim/vggface2:smoke,student=narrow,teacher=narrow,resolution=14,loss=cross_entropy",
    ],
)
def test_a_smoke_run_goes_through_all_stages(reference, tmp_path):
    config = load_config(reference).to_dict()
    config["num_devices"] = 1
    if config["data"]["source"]["name"] == "digits":
        config["data"] |= {"train_split": "train[:128]", "test_split": "test[:72]"}
        config["data"]["eval_batch_size"] = 36
    if reference.startswith("quickstart"):
        for stage in config["stages"].values():
            stage["networks"]["student"]["name"] = "narrow"
    if config["data"]["source"]["name"] == "face_folder":
        small_faces.write(tmp_path / "faces", scale=4)
        config["data"]["source"] |= {"path": str(tmp_path / "faces"), "size": None}
        config["stages"]["kdim"]["networks"]["student"]["degradation"]["sizes"] = (8, 12)
    summary = Run(config, tmp_path / "run").run()
    assert [stage["name"] for stage in summary["stages"]] == list(config["pipeline"])
    assert all(np.isfinite(stage["last"]["cross_entropy"]) for stage in summary["stages"])


# ---------------------------------------------------------------------------------- recipes


def spec_of(reference):
    return experiment(load_config(reference).to_dict())


def test_the_recipe_of_horkd_is_the_papers():
    spec = spec_of("horkd/cifar100")
    assert spec.pipeline == ("teacher", "assistant", "student")
    students = [spec.stages[name].networks["student"] for name in spec.pipeline]
    assert [x.name for x in students] == ["resnet50", "resnet18", "resnet18"]
    assert [x.resolution for x in students] == [32, 32, 16]
    assert spec.stages["student"].method == HORKD(feature_weight=0.0)
    assert spec_of("horkd/cifar100:l1=1").stages["student"].method == HORKD()


def test_the_recipe_of_ekd_is_the_papers():
    spec = spec_of("ekd/cifar100")
    assert (spec.pipeline, spec.seed, spec.data.batch_size) == (("ekd",), 5, 64)
    stage = spec.stages["ekd"]
    names = [stage.networks[role].name for role in ("teacher", "student")]
    assert names == ["resnet50", "resnet18"]
    assert stage.epochs == 200
    optimizer = stage.optimizers["default"]
    assert (optimizer.learning_rate, optimizer.momentum) == (0.1, 0.9)
    assert optimizer.schedule.milestones == (75, 130, 180)
    assert stage.trained == ("student", "teacher")
    assert stage.method == EKD()


def test_the_recipe_of_kdim_is_the_papers():
    spec = spec_of("kdim/casia:baselines=true")
    assert (spec.data.batch_size, spec.stages["kdim"].epochs) == (512, 20)
    degraded = {
        name: [role for role, network in stage.networks.items() if network.degradation]
        for name, stage in spec.stages.items()
    }
    assert degraded == {
        "teacher": [],
        "kdim": ["student"],
        "l2": ["student"],
        "teacher_lr": ["student"],
        "kd": ["student", "teacher"],
        "alone_lr": ["student"],
        "alone_hr": [],
    }
    assert spec.stages["kdim"].networks["student"].degradation == data.preprocessing.Degradation()
    assert spec.stages["kdim"].method == KDim()
    assert spec.stages["l2"].method == KDim(features="l2")
    assert spec.stages["teacher_lr"].method.options == {"start": 5.0}  # the complete margin
    teacher = spec.stages["teacher"].networks["student"]
    assert teacher.name == "sphereface64_paper"  # Table 1: 3, 8, 16 and 3 units


def test_the_other_readings_of_kdim_are_arguments():
    reference = "kdim/casia:baselines=true,fixed=true,soft_labels=mk_mmd,down=none"
    stages = spec_of(reference).stages
    degradation = data.preprocessing.Degradation(fixed_seed=0, down="none")
    for name in ("kdim", "l2", "teacher_lr", "kd", "alone_lr"):
        assert stages[name].networks["student"].degradation == degradation
    assert stages["kdim"].method == KDim(soft_labels="mk_mmd")
    assert stages["l2"].method == KDim(features="l2")


def test_the_closed_set_of_uccs_is_that_of_the_papers():
    """HORKD, section 4.2: 180 persons, their images divided by about 4:1, top-K error."""
    spec = spec_of("uccs")
    source = spec.data.source
    assert (source.identities, source.test_fraction) == (180, 0.2)
    stage = spec.stages["finetuned"]
    assert stage.networks["student"].init_head is False
    assert stage.evaluators["test"].top_k == (5,)


@pytest.mark.parametrize("reference", ["quickstart:method=kd", "horkd/cifar100:method=kd"])
def test_kd_is_a_choice_of_method(reference):
    stages = spec_of(reference).stages
    assert {type(stages[name].method) for name in ("assistant", "student")} == {KD}


@pytest.mark.parametrize(
    ("reference", "source", "padding"),
    [("ekd/cifar10", "tfds", 4), ("ekd/tiny_imagenet", "tiny_imagenet", 8)],
)
def test_other_images_have_the_same_recipe(reference, source, padding):
    config = load_config(reference)
    assert config.data.source.name == source
    assert config.data.augmentation.crop_padding == padding
    networks = {role: network.name for role, network in config.stages.ekd.networks.items()}
    argument = ",".join(f"{role}={name}" for role, name in networks.items())
    ours, theirs = (
        c.stages.ekd.to_dict() for c in (config, load_config(f"ekd/cifar100:{argument}"))
    )
    for stage in (ours, theirs):
        for network in stage["networks"].values():
            del network["resolution"]
    assert ours == theirs


def test_images_may_be_prepared_as_those_of_imagenet():
    config = load_config("ekd/tiny_imagenet:imagenet=true,baselines=true")
    config.data.source.path = "tiny-imagenet-200"
    spec = experiment(config.to_dict())
    assert spec.data.augmentation == Augmentation(resized_crop=224, flip=True)
    assert spec.data.filter == "bilinear"
    networks = [x for stage in spec.stages.values() for x in stage.networks.values()]
    assert {x.resolution for x in networks if x.init_from is None} == {224}
    assert {x.options["stem"] for x in networks if x.init_from is None} == {"imagenet"}


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "tiny_imagenet"])
def test_the_images_of_ekd_may_be_arrays(name):
    config = load_config(f"ekd/{name}:npz=own_{{split}}.npz")
    default = load_config(f"ekd/{name}")
    assert config.data.source.to_dict() == {"name": "npz", "path": "own_{split}.npz"}
    config.data.source = default.data.source
    assert config.to_dict() == default.to_dict()


@pytest.mark.parametrize(
    ("teacher", "student", "stem"),
    [("vgg19", "vgg11", True), ("vgg11", "shufflenet_v1", False), ("resnet50", "vgg8", False)],
)
def test_the_first_group_of_a_vgg_is_a_block_if_both_are_vggs(teacher, student, stem):
    spec = spec_of(f"ekd/cifar100:teacher={teacher},student={student}")
    assert spec.stages["ekd"].method.stem is stem


def test_a_fixed_teacher_comes_first():
    spec = spec_of("ekd/cifar100:fixed=true,teacher_modules=0")
    assert spec.pipeline == ("teacher", "ekd")
    assert spec.stages["ekd"].method == EKD(evolving=False, teacher_modules=0)
