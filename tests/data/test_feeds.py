import dataclasses

import jax
import numpy as np
import pytest

from kd_jax.data import BatchOrder, ImageSet, Resident, Streamed, batch_of
from kd_jax.data.images import StoredImages
from kd_jax.devices import data_mesh

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 4, 5, 3), dtype=np.uint8)
LABELS = (np.arange(23) % 7).astype(np.int32)
ORDER = BatchOrder(seed=3, num_examples=23, batch_size=8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored(StoredImages):
    """Images whose files are their pixels."""

    def _pixels(self, index):
        return IMAGES[self.keys[index]]


STORED = Stored(keys=np.arange(23), labels=LABELS, num_classes=7)


def resident(devices=1):
    return Resident(ImageSet(IMAGES, LABELS, 7), data_mesh(devices))


@pytest.fixture
def streamed():
    feed = Streamed(STORED, data_mesh(1))
    yield feed
    feed.close()


def batches(feed, rows):
    """What a compiled step makes of the rows of some steps."""
    return [
        {name: np.asarray(array) for name, array in batch_of(feed.images, one).items()}
        for one in (
            {name: array[i] for name, array in rows.items()} for i in range(len(rows["index"]))
        )
    ]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("start", [0, 1, 5])
def test_both_bring_the_images_of_the_order(streamed, start):
    feed = resident()
    expected = [
        {"index": ORDER(i), "image": IMAGES[ORDER(i)], "label": LABELS[ORDER(i)]}
        for i in range(start, start + 3)
    ]
    assert_same(batches(feed, feed.steps(ORDER, start, 3)), expected)
    assert_same(batches(streamed, streamed.steps(ORDER, start, 3)), expected)


def test_a_stream_goes_on_and_begins_anywhere_anew(streamed):
    steps = [
        streamed.steps(ORDER, start, count) for start, count in ((0, 1), (1, 2), (0, 1), (4, 1))
    ]
    feed = resident()
    expected = [feed.steps(ORDER, *part)["index"] for part in ((0, 1), (1, 2), (0, 1), (4, 1))]
    for found, index in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(found["index"], index)
        np.testing.assert_array_equal(found["image"], IMAGES[index])


def test_another_order_is_another_stream(streamed):
    streamed.steps(ORDER, 0, 1)
    other = dataclasses.replace(ORDER, seed=4)
    np.testing.assert_array_equal(streamed.steps(other, 1, 1)["index"][0], other(1))


def test_one_pass_has_every_image_once(streamed):
    for feed in (resident(), streamed):
        seen = []
        for rows in feed.batches(10):
            batch = batch_of(feed.images, rows)
            np.testing.assert_array_equal(batch["image"], IMAGES[rows["index"]])
            np.testing.assert_array_equal(batch["label"], LABELS[rows["index"]])
            seen += rows["index"][rows["where"]].tolist()
        assert seen == list(range(23))
    assert len(streamed) == len(resident()) == 23


def test_a_call_holds_no_more_steps_than_memory_allows(monkeypatch, streamed):
    assert resident().most_steps(ORDER) > 1_000_000
    monkeypatch.setattr("kd_jax.data.feeds._READ_AHEAD", 5 * 8 * 60)
    assert streamed.most_steps(ORDER) == 5
    monkeypatch.setattr("kd_jax.data.feeds._READ_AHEAD", 1)
    assert streamed.most_steps(ORDER) == 1
    np.testing.assert_array_equal(streamed.steps(ORDER, 0, 1)["index"][0], ORDER(0))


def test_a_damaged_image_is_an_error_where_it_is_used():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Damaged(Stored):
        def _pixels(self, index):
            if index == 11:
                raise OSError("image 11 is damaged")
            return super()._pixels(index)

    feed = Streamed(Damaged(keys=np.arange(23), labels=LABELS, num_classes=7), data_mesh(1))
    with pytest.raises(OSError, match="image 11 is damaged"):
        for _ in feed.batches(8):
            pass
    bad = next(i for i in range(20) if 11 in ORDER(i))
    for _ in range(2):  # a second try does not go on with the batch after
        with pytest.raises(OSError, match="image 11 is damaged"):
            feed.steps(ORDER, bad, 1)
    feed.close()
