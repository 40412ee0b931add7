import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data import BatchOrder, sequential_batches


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


@pytest.mark.parametrize(("number", "size"), [(10, 4), (8, 4), (1, 4), (3, 1)])
def test_sequential_batches_have_every_image_once(number, size):
    batches = list(sequential_batches(number, size))
    assert all(index.shape == where.shape == (size,) for index, where in batches)
    assert all(index.max() < number for index, _ in batches)
    counted = np.concatenate([index[where] for index, where in batches])
    np.testing.assert_array_equal(counted, np.arange(number))
