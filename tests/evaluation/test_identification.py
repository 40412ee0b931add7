import json
import tracemalloc

import numpy as np
import pytest

from kd_jax.evaluation import identification


def faces(seed=0, identities=20, gallery=3, probes=4, distractors=30, dim=8, noise=0.8):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(identities, dim))

    def photographed(times):
        labels = np.repeat(np.arange(identities), times)
        return centres[labels] + noise * rng.normal(size=(len(labels), dim)), labels

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


def brute_force(gallery, gallery_labels, probes, probe_labels, ranks):
    hits = dict.fromkeys(ranks, 0)
    for probe, label in zip(probes, probe_labels, strict=True):
        scores = [
            probe @ image / np.linalg.norm(probe) / np.linalg.norm(image) for image in gallery
        ]
        # Of equal scores the wrong identities come first.
        order = sorted(
            range(len(gallery)), key=lambda i: (-round(scores[i], 10), gallery_labels[i] == label)
        )
        for rank in ranks:
            hits[rank] += any(gallery_labels[i] == label for i in order[:rank])
    return {rank: count / len(probes) for rank, count in hits.items()}


@pytest.mark.parametrize("copies", [False, True], ids=["distinct", "ties"])
def test_as_a_brute_force_loop(copies):
    case = faces()
    if copies:  # every third image of the gallery is another one's, label kept
        case["gallery"][::3] = case["gallery"][1::3]
    found = identification(**case, ranks=(1, 2, 5, 10, 40))
    assert found.cmc == brute_force(**case, ranks=(1, 2, 5, 10, 40))
    assert 0.2 < found.cmc[1] < found.cmc[5] < 1
    assert (found.probes, found.gallery) == (80, 90)
    assert (found.identities, found.distractors) == (21, 30)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_probe_itself_is_found(dtype):
    case = faces()
    case |= {"probes": case["gallery"].astype(dtype), "probe_labels": case["gallery_labels"]}
    assert identification(**case).cmc == {1: 1, 5: 1, 10: 1}


def test_chance():
    case = faces(identities=50, gallery=1, probes=40, distractors=0)
    case["probes"] = np.random.default_rng(1).normal(size=case["probes"].shape)
    found = identification(**case, ranks=(1, 10, 50)).cmc
    np.testing.assert_allclose([found[1], found[10], found[50]], [0.02, 0.2, 1], atol=0.02)


def test_a_wrong_image_of_equal_score_stands_before_the_mate():
    east, north = np.eye(2)
    found = identification(
        np.array([east, east, north]),
        ["a", "b", "c"],
        np.array([east, north]),
        ["a", "c"],
        ranks=(1, 2),
    )
    assert found.cmc == {1: 0.5, 2: 1.0}
    # So a network of two points for everyone finds nobody, where counting greater scores finds
    # all.
    points = np.eye(2)[np.arange(100) % 2]
    found = identification(points, np.arange(100), points, np.arange(100), ranks=(1, 49, 50))
    assert found.cmc == {1: 0, 49: 0, 50: 1}


def test_rounding_does_not_decide_a_tie():
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.normal(size=(40, 300)).astype(np.float32), 2, axis=0)
    gallery *= rng.integers(1, 9, (80, 1)).astype(np.float32) / 3  # lengths change the rounding
    labels = np.arange(80)
    found = identification(gallery, labels, gallery, labels, ranks=(1, 2))
    assert found.cmc == {1: 0, 2: 1}


@pytest.mark.parametrize("block_size", [1, 90, 91, 1000, 10**9])
def test_blocks_do_not_matter(block_size):
    case = faces()
    assert identification(**case, block_size=block_size) == identification(**case)


def test_scores_are_never_all_in_memory():
    case = faces(identities=1000, gallery=3, probes=3, distractors=0)
    tracemalloc.start()
    identification(**case, block_size=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # all of them are 72 MB


def test_length_does_not_matter():
    case = faces()
    longer = case | {"gallery": case["gallery"] * np.linspace(0.1, 9, 90)[:, None]}
    assert identification(**longer) == identification(**case)


def test_results_are_json():
    found = identification(**faces(), ranks=(1, 20))
    record = json.loads(json.dumps(found.to_json()))
    assert record["cmc"] == {"1": found.cmc[1], "20": found.cmc[20]}
    assert record["distractors"] == 30


def with_nan(rows):
    rows = rows.copy()
    rows[2, 1] = np.nan
    return rows


@pytest.mark.parametrize("name", ["gallery", "probes"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.ones_like, "collapsed"),
        (lambda x: np.full_like(x, np.nan), "NaN or infinity"),
        (with_nan, "row 2"),
        (np.zeros_like, "cannot be normalised"),
        (lambda x: x[:, :4], "columns"),
        (lambda x: x[:-1], "_labels must be"),
        (np.ravel, "must be"),
    ],
)
def test_embeddings_that_measure_nothing(name, change, message):
    case = faces()
    with pytest.raises(ValueError, match=message):
        identification(**case | {name: change(case[name])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_labels": np.zeros(90, int)}, "one identity"),
        ({"probe_labels": np.full(80, 77)}, "80 of 80 probes have no mate"),
        ({"probe_labels": np.zeros(80)}, "whole number or a word"),
        ({"probe_labels": np.zeros((80, 1), int)}, "probe_labels must be"),
        ({"ranks": (1, 91)}, "from 1 to 90"),
        ({"ranks": (0,)}, "ranks"),
        ({"ranks": (1.0,)}, "ranks"),
        ({"ranks": ()}, "ranks"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        identification(**faces() | change)
