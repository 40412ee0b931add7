import numpy as np
import pytest

from kd_jax.core.devices import data_mesh
from kd_jax.evaluation import nearest_neighbors

RNG = np.random.default_rng(0)
GALLERY = RNG.normal(size=(61, 5))
QUERIES = np.concatenate([GALLERY[[3, 50]] * 2, RNG.normal(size=(7, 5))])


def cosines():
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (QUERIES, GALLERY)]
    return units[0] @ units[1].T


@pytest.mark.parametrize(("devices", "block_size"), [(1, None), (8, 6)])
def test_neighbors_are_those_of_sorted_scores(devices, block_size):
    found = nearest_neighbors(QUERIES, GALLERY, 4, mesh=data_mesh(devices), block_size=block_size)
    order = np.argsort(-cosines(), axis=1)[:, :4]
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.scores, np.take_along_axis(cosines(), order, 1), atol=1e-6)
    assert found.rows[:2, 0].tolist() == [3, 50]


def test_a_row_that_is_left_out_and_rows_that_do_not_exist():
    own = np.full(len(QUERIES), -1)
    own[:2] = 3, 50
    found = nearest_neighbors(QUERIES, GALLERY, 61, left_out=own, mesh=data_mesh(8))
    for row, left_out in zip(found.rows[:2], own[:2], strict=True):
        assert sorted(row) == sorted({*range(61)} - {left_out} | {-1})
        assert row[-1] == -1
    assert np.isneginf(found.scores[:2, -1]).all()
    assert sorted(found.rows[2]) == list(range(61))


def test_of_equal_scores_the_first_row_comes_first():
    gallery = np.ones((20, 2))
    found = nearest_neighbors([[1.0, 0.0]] * 2, gallery, 20, mesh=data_mesh(8), block_size=2)
    assert found.rows.tolist() == [list(range(20))] * 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": 62}, "k must be integers from 1 to 61"),
        ({"queries": np.ones((2, 4))}, "gallery has 5 columns and queries 4"),
        ({"queries": np.zeros((2, 5))}, "cannot be normalized"),
        ({"left_out": [0]}, "left_out must be 9 rows"),
        ({"block_size": 0}, "block_size must be 1 or more"),
    ],
)
def test_wrong_arguments_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        nearest_neighbors(**{"queries": QUERIES, "gallery": GALLERY, "k": 1} | changes)
