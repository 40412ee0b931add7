"""First weights: from earlier stages and from other runs, with another classifier, of adapters."""

import jax
import numpy as np
import pytest
from small_config import changed, numbers, student_config

import kd_jax
from kd_jax.core.errors import UsageError
from kd_jax.data import SOURCES
from kd_jax.experiment.run import Run
from kd_jax.pretrained.weights import load, read_adapters

STILL = {"default": {"name": "sgd", "learning_rate": 1e-30}}
"""Optimizers that change nothing."""


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_weights_come_from_another_run_too(finished, tmp_path):
    workdir, summary = finished
    config = student_config(workdir / "teacher")
    assert numbers(Run(config, tmp_path).run()) == numbers(summary)[1:]


def test_a_teacher_may_get_other_options(finished, tmp_path):
    workdir, _ = finished
    config = student_config(workdir / "teacher")
    config["stages"]["student"]["networks"]["teacher"]["options"] = {"dtype": "bfloat16"}
    roles = Run(config, tmp_path).plan.roles
    info = roles.info("student", "teacher")
    assert (info.name, info.options) == ("tiny", {"width": 2.0, "dtype": "bfloat16"})
    stored = roles.weights("student", "teacher").info
    assert (info.mean, info.std, info.size) == (stored.mean, stored.std, (8, 8))


def test_weights_must_have_seen_the_same_filter(finished, tmp_path):
    config = student_config(finished[0] / "teacher")
    config["data"]["filter"] = "box"
    with pytest.raises(UsageError, match=r"was trained with filter 'bicubic', .* have 'box'"):
        Run(config, tmp_path / "run")


@pytest.fixture(scope="module")
def three_digits(tmp_path_factory):
    """A config of one stage on the digits 0 to 2, and the folder of their files."""
    folder = tmp_path_factory.mktemp("three")
    for split, size in (("train", 100), ("test", 60)):
        images = SOURCES.get("digits")().load(f"{split}[:{size}]")
        rows = images.labels < 3
        path = folder / f"{split}.npz"
        np.savez(path, images=images.images[rows], labels=images.labels[rows])

    def config(path):
        source = {"name": "npz", "path": f"{folder}/{{split}}.npz"}
        network = {"init_from": str(path), "options": {}}
        values = changed(
            {
                "data.source": source,
                "data.train_split": "train",
                "data.test_split": "test",
                "stages.student": ...,
                "stages.teacher.networks.student": network,
                "stages.teacher.optimizers": STILL,
                "stages.teacher.epochs": 0.1,
            }
        )
        return values, network

    return config


def test_another_number_of_classes_needs_a_new_head(finished, three_digits, tmp_path):
    config, network = three_digits(finished[0] / "teacher")
    says = r"trained with num_classes 10, but these images have 3: .*, or set init_head = False"
    with pytest.raises(UsageError, match=says):
        Run(config, tmp_path / "run")
    network["init_head"] = False
    (stage,) = kd_jax.run(config, tmp_path / "run")["stages"]
    assert stage["network"] == "tiny"
    ours, theirs = load(tmp_path / "run" / "teacher"), load(finished[0] / "teacher")
    assert (ours.info.num_classes, theirs.info.num_classes) == (3, 10)
    assert ours.info.mean == theirs.info.mean
    params, old = dict(ours.variables["params"]), dict(theirs.variables["params"])
    assert params.pop("classifier")["kernel"].shape == (32, 3)
    assert old.pop("classifier")["kernel"].shape == (32, 10)
    equal(params, old)


def test_only_the_head_may_differ(finished, three_digits, tmp_path):
    config, network = three_digits(finished[0] / "student")
    network |= {"init_head": False, "options": {"width": 2.0}}
    with pytest.raises(UsageError, match="differs from this network in more than the classifier"):
        kd_jax.run(config, tmp_path / "run")


def test_adapters_of_an_earlier_stage(finished, tmp_path):
    workdir, _ = finished
    config = student_config(workdir / "teacher")
    stage = config["stages"]["student"]
    stage |= {"adapters_from": str(workdir / "student"), "optimizers": STILL, "epochs": 0.1}
    kd_jax.run(config, tmp_path)
    whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    adapters = [read_adapters(w / "student", "key", whole) for w in (tmp_path, workdir)]
    assert set(adapters[0]) == {"map"}
    equal(*adapters)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adapters_from": "/nowhere"}, "adapters_from = '/nowhere' is no finished stage"),
        ({"adapters_from": "teacher"}, "adapters_from = .*teacher' has no adapters: leave it out"),
        (
            {"adapters_from": "student", "networks": {"student": {"options": {"width": 0.5}}}},
            "adapter 'map' has other shapes than this stage needs",
        ),
    ],
)
def test_adapters_that_do_not_fit(finished, tmp_path, changes, says):
    workdir, _ = finished
    config = student_config(workdir / "teacher")
    stage = config["stages"]["student"]
    source = changes["adapters_from"]
    stage["adapters_from"] = source if source == "/nowhere" else str(workdir / source)
    stage["networks"]["student"] |= changes.get("networks", {}).get("student", {})
    with pytest.raises(UsageError, match=says):
        kd_jax.run(config, tmp_path / "run")
