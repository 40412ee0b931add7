import json
import tracemalloc

import numpy as np
import pytest

from kd_jax.evaluation import identification


def faces(seed=0, identities=20, gallery=3, probes=4, distractors=30, dim=8, noise=0.8):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(identities, dim))

    def photographed(times):
        labels = np.repeat(np.arange(identities), times)
        return centers[labels] + noise * rng.normal(size=(len(labels), dim)), labels

    known, known_labels = photographed(gallery)
    seen, seen_labels = photographed(probes)
    strangers = rng.normal(size=(distractors, dim))
    order = rng.permutation(len(known) + distractors)
    return {
        "gallery": np.concatenate([known, strangers])[order],
        "gallery_labels": np.concatenate([known_labels, np.full(distractors, -100)])[order],
        "probes": seen,
        "probe_labels": seen_labels,
    }


def brute_force(gallery, gallery_labels, probes, probe_labels, ranks, ranked="images"):
    hits = dict.fromkeys(ranks, 0)
    for probe, label in zip(probes, probe_labels, strict=True):
        scores = [
            probe @ image / np.linalg.norm(probe) / np.linalg.norm(image) for image in gallery
        ]
        # Of equal scores the wrong identities come first.
        order = sorted(
            range(len(gallery)), key=lambda i: (-round(scores[i], 10), gallery_labels[i] == label)
        )
        labels = [gallery_labels[i] for i in order]
        if ranked == "identities":
            labels = list(dict.fromkeys(labels))
        for rank in ranks:
            hits[rank] += label in labels[:rank]
    return {rank: count / len(probes) for rank, count in hits.items()}


@pytest.mark.parametrize("copies", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("ranked", ["images", "identities"])
def test_identification_equals_a_brute_force_loop(copies, ranked):
    case = faces()
    if copies:  # every third image of the gallery is a copy of another, with its own label
        case["gallery"][::3] = case["gallery"][1::3]
    ranks = (1, 2, 5, 10, 40) if ranked == "images" else (1, 2, 5, 10, 21)
    result = identification(**case, ranks=ranks, ranked=ranked)
    assert result.cmc == brute_force(**case, ranks=ranks, ranked=ranked)
    assert 0.2 < result.cmc[1] < result.cmc[5] < 1
    assert result.cmc[5] >= identification(**case, ranks=(5,)).cmc[5]
    assert (result.probes, result.gallery) == (80, 90)
    assert (result.identities, result.distractors) == (21, 30)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_probe_itself_is_found(dtype):
    case = faces()
    case |= {"probes": case["gallery"].astype(dtype), "probe_labels": case["gallery_labels"]}
    assert identification(**case).cmc == {1: 1, 5: 1, 10: 1}


def test_chance():
    case = faces(identities=50, gallery=1, probes=40, distractors=0)
    case["probes"] = np.random.default_rng(1).normal(size=case["probes"].shape)
    result = identification(**case, ranks=(1, 10, 50)).cmc
    np.testing.assert_allclose([result[1], result[10], result[50]], [0.02, 0.2, 1], atol=0.02)


def test_a_wrong_image_of_equal_score_is_ranked_before_the_mate():
    east, north = np.eye(2)
    result = identification(
        np.array([east, east, north]),
        ["a", "b", "c"],
        np.array([east, north]),
        ["a", "c"],
        ranks=(1, 2),
    )
    assert result.cmc == {1: 0.5, 2: 1.0}
    # A network of two points for all images therefore finds nobody. If only greater scores counted,
    # it would find all.
    points = np.eye(2)[np.arange(100) % 2]
    result = identification(points, np.arange(100), points, np.arange(100), ranks=(1, 49, 50))
    assert result.cmc == {1: 0, 49: 0, 50: 1}


def test_rounding_does_not_break_a_tie():
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.normal(size=(40, 300)).astype(np.float32), 2, axis=0)
    gallery *= rng.integers(1, 9, (80, 1)).astype(np.float32) / 3  # norms change the rounding
    labels = np.arange(80)
    result = identification(gallery, labels, gallery, labels, ranks=(1, 2))
    assert result.cmc == {1: 0, 2: 1}


def test_the_block_size_does_not_matter():
    case = faces()
    whole = identification(**case)
    for block_size in (1, 90, 91, 1000):
        assert identification(**case, block_size=block_size) == whole


def test_scores_are_never_all_in_memory():
    case = faces(identities=500, gallery=3, probes=3, distractors=0)
    tracemalloc.start()
    identification(**case, block_size=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # all of them need 18 MB


def test_the_norm_does_not_matter():
    case = faces()
    longer = case | {"gallery": case["gallery"] * np.linspace(0.1, 9, 90)[:, None]}
    assert identification(**longer) == identification(**case)


def test_results_are_json():
    result = identification(**faces(), ranks=(1, 20))
    record = json.loads(json.dumps(result.to_json()))
    assert record["cmc"] == {"1": result.cmc[1], "20": result.cmc[20]}
    assert record["distractors"] == 30


def with_nan(rows):
    rows = rows.copy()
    rows[2, 1] = np.nan
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.ones_like, "collapsed"),
        (lambda x: np.full_like(x, np.nan), "NaN or infinity"),
        (with_nan, "row 2"),
        (np.zeros_like, "cannot be normalized"),
        (lambda x: x[:, :4], "columns"),
        (lambda x: x[:-1], "_labels must be"),
        (np.ravel, "must be"),
    ],
)
def test_embeddings_that_measure_nothing_are_refused(change, message):
    case = faces()
    for name in ("gallery", "probes"):
        with pytest.raises(ValueError, match=message):
            identification(**case | {name: change(case[name])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_labels": np.zeros(90, int)}, "one identity"),
        ({"probe_labels": np.full(80, 77)}, "80 of 80 probes have no mate"),
        ({"probe_labels": np.zeros(80)}, "integer or string"),
        ({"probe_labels": np.zeros((80, 1), int)}, "probe_labels must be"),
        ({"ranks": (1, 91)}, "from 1 to 90"),
        ({"ranks": (1, 22), "ranked": "identities"}, "from 1 to 21"),
        ({"ranked": "faces"}, "ranked = 'faces' is unknown: choose one of identities, images"),
        ({"ranks": (0,)}, "ranks"),
        ({"ranks": (1.0,)}, "ranks"),
        ({"ranks": ()}, "ranks"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        identification(**faces() | change)
