import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data import BatchOrder, ClassOrder, sequential_batches


def test_an_epoch_has_every_image_at_most_once():
    order = BatchOrder(seed=3, num_examples=103, batch_size=10)
    assert order.steps_per_epoch == 10
    for epoch in range(3):
        rows = np.concatenate([order(10 * epoch + i) for i in range(10)])
        assert rows.dtype == np.int32
        assert len(set(rows)) == 100
        assert rows.min() >= 0
        assert rows.max() < 103


def test_a_batch_depends_only_on_seed_and_step():
    order = BatchOrder(0, 50, 7)
    forward = [order(step) for step in range(20)]
    backward = [BatchOrder(0, 50, 7)(step) for step in reversed(range(20))][::-1]
    np.testing.assert_array_equal(forward, backward)
    assert not np.array_equal(forward[0], BatchOrder(1, 50, 7)(0))
    assert not np.array_equal(forward[0], forward[order.steps_per_epoch])


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(UsageError, match=r"data.batch_size = 11 is impossible: choose 1 to 10, "):
        BatchOrder(0, 10, 11)


SIZES = [1, 2, 3, 5, 8, 13, 30]
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4, 5, 6, 9], SIZES))


def class_order(batch_size, images_per_class, seed=1):
    return ClassOrder(seed, len(LABELS), batch_size, images_per_class, LABELS)


def test_a_batch_has_p_classes_with_k_images_each():
    order = class_order(12, 4)
    assert order.steps_per_epoch == 62 // 12
    for step in range(100):
        rows = order(step)
        assert rows.dtype == np.int32
        groups = LABELS[rows].reshape(3, 4)
        assert (groups == groups[:, :1]).all()  # neighbors
        assert len(set(groups[:, 0])) == 3
        for label, images in zip(groups[:, 0], rows.reshape(3, 4), strict=True):
            times = np.unique(images, return_counts=True)[1]
            size = (label == LABELS).sum()
            assert len(times) == min(size, 4)
            assert set(times) <= {4 // size, -(-4 // size)}  # 3 images: one of them twice


def test_the_last_class_has_fewer_images_if_k_does_not_divide_the_batch():
    order = class_order(11, 4)
    for step in range(20):
        labels = LABELS[order(step)]
        assert len(set(labels)) == 3
        assert (labels[8:] == labels[8]).all()


def test_classes_and_their_images_are_drawn_equally_often():
    order, counts = class_order(12, 4), np.zeros(len(LABELS))
    for step in range(4000):
        np.add.at(counts, order(step), 1)
    classes = np.bincount(LABELS, counts)[np.unique(LABELS)]
    # A class is in 12,000 / 7 batches. Binomial draws would have a standard deviation of 2.2 % of
    # this number, and those of one image of the largest class 6.5 % of theirs.
    np.testing.assert_allclose(classes, 4 * 12_000 / 7, rtol=0.05)
    for label, size in zip(np.unique(LABELS), SIZES, strict=True):
        np.testing.assert_allclose(counts[label == LABELS], 4 * 12_000 / 7 / size, rtol=0.2)


def test_images_of_a_class_return_only_after_all_others():
    """Two classes of 6 images, 12 images per epoch: each image is seen once per epoch."""
    labels = np.arange(12) % 2
    order = ClassOrder(0, 12, 6, 3, labels)
    for epoch in range(5):
        rows = np.concatenate([order(2 * epoch), order(2 * epoch + 1)])
        assert sorted(rows) == list(range(12))


def test_a_batch_of_classes_depends_only_on_seed_and_step():
    forward = [class_order(12, 4)(step) for step in range(12)]
    backward = [class_order(12, 4)(step) for step in reversed(range(12))][::-1]
    np.testing.assert_array_equal(forward, backward)
    assert not np.array_equal(forward[0], class_order(12, 4, seed=2)(0))
    assert not np.array_equal(forward[0], forward[5])


def test_batches_of_too_many_classes_are_refused():
    with pytest.raises(UsageError, match=r"data\.images_per_class = 4 needs 8 classes .* have 7"):
        class_order(32, 4)
    with pytest.raises(UsageError, match=r"data\.images_per_class = 0 is impossible"):
        class_order(32, 0)


@pytest.mark.parametrize(("number", "size"), [(10, 4), (8, 4), (1, 4), (3, 1)])
def test_sequential_batches_have_every_image_once(number, size):
    batches = list(sequential_batches(number, size))
    assert all(index.shape == where.shape == (size,) for index, where in batches)
    assert all(index.max() < number for index, _ in batches)
    counted = np.concatenate([index[where] for index, where in batches])
    np.testing.assert_array_equal(counted, np.arange(number))
