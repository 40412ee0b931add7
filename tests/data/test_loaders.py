import dataclasses

import jax
import numpy as np
import pytest

from kd_jax.core.devices import data_mesh
from kd_jax.data import (
    BatchOrder,
    ClassOrder,
    ImageSet,
    ResidentLoader,
    StreamedLoader,
    batch_of,
)
from kd_jax.data.images import StoredImages

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
    return ResidentLoader(ImageSet(IMAGES, LABELS, 7), data_mesh(devices))


@pytest.fixture
def streamed():
    loader = StreamedLoader(STORED, data_mesh(1))
    yield loader
    loader.close()


def batches(loader, rows):
    """The batches that compiled steps make of rows."""
    return [
        {name: np.asarray(array) for name, array in batch_of(loader.images, one).items()}
        for one in (
            {name: array[i] for name, array in rows.items()} for i in range(len(rows["index"]))
        )
    ]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected, strict=True):
        assert one.keys() == other.keys()
        jax.tree.map(np.testing.assert_array_equal, one, other)


CLASSES = ClassOrder(seed=3, num_examples=23, batch_size=8, images_per_class=2, labels=LABELS)


@pytest.mark.parametrize(("order", "start"), [(ORDER, 0), (ORDER, 5), (CLASSES, 1)])
def test_both_loaders_bring_the_images_of_the_order(streamed, order, start):
    loader = resident()
    expected = [
        {"index": order(i), "image": IMAGES[order(i)], "label": LABELS[order(i)]}
        for i in range(start, start + 3)
    ]
    assert_same(batches(loader, loader.steps(order, start, 3)), expected)
    assert_same(batches(streamed, streamed.steps(order, start, 3)), expected)


def test_a_stream_continues_and_restarts_anywhere(streamed):
    steps = [
        streamed.steps(ORDER, start, count) for start, count in ((0, 1), (1, 2), (0, 1), (4, 1))
    ]
    loader = resident()
    expected = [loader.steps(ORDER, *part)["index"] for part in ((0, 1), (1, 2), (0, 1), (4, 1))]
    for rows, index in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(rows["index"], index)
        np.testing.assert_array_equal(rows["image"], IMAGES[index])


def test_another_order_is_another_stream(streamed):
    streamed.steps(ORDER, 0, 1)
    other = dataclasses.replace(ORDER, seed=4)
    np.testing.assert_array_equal(streamed.steps(other, 1, 1)["index"][0], other(1))


def test_one_pass_has_every_image_once(streamed):
    for loader in (resident(), streamed):
        seen = []
        for rows in loader.batches(10):
            batch = batch_of(loader.images, rows)
            np.testing.assert_array_equal(batch["image"], IMAGES[rows["index"]])
            np.testing.assert_array_equal(batch["label"], LABELS[rows["index"]])
            seen += rows["index"][rows["where"]].tolist()
        assert seen == list(range(23))
    assert len(streamed) == len(resident()) == 23


def test_the_memory_limits_the_steps_per_call(monkeypatch, streamed):
    assert resident().max_steps(ORDER) > 1_000_000
    monkeypatch.setattr("kd_jax.data.loaders._READ_AHEAD", 5 * 8 * 60)
    assert streamed.max_steps(ORDER) == 5
    monkeypatch.setattr("kd_jax.data.loaders._READ_AHEAD", 1)
    assert streamed.max_steps(ORDER) == 1
    np.testing.assert_array_equal(streamed.steps(ORDER, 0, 1)["index"][0], ORDER(0))


def test_a_damaged_image_is_an_error_when_it_is_used():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Damaged(Stored):
        def _pixels(self, index):
            if index == 11:
                raise OSError("image 11 is damaged")
            return super()._pixels(index)

    loader = StreamedLoader(Damaged(keys=np.arange(23), labels=LABELS, num_classes=7), data_mesh(1))
    with pytest.raises(OSError, match="image 11 is damaged"):
        for _ in loader.batches(8):
            pass
    bad = next(i for i in range(20) if 11 in ORDER(i))
    for _ in range(2):  # a second try does not continue with the next batch
        with pytest.raises(OSError, match="image 11 is damaged"):
            loader.steps(ORDER, bad, 1)
    loader.close()
