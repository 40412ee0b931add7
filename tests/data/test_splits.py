import dataclasses

import numpy as np
import pytest
from small_sets import save

from kd_jax.core.errors import UsageError
from kd_jax.data import (
    ImageSet,
    Source,
    StoredImages,
    class_fraction,
    has_new_classes,
    hold_out,
    load_splits,
)
from kd_jax.data.sources.folder import Folder


@dataclasses.dataclass
class Memory(Source):
    """Sets by split."""

    sets: dict

    def load(self, split):
        return self.sets[split]


def gray(size, labels, num_classes=2):
    images = np.zeros((len(labels), *size, 1), np.uint8)
    return ImageSet(images, np.array(labels, np.int32), num_classes)


def test_splits_must_belong_together():
    train = gray((3, 3), [0, 1, 0, 1])
    fewer, test = load_splits(
        Memory({"train": train, "test": gray((3, 3), [0], 1)}), "train", "test"
    )
    assert fewer is train
    assert test.num_classes == 2
    for test, says in (
        (gray((5, 5), [0, 1]), r"\(3, 3, 1\).*\(5, 5, 1\)"),
        (gray((3, 3), [2, 1], 3), r"set data.source.num_classes"),
        (gray((3, 3), []), "split 'test' is empty"),
    ):
        with pytest.raises(UsageError, match=says):
            load_splits(Memory({"train": train, "test": test}), "train", "test")


def test_test_images_may_have_other_classes():
    train, test = gray((3, 3), [0, 1, 0, 1]), gray((3, 3), [3, 2, 3], 4)
    sets = load_splits(Memory({"train": train, "test": test}), "train", "test")
    assert sets == (train, test)
    assert has_new_classes(test, train)
    assert not has_new_classes(train, train)


def test_there_may_be_no_test_images():
    train = gray((3, 3), [0, 1, 0, 1])
    assert load_splits(Memory({"train": train}), "train", None) == (train, None)
    with pytest.raises(UsageError, match="split 'train' is empty"):
        load_splits(Memory({"train": gray((3, 3), [])}), "train", None)


def numbered(labels, num_classes=None):
    """Images that hold their own number."""
    labels = np.asarray(labels, np.int32)
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2, 1)
    return ImageSet(images, labels, num_classes or labels.max() + 1)


def numbers(images):
    return np.ascontiguousarray(images.images).reshape(-1, 4).view(np.uint32)[:, 0]


def part_of(function, images, fraction, seed):
    """The images that the fraction chooses."""
    chosen = function(images, fraction, seed)
    return chosen if function is class_fraction else chosen[1]


both = pytest.mark.parametrize("function", [class_fraction, hold_out])


@both
def test_every_class_has_the_same_fraction_in_the_stored_order(function):
    whole = numbered(np.random.default_rng(0).permutation(np.repeat(np.arange(7), 20)))
    part = part_of(function, whole, 0.25, 0)
    np.testing.assert_array_equal(np.bincount(part.labels), 5)
    rows = numbers(part)
    assert np.all(np.diff(rows) > 0)
    np.testing.assert_array_equal(part.labels, whole.labels[rows])
    assert part.num_classes == 7


@both
def test_smaller_fractions_are_parts_of_larger_ones(function):
    whole = numbered(np.random.default_rng(1).integers(0, 9, 500))
    sizes = np.bincount(whole.labels)
    before = set()
    for fraction in (1e-9, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.999):
        part = part_of(function, whole, fraction, 3)
        assert before <= set(numbers(part))
        before = set(numbers(part))
        expected = np.maximum(1, np.round(fraction * sizes))
        if function is hold_out:
            expected = np.minimum(expected, sizes - 1)
        np.testing.assert_array_equal(np.bincount(part.labels), expected)


@both
def test_the_choice_has_the_lowest_words_of_philox_in_all_versions(function):
    whole = numbered(np.arange(40) % 4)
    seeds = (0, 1, 2**64 - 1)
    chosen = {seed: numbers(part_of(function, whole, 0.2, seed)).tolist() for seed in seeds}
    assert len({tuple(rows) for rows in chosen.values()}) == 3
    expected = {
        class_fraction: [2, 7, 12, 17, 25, 27, 32, 34],
        hold_out: [0, 11, 16, 21, 22, 23, 29, 38],
    }
    assert chosen[0] == expected[function]
    stream = {class_fraction: 2**63, hold_out: 2**63 + 2}[function]
    words = np.random.Philox(key=np.array([0, stream], np.uint64)).random_raw(40)
    lowest = [sorted(range(label, 40, 4), key=lambda i: words[i])[:2] for label in range(4)]
    assert chosen[0] == sorted(np.ravel(lowest).tolist())


@both
def test_all_images_are_equally_likely(function):
    whole = numbered(np.zeros(20))
    counts = np.zeros(20)
    for seed in range(400):
        counts[numbers(part_of(function, whole, 0.25, seed))] += 1
    # 100 expected, with a standard deviation of 8.7
    assert 65 < counts.min() <= counts.max() < 135


def test_the_whole_fraction_is_the_set_itself():
    whole = numbered([0, 1, 1])
    assert class_fraction(whole, 1.0, 0) is whole


def test_rare_and_absent_classes():
    whole = numbered([4, 1, 1, 1, 1, 1, 1, 1, 1, 7, 7], num_classes=9)
    part = class_fraction(whole, 0.25, 0)
    assert np.bincount(part.labels, minlength=9).tolist() == [0, 2, 0, 0, 1, 0, 0, 1, 0]
    assert part.num_classes == 9
    for fraction, large in ((0.01, 1), (0.25, 2), (0.99, 7)):
        kept, held_out = hold_out(whole, fraction, 0)
        assert np.bincount(held_out.labels, minlength=9).tolist() == [0, large, *[0] * 5, 1, 0]
        assert np.bincount(kept.labels, minlength=9).tolist() == [0, 8 - large, 0, 0, 1, 0, 0, 1, 0]
        assert kept.num_classes == held_out.num_classes == 9


def test_kept_and_held_out_images_are_disjoint_and_complete():
    whole = numbered(np.random.default_rng(2).integers(0, 5, 200))
    kept, held_out = hold_out(whole, 0.3, 7)
    assert sorted([*numbers(kept), *numbers(held_out)]) == list(range(200))
    assert np.all(np.diff(numbers(kept)) > 0)
    np.testing.assert_array_equal(kept.labels, whole.labels[numbers(kept)])
    kept, held_out = hold_out(whole, 0, 7)
    assert (len(kept), len(held_out)) == (200, 0)


def test_both_combine_with_one_seed():
    whole = numbered(np.arange(2000) % 10)
    kept, held_out = hold_out(whole, 0.5, 4)
    overlap = {*numbers(held_out)} & {*numbers(class_fraction(whole, 0.5, 4))}
    assert 430 < len(overlap) < 570  # 500 expected, with a standard deviation of 11
    small, large = (set(numbers(class_fraction(kept, f, 4))) for f in (0.1, 0.4))
    assert small < large < set(numbers(kept))
    assert not large & set(numbers(held_out))


@pytest.mark.parametrize("fraction", [1.0, -0.1, float("nan")])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(UsageError, match=f"fraction = {fraction} is impossible: choose 0 or more"):
        hold_out(numbered([0, 0, 1, 1]), fraction, 0)


def test_classes_of_one_image_cannot_be_held_out():
    with pytest.raises(UsageError, match="no class has two images"):
        hold_out(numbered([0, 1, 2]), 0.5, 0)


def test_parts_are_the_same_stored_and_in_memory(tmp_path):
    for i in range(12):
        save(tmp_path / "train" / f"{i % 3}" / f"{i:02}.png", i)
    stored = Folder(str(tmp_path)).open("train")
    memory = stored.in_memory()
    parts = [class_fraction(stored, 0.5, 3), *hold_out(stored, 0.25, 3)]
    expected = [class_fraction(memory, 0.5, 3), *hold_out(memory, 0.25, 3)]
    for part, same, number in zip(parts, expected, (2, 3, 1), strict=True):
        assert isinstance(part, StoredImages)
        assert isinstance(same, ImageSet)
        assert part.in_memory().fingerprint() == same.fingerprint()
        assert np.bincount(part.labels).tolist() == [number] * 3
