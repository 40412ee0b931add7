"""Evaluators, metrics and sizes that do not fit are found when the plan is made."""

import pytest
from small_config import changed

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import Augmentation
from kd_jax.experiment.plan_checks import check_shapes, check_sizes, one_sentence
from kd_jax.experiment.run import Run
from kd_jax.experiment.specs import experiment

TOP = {"name": "classification", "top_k": [2]}
NEAR = {"name": "retrieval", "ks": [1]}


@pytest.mark.parametrize(
    ("best", "evaluators", "says"),
    [
        ("acuracy", {}, r"^stages\.teacher\.best = 'acuracy' is unknown: choose one of accuracy"),
        ("validation/accuracy", {}, "best = 'validation/accuracy' is unknown"),
        ("-top/top_3", {"top": TOP}, "best = 'top/top_3' is unknown: choose one of top/top_2"),
        (
            None,
            {"near": {**NEAR, "ks": [50]}},
            r"^stages\.teacher\.evaluators\.near: ks = \(50,\) is impossible",
        ),
        (
            None,
            {"top": {**TOP, "top_k": [11]}},
            r"^stages\.teacher\.evaluators\.top\.top_k must be 1",
        ),
        (
            None,
            {"top": {**TOP, "split": "validation"}},
            r"^stages\.teacher\.evaluators\.top\.split = 'validation' has no images: set data",
        ),
    ],
)
def test_evaluators_that_do_not_fit(tmp_path, best, evaluators, says):
    config = changed({"stages.teacher.best": best, "stages.teacher.evaluators": evaluators})
    with pytest.raises(UsageError, match=says):
        Run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_metrics_of_all_evaluators_choose_the_best_checkpoint(tmp_path):
    for best in ("-cross_entropy", "top/top_2", "near/recall_at_1"):
        evaluators = {"top": TOP, "near": NEAR}
        config = changed({"stages.teacher.best": best, "stages.teacher.evaluators": evaluators})
        Run(config | {"pipeline": ["teacher", "student"]}, tmp_path / best.replace("/", "_"))


def spec(**values):
    return experiment(changed({f"data.{key}": value for key, value in values.items()})).data


def test_a_batch_has_less_than_2_to_the_31_values():
    shape = (32, 32, 3)  # 3072 values
    check_sizes(spec(eval_batch_size=2**31 // 3072), shape)
    with pytest.raises(UsageError, match=r"^data\.eval_batch_size = 699051 gives batches of 2.15e"):
        check_sizes(spec(eval_batch_size=2**31 // 3072 + 1), shape)
    enlarged = {"crop_padding": 0, "resized_crop": 3200}
    with pytest.raises(UsageError, match=r"^data\.batch_size = 128 gives batches of 3.93e\+09"):
        check_sizes(spec(batch_size=128, augmentation=enlarged), shape)


def test_a_crop_is_padded_by_less_than_the_image():
    with pytest.raises(UsageError, match=r"crop_padding = 33 is more than .* such as 4\."):
        check_sizes(spec(augmentation={"crop_padding": 33}), (32, 32, 3))
    assert Augmentation(crop_padding=33)  # the class does not know the images


def test_a_crop_is_in_the_image():
    check_sizes(spec(augmentation={"crop": 32}), (32, 40, 3))
    with pytest.raises(UsageError, match=r"augmentation\.crop = 33 is impossible: choose 1 to 32"):
        check_sizes(spec(augmentation={"crop": 33}), (32, 40, 3))


def test_parts_of_a_batch_divide_the_images_of_a_device(tmp_path):
    says = r"^stages\.teacher\.accumulate = 16 does not divide the 8 images that each device has of"
    with pytest.raises(UsageError, match=says):
        Run(changed({"stages.teacher.accumulate": 16, "num_devices": 2}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_has_arrays_of_less_than_2_to_the_31_values():
    import jax
    import jax.numpy as jnp

    with pytest.raises(UsageError, match=r"^stages\.s has an array of 4.29e\+09 values"):
        check_shapes({"kernel": jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)}, "stages.s")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("two maps are needed"), "^key: two maps are needed$"),
        (ValueError("one\n two"), r"^key cannot be used \(ValueError: one two\): change it\.$"),
        (TypeError("no float"), r"^key cannot be used \(TypeError: no float\): change it\.$"),
        (UsageError("A sentence."), r"^A sentence\.$"),
    ],
)
def test_errors_are_one_sentence(error, says):
    with pytest.raises(UsageError, match=says), one_sentence("key", "change it"):
        raise error
