import numpy as np
import pytest
import small_config

from kd_jax.config import experiment
from kd_jax.data import ImageSet, class_fraction
from kd_jax.data.sources import Digits
from kd_jax.errors import UsageError
from kd_jax.pipeline import Run


def numbered(labels, num_classes=None):
    """Images that hold their own number."""
    labels = np.asarray(labels, np.int32)
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2, 1)
    return ImageSet(images, labels, num_classes or labels.max() + 1)


def numbers(images):
    return np.ascontiguousarray(images.images).reshape(-1, 4).view(np.uint32)[:, 0]


def test_every_class_keeps_the_same_share_in_the_stored_order():
    whole = numbered(np.random.default_rng(0).permutation(np.repeat(np.arange(7), 20)))
    part = class_fraction(whole, 0.25, 0)
    np.testing.assert_array_equal(np.bincount(part.labels), 5)
    kept = numbers(part)
    assert np.all(np.diff(kept) > 0)
    np.testing.assert_array_equal(part.labels, whole.labels[kept])
    assert part.num_classes == 7


def test_smaller_shares_lie_within_larger_ones():
    whole = numbered(np.random.default_rng(1).integers(0, 9, 500))
    sizes = np.bincount(whole.labels)
    before = set()
    for fraction in (1e-9, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.99, 1.0):
        part = class_fraction(whole, fraction, 3)
        assert before <= set(numbers(part))
        before = set(numbers(part))
        expected = np.maximum(1, np.round(fraction * sizes))
        np.testing.assert_array_equal(np.bincount(part.labels), expected)
    assert len(before) == 500


def test_the_whole_set_stays_itself():
    whole = numbered([0, 1, 1])
    assert class_fraction(whole, 1.0, 0) is whole


def test_rare_and_absent_classes():
    part = class_fraction(numbered([4, 1, 1, 1, 1, 1, 1, 1, 1], num_classes=9), 0.25, 0)
    assert np.bincount(part.labels, minlength=9).tolist() == [0, 2, 0, 0, 1, 0, 0, 0, 0]
    assert part.num_classes == 9


def test_the_choice_is_the_seeds_and_the_same_for_ever():
    whole = numbered(np.arange(40) % 4)
    seeds = (0, 1, 2**64 - 1)
    kept = {seed: numbers(class_fraction(whole, 0.2, seed)).tolist() for seed in seeds}
    assert len({tuple(rows) for rows in kept.values()}) == 3
    assert kept[0] == numbers(class_fraction(whole, 0.2, 0)).tolist()
    assert kept[0] == [2, 7, 12, 17, 25, 27, 32, 34]


def test_the_choice_is_even():
    whole = numbered(np.zeros(20))
    counts = np.zeros(20)
    for seed in range(400):
        counts[numbers(class_fraction(whole, 0.25, seed))] += 1
    # 100 expected, with a standard deviation of 8.7
    assert 65 < counts.min() <= counts.max() < 135


def config(**data):
    values = small_config.get_config().to_dict()
    del values["stages"]["student"]
    return values | {"pipeline": ("teacher",), "data": values["data"] | data}


def test_a_run_uses_it_and_knows_that_it_did(tmp_path):
    quarter = {"train_fraction": 0.25, "train_split": "train[:400]"}
    run = Run(config(**quarter), tmp_path)
    part = class_fraction(Digits().load("train[:400]"), 0.25, 0)
    assert run.plan.train.fingerprint() == part.fingerprint()
    assert run.plan.order.num_examples == len(part)
    assert len(run.plan.test) == 50
    with pytest.raises(UsageError, match=r"data.train_fraction was 0.25, is 0.5"):
        Run(config(**quarter | {"train_fraction": 0.5}), tmp_path)
    with pytest.raises(UsageError, match=r"data.train_fraction was 0.25, is 'absent'"):
        Run(config(train_split="train[:400]"), tmp_path)
    with pytest.raises(UsageError, match=r"data.subset_seed was 'absent', is 1"):
        Run(config(**quarter, subset_seed=1), tmp_path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"train_fraction": 0.0}, "data: train_fraction must be greater than 0 and at most 1"),
        ({"train_fraction": 25}, "data: train_fraction must be greater than 0 and at most 1"),
        ({"train_fraction": float("nan")}, "data: train_fraction must be greater than 0"),
        ({"train_fraction": "25%"}, "data.train_fraction = '25%' must be float"),
        ({"subset_seed": -1}, "data: subset_seed must be 0 or more"),
        ({"subset_seed": 2**64}, "data: subset_seed must be 0 or more, and less than 2"),
    ],
)
def test_what_is_no_share_is_refused(data, says):
    with pytest.raises(UsageError, match=says):
        experiment(config(**data))
    assert experiment(config(train_fraction=1)).data.subset_seed == 0
