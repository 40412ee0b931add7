import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from kd_jax.evaluation import recall_at_k, retrieval


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


ALL = ("recall", "map_at_r", "r_precision", "nmi")
GOLDEN = {
    "random": (0.6095238095238096, 0.383673523377605, 0.460952380952381, 0.7105217568381369),
    "queries": (0.475, 0.3444999999999999, 0.41500000000000004, 0.7472915431688947),
    "digits": (0.9866666666666667, 0.5737742353587981, 0.6293145842162502, 0.7670168697701438),
}
"""`precision_at_1`, `mean_average_precision_at_r`, `r_precision` and `NMI` of AccuracyCalculator of
pytorch-metric-learning 2.9.0 with faiss-cpu 1.15.1: `k="max_bin_count"`, unit rows in float32, and
`KMeans(k, n_init=1, random_state=0)` of scikit-learn 1.9.1 in place of faiss's k-means, without
which its clusters are not reproducible. "queries" searches for 40 noisy images among 65 others with
`ref_includes_query=False`. "digits" are the pixels of the first 600 digits of scikit-learn."""


def golden_sets():
    rng = np.random.default_rng(0)
    labels = rng.permuted(np.repeat(np.arange(20), rng.integers(2, 9, 20)))
    centers = rng.normal(size=(20, 8))
    rows = (centers[labels] + 0.9 * rng.normal(size=(len(labels), 8))).astype(np.float32)
    noisy = (rows + 0.6 * rng.normal(size=rows.shape)).astype(np.float32)
    digits = load_digits()
    return {
        "random": (rows, labels),
        "queries": (noisy[:40], labels[:40], rows[40:], labels[40:]),
        "digits": (digits.data[:600].astype(np.float32), digits.target[:600]),
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_metrics_equal_pytorch_metric_learning(name):
    metrics = retrieval(*golden_sets()[name], ks=[1], metrics=ALL).metrics()
    assert list(metrics) == ["recall_at_1", "map_at_r", "r_precision", "nmi"]
    # The clusters of another version of scikit-learn may differ a little.
    np.testing.assert_allclose([*metrics.values()][:3], GOLDEN[name][:3], rtol=1e-14)
    np.testing.assert_allclose(metrics["nmi"], GOLDEN[name][3], atol=0.02)


def test_ties_are_at_most_what_pytorch_metric_learning_finds():
    """faiss orders equal scores by their position; here other classes come first.

    The signs of "random" have 80 different rows among 105. AccuracyCalculator finds 0.305, 0.152
    and 0.216.
    """
    rows, labels = golden_sets()["random"]
    found = retrieval(np.sign(rows), labels, ks=[1], metrics=ALL[:3])
    values = (found.recall_at[1], found.map_at_r, found.r_precision)
    np.testing.assert_allclose(values, (13 / 105, 0.0755329877982937, 0.1394557823129252))


def test_the_same_images_at_another_resolution():
    """Each query leaves out its own image, which would be the nearest of all."""
    sharp, labels = images()
    low = sharp + 0.3 * np.random.default_rng(1).normal(size=sharp.shape)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (low, sharp)]
    scores = unit[0] @ unit[1].T
    np.fill_diagonal(scores, -np.inf)
    expected = np.mean(labels[scores.argmax(axis=1)] == labels)
    found = retrieval(low, labels, sharp, ks=[1])
    assert found.recall_at == {1: expected}
    assert (found.queries, found.gallery, found.classes) == (180, 180, 15)
    copied = retrieval(low, labels, sharp, labels, ks=[1])  # other images, among them copies
    assert copied.recall_at[1] > expected


def test_queries_without_a_mate_are_left_out():
    found = retrieval(np.eye(3), ["a", "b", "b"], np.eye(3)[:2], ["a", "c"], ks=[1])
    assert (found.queries, found.singletons, found.recall_at[1]) == (1, 2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": np.eye(180, 5) + 1}, "gallery has 5 columns and embeddings 6"),
        ({"gallery": np.eye(6)}, "gallery has 6 rows and embeddings 180: pass gallery_labels"),
        ({"gallery": np.eye(6), "gallery_labels": [0] * 5}, "gallery_labels must be"),
        ({"gallery": np.eye(6), "gallery_labels": range(20, 26)}, "no query could succeed"),
        ({"metrics": ["recal"]}, "metrics = 'recal' is unknown: choose one of recall"),
    ],
)
def test_galleries_that_do_not_fit_are_refused(change, message):
    embeddings, labels = images()
    if "gallery_labels" in change:
        change = change | {"gallery_labels": np.array(change["gallery_labels"])}
    with pytest.raises(ValueError, match=message):
        retrieval(embeddings, labels, **change)
