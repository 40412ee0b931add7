import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from kd_jax.evaluation import recall_at_k


def images(seed=0, classes=15, number=12, dim=6, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permuted(np.repeat(np.arange(classes), number))
    centers = rng.normal(size=(classes, dim))
    return centers[labels] + noise * rng.normal(size=(len(labels), dim)), labels


def test_recall_equals_nearest_neighbors_of_scikit_learn():
    embeddings, labels = images()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    # Without an argument a point is not its own neighbor.
    nearest = NearestNeighbors(n_neighbors=8).fit(unit).kneighbors(return_distance=False)
    hits = labels[nearest] == labels[:, None]
    expected = {f"recall_at_{k}": hits[:, :k].any(axis=1).mean() for k in (1, 2, 4, 8)}
    result = recall_at_k(embeddings, labels)
    assert result == expected | {"queries": 180, "singletons": 0}
    assert 0.2 < result["recall_at_1"] < result["recall_at_8"] < 1


def test_perfect_embeddings_and_chance():
    labels = np.arange(400) % 8
    assert recall_at_k(np.eye(8)[labels], labels, ks=[1])["recall_at_1"] == 1
    noise = np.random.default_rng(0).normal(size=(400, 16))
    result = recall_at_k(noise, labels, ks=(1, 4))
    np.testing.assert_allclose(result["recall_at_1"], 49 / 399, atol=0.05)
    np.testing.assert_allclose(result["recall_at_4"], 1 - (1 - 49 / 399) ** 4, atol=0.07)


def test_a_query_leaves_out_its_own_row_and_finds_its_copy():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 4))
    labels = np.arange(20)
    result = recall_at_k(np.repeat(rows, 2, axis=0), np.repeat(labels, 2), ks=[1])
    assert result["recall_at_1"] == 1
    # A copy with another label is ranked first, and the row itself does not count.
    result = recall_at_k(np.repeat(rows, 2, axis=0), np.arange(40) % 2, ks=[1])
    assert result["recall_at_1"] == 0


def test_images_of_another_class_with_equal_score_are_ranked_first():
    points = np.eye(2)[np.arange(40) // 20]  # two points, ten images of either class at each
    result = recall_at_k(points, np.arange(40) % 2, ks=(1, 10, 11))
    assert [result[f"recall_at_{k}"] for k in (1, 10, 11)] == [0, 0, 1]


def test_an_image_alone_in_its_class_is_no_query_but_is_found():
    a, b = np.eye(2)
    rows = np.array([a, a + 0.2 * b, a + 0.1 * b, b])
    labels = ["x", "x", "alone", "other"]
    result = recall_at_k(rows, labels, ks=(1, 2))
    assert result == {"recall_at_1": 0, "recall_at_2": 1, "queries": 2, "singletons": 2}


def test_the_block_size_does_not_matter():
    embeddings, labels = images()
    embeddings[::5] = embeddings[1::5]
    whole = recall_at_k(embeddings, labels)
    for block_size in (1, 180, 181, 1000):
        assert recall_at_k(embeddings, labels, block_size=block_size) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.ones((180, 6))}, "collapsed"),
        ({"embeddings": np.full((180, 6), np.nan)}, "NaN or infinity in 180 of 180 rows"),
        ({"embeddings": np.zeros((180, 6))}, "cannot be normalized"),
        ({"embeddings": np.ones(180)}, "must be"),
        ({"labels": np.zeros(180, int)}, "1 classes"),
        ({"labels": np.arange(180)}, "180 classes"),
        ({"labels": np.zeros(179, int)}, "labels must be"),
        ({"ks": (1, 180)}, "from 1 to 179"),
        ({"block_size": -1}, "block_size"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    embeddings, labels = images()
    with pytest.raises(ValueError, match=message):
        recall_at_k(**{"embeddings": embeddings, "labels": labels} | change)
