"""The keys of `config.data`: sources, fractions, filters and degradation."""

import pytest
import small_config

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit, class_fraction
from kd_jax.data.sources.cars196 import Cars196
from kd_jax.data.sources.class_folders import ClassFolders
from kd_jax.data.sources.cub200 import Cub200
from kd_jax.data.sources.digits import Digits
from kd_jax.data.sources.face_folder import FaceFolder
from kd_jax.data.sources.face_records import FaceRecords
from kd_jax.data.sources.folder import Folder
from kd_jax.data.sources.stanford_online_products import StanfordOnlineProducts
from kd_jax.data.sources.tiny_imagenet import TinyImageNet
from kd_jax.experiment.keys import override
from kd_jax.experiment.run import Run
from kd_jax.experiment.specs import Experiment, experiment


def config(**data):
    values = small_config.get_config().to_dict()
    del values["stages"]["student"]
    return values | {"data": values["data"] | data}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("folder", Folder),
        ("tiny_imagenet", TinyImageNet),
        ("cub200", Cub200),
        ("cars196", Cars196),
        ("stanford_online_products", StanfordOnlineProducts),
    ],
)
def test_sources_of_image_files(name, kind):
    assert experiment(config(source={"name": name, "path": "p"})).data.source == kind("p")
    fit = {"size": [224, 224], "mode": "stretch"}
    source = experiment(config(source={"name": name, "path": "p", "fit": fit})).data.source
    assert source == kind("p", Fit((224, 224), "stretch"))
    with pytest.raises(UsageError, match=r"data\.source\.path is missing"):
        experiment(config(source={"name": name}))


@pytest.mark.parametrize(
    ("name", "kind"), [("face_folder", FaceFolder), ("face_records", FaceRecords)]
)
def test_sources_of_faces(name, kind):
    source = {"name": name, "path": "faces", "min_images": 5, "size": [112, 96]}
    expected = kind("faces", min_images=5, size=(112, 96))
    assert experiment(config(source=source)).data.source == expected
    for changes, says in (
        ({"test_images": 5}, r"data\.source: test_images 5 must be 0 or more, and less than"),
        ({"include": 3}, r"data\.source\.include = 3 must be"),
    ):
        with pytest.raises(UsageError, match=says):
            experiment(config(source=source | changes))


def test_a_size_and_a_class_split_can_be_set_on_the_command_line():
    keys = {"name": "class_folders", "path": "p", "train_classes": "50", "fit.size": "96,128"}
    assignments = {f"data.source.{key}": text for key, text in keys.items()}
    values = override(Experiment, config(), assignments | {"data.images_per_class": "4"})
    data = experiment(values).data
    assert data.source == ClassFolders("p", Fit((96, 128)), train_classes=50)
    assert data.images_per_class == 4


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"train_fraction": 0.0}, "data: train_fraction must be greater than 0 and at most 1"),
        ({"train_fraction": 25}, "data: train_fraction must be greater than 0 and at most 1"),
        ({"train_fraction": float("nan")}, "data.train_fraction = nan must be a finite number"),
        ({"train_fraction": "25%"}, "data.train_fraction = '25%' must be float"),
        ({"images_per_class": -1}, "data: images_per_class must be 0 or more, not -1"),
        ({"subset_seed": -1}, "data: subset_seed must be"),
        ({"subset_seed": 2**64}, "data.subset_seed = 18446744073709551616 must be"),
        ({"filter": "cubic"}, "data: filter = 'cubic' is unknown: choose one of bicubic"),
        ({"augmentation": {"mixup": -1.0}}, "data.augmentation: mixup must be 0 to 1000"),
    ],
)
def test_impossible_values_are_named_with_their_keys(data, says):
    with pytest.raises(UsageError, match=says):
        experiment(config(**data))


def test_a_run_uses_the_fraction_and_refuses_another(tmp_path):
    quarter = {"train_fraction": 0.25, "train_split": "train[:400]"}
    run = Run(config(**quarter), tmp_path)
    part = class_fraction(Digits().load("train[:400]"), 0.25, 0)
    assert run.plan.images["train"].fingerprint() == part.fingerprint()
    assert run.plan.order.num_examples == len(part)
    assert len(run.plan.images["test"]) == 50
    for changed, says in (
        (quarter | {"train_fraction": 0.5}, r"data.train_fraction was 0.25, is 0.5"),
        (quarter | {"subset_seed": 1}, r"data.subset_seed was .*0.*, is 1"),
    ):
        with pytest.raises(UsageError, match=says):
            Run(config(**changed), tmp_path)
