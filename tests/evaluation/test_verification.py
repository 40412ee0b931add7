import dataclasses
import json

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from kd_jax.evaluation import PROTOCOLS, Protocol, verification

PLAIN = Protocol("plain")  # exact without mirror images


def lfw(seed=0, pairs=6000, folds=10, dim=32, noise=1.0, offset=0.0):
    """Embeddings of pairs in the order of LFW's pairs.txt: each fold half same, then different."""
    rng = np.random.default_rng(seed)
    fold = np.arange(pairs) * folds // pairs
    same = np.arange(pairs) % (pairs // folds) < pairs // folds // 2
    person = rng.normal(size=(pairs, dim))
    other = np.where(same[:, None], person, rng.normal(size=(pairs, dim)))
    shift = offset * rng.normal(size=dim)

    def photographed(who):
        return who + shift + noise * rng.normal(size=who.shape)

    names = ("first", "second", "first_mirrored", "second_mirrored")
    people = (person, other, person, other)
    images = dict(zip(names, map(photographed, people), strict=True))
    return images, {"same": same, "fold": fold}


def without_mirror(images):
    return {name: images[name] for name in ("first", "second")}


def parted(pairs=40, folds=4):
    """Same persons at cosine 1, different ones at 0."""
    fold = np.arange(pairs) * folds // pairs
    same = np.arange(pairs) % 2 == 0
    first = np.eye(2)[np.arange(pairs) // 2 % 2]
    second = np.where(same[:, None], first, first[:, ::-1])
    return {"first": first, "second": second}, {"same": same, "fold": fold}


def insightface(images, same, folds=10, normalise=True):
    """recognition/arcface_torch/eval/verification.py: test, calculate_roc, calculate_accuracy."""
    sides = [images[name] + images[f"{name}_mirrored"] for name in ("first", "second")]
    if normalise:
        sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    distance = np.sum((sides[0] - sides[1]) ** 2, axis=1)
    grid = np.arange(0, 4, 0.01)

    def accuracy(threshold, where):
        accepted = distance[where] < threshold
        return np.mean(accepted == same[where])

    accuracies, thresholds = [], []
    for test in np.array_split(np.arange(len(same)), folds):  # KFold without shuffling
        train = np.setdiff1d(np.arange(len(same)), test)
        best = grid[np.argmax([accuracy(threshold, train) for threshold in grid])]
        thresholds.append(best)
        accuracies.append(accuracy(best, test))
    return accuracies, thresholds


def sphereface(images, same, folds=10):
    """test/code/evaluation.m: evaluation, getThreshold, getAccuracy."""
    sides = [np.hstack([images[n], images[f"{n}_mirrored"]]) for n in ("first", "second")]
    fold = np.ceil(np.arange(1, len(same) + 1) / (len(same) / folds))
    grid = np.arange(-10_000, 10_001) / 10_000
    accuracies, thresholds = [], []
    for k in range(1, folds + 1):
        train, test = fold != k, fold == k
        mean = np.vstack([side[train] for side in sides]).mean(axis=0)
        centred = [side - mean for side in sides]
        unit = [side / np.sqrt(np.sum(side**2, axis=1, keepdims=True)) for side in centred]
        scores = np.sum(unit[0] * unit[1], axis=1)

        def right(threshold, same, different):
            return np.count_nonzero(same > threshold) + np.count_nonzero(different < threshold)

        parts = scores[train & same], scores[train & ~same]
        counts = np.array([right(threshold, *parts) for threshold in grid])
        best = np.mean(grid[counts == counts.max()])
        thresholds.append(best)
        accuracies.append(right(best, scores[test & same], scores[test & ~same]) / test.sum())
    return accuracies, thresholds


@pytest.mark.parametrize("noise", [0.8, 1.5], ids=["easy", "hard"])
@pytest.mark.parametrize("published", [insightface, sphereface])
def test_presets_are_the_published_loops(published, noise):
    images, pairs = lfw(noise=noise, offset=0.5)
    found = verification(**images, **pairs, protocol=published.__name__)
    accuracies, thresholds = published(images, pairs["same"])
    assert found.fold_accuracies == tuple(accuracies)
    np.testing.assert_allclose(found.thresholds, thresholds, atol=1e-12)
    assert found.accuracy == np.mean(accuracies)
    assert found.deviation == np.std(accuracies)
    assert 0.6 < found.accuracy < 0.999


def test_exact_thresholds_are_the_best_there_are():
    images, pairs = lfw(pairs=120, folds=3)
    same, fold = pairs["same"], pairs["fold"]
    found = verification(**images, **pairs)
    unit = []
    for name in ("first", "second"):
        fused = images[name] + images[f"{name}_mirrored"]
        unit.append(fused / np.linalg.norm(fused, axis=1, keepdims=True))
    scores = np.sum(unit[0] * unit[1], axis=1)
    for k in range(3):
        train = np.sort(scores[fold != k])
        candidates = [-2, *(train[1:] + train[:-1]) / 2, 2]
        right = [np.sum((scores > t)[fold != k] == same[fold != k]) for t in candidates]
        best = candidates[np.argmax(right)]
        np.testing.assert_allclose(found.thresholds[k], best, atol=1e-12)
        assert found.fold_accuracies[k] == np.mean((scores > best)[fold == k] == same[fold == k])


def test_cosine_and_squared_l2_rank_alike():
    images, pairs = lfw(pairs=600)
    exact = PROTOCOLS["exact"]
    cosine = verification(**images, **pairs)
    squared = verification(
        **images, **pairs, protocol=dataclasses.replace(exact, metric="squared_l2")
    )
    assert squared.fold_accuracies == cosine.fold_accuracies
    assert squared.val_at_far == cosine.val_at_far
    np.testing.assert_allclose(squared.thresholds, 2 - 2 * np.array(cosine.thresholds))
    np.testing.assert_allclose([squared.auc, squared.eer], [cosine.auc, cosine.eer], rtol=1e-12)


def test_perfect_embeddings():
    images, pairs = parted()
    found = verification(**images, **pairs, protocol=PLAIN)
    assert (found.accuracy, found.deviation, found.auc, found.eer) == (1, 0, 1, 0)
    assert found.thresholds == (0.5,) * 4
    assert found.val_at_far == {0.001: (1, 0), 0.01: (1, 0), 0.1: (1, 0)}


def test_one_pair_with_a_false_label():
    images, pairs = parted()
    pairs["same"][5] = True  # of fold 0
    found = verification(**images, **pairs, protocol=PLAIN)
    assert found.fold_accuracies == (0.9, 1, 1, 1)


def test_chance():
    images, pairs = lfw()
    shuffled = {"same": np.random.default_rng(1).permuted(pairs["same"]), "fold": pairs["fold"]}
    found = verification(**images, **shuffled)
    np.testing.assert_allclose([found.accuracy, found.auc, found.eer], 0.5, atol=0.03)
    for target, (val, far) in found.val_at_far.items():
        np.testing.assert_allclose([val, far], target, atol=0.02)


def test_scores_that_say_the_opposite_are_not_inverted():
    images, pairs = parted()
    found = verification(**images, same=~pairs["same"], fold=pairs["fold"], protocol=PLAIN)
    assert (found.accuracy, found.auc, found.eer) == (0.5, 0, 1)


def test_two_points_for_all_images_are_worth_nothing():
    rng = np.random.default_rng(0)
    points = np.eye(2)
    _, pairs = lfw()
    sides = {name: points[rng.integers(0, 2, 6000)] for name in ("first", "second")}
    found = verification(**sides, **pairs, protocol=PLAIN)
    assert abs(found.accuracy - 0.5) < 0.02
    assert found.val_at_far[0.1] == (0, 0)


def test_length_does_not_matter():
    images, pairs = lfw(pairs=600)
    longer = {name: 10 * array for name, array in images.items()}
    assert insightface(longer, pairs["same"], normalise=False)[0] == [0.5] * 10
    for protocol in PROTOCOLS:
        found = verification(**longer, **pairs, protocol=protocol)
        assert found.accuracy == verification(**images, **pairs, protocol=protocol).accuracy > 0.8


def accuracy(images, pairs, protocol, **changes):
    return verification(
        **images, **pairs, protocol=dataclasses.replace(PROTOCOLS[protocol], **changes)
    ).accuracy


def test_mean_of_the_training_folds_takes_a_common_offset_away():
    images, pairs = lfw(noise=1.2, offset=3.0)
    centred = accuracy(images, pairs, "sphereface")
    assert centred > accuracy(images, pairs, "sphereface", center="none") + 0.02
    plain, pairs = lfw(noise=1.2, offset=0.0)
    np.testing.assert_allclose(centred, accuracy(plain, pairs, "sphereface"), atol=0.003)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_fold_has_no_say_in_its_own_threshold(protocol):
    images, pairs = lfw(pairs=600, noise=1.5, offset=1.0)
    others = {name: np.where(pairs["fold"][:, None] == 3, -2, 1) * x for name, x in images.items()}
    before, after = (
        verification(**x, **pairs, protocol=protocol, fars=(0.1,)) for x in (images, others)
    )
    assert after.thresholds[3] == before.thresholds[3]
    assert after.thresholds != before.thresholds or PROTOCOLS[protocol].center == "none"
    assert (after.fold_accuracies[3] == before.fold_accuracies[3]) == (
        PROTOCOLS[protocol].center == "none"  # which a turn of both sides leaves as they were
    )


def test_sum_concatenation_and_no_mirror_image():
    images, pairs = lfw(noise=1.2)
    added, joined = (accuracy(images, pairs, "exact", fuse=fuse) for fuse in ("sum", "concat"))
    alone = accuracy(without_mirror(images), pairs, "exact", fuse="none")
    assert added > joined + 0.004 > alone + 0.004


def test_a_grid_is_blind_between_its_steps():
    images, pairs = lfw(offset=30.0)  # all distances below the first step
    assert accuracy(images, pairs, "insightface") == 0.5
    assert accuracy(images, pairs, "insightface", thresholds="exact") > 0.7


def test_a_score_equal_to_the_threshold():
    images, pairs = parted()  # scores 0 and 1
    low = Protocol("low", thresholds=(0.0,))
    assert verification(**images, **pairs, protocol=low).accuracy == 0.5
    low = dataclasses.replace(low, equal="different")
    assert verification(**images, **pairs, protocol=low).accuracy == 1
    for equal in ("different", "error"):
        high = Protocol("high", thresholds=(1.0,), equal=equal)
        assert verification(**images, **pairs, protocol=high).accuracy == 0.5


def test_first_and_mean_of_the_best_thresholds():
    images, pairs = parted()
    grid = Protocol("grid", thresholds=np.array([0.9, 0.2, 0.1, -0.5]))
    assert verification(**images, **pairs, protocol=grid).thresholds == (0.9,) * 4
    mean = verification(**images, **pairs, protocol=dataclasses.replace(grid, best="mean"))
    np.testing.assert_allclose(mean.thresholds, 0.4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_auc_and_equal_error_rate(protocol):
    images, pairs = lfw(pairs=600, noise=1.5, offset=1.0)
    same, fold = pairs["same"], pairs["fold"]
    join = {"sum": np.add, "concat": lambda a, b: np.hstack([a, b])}[PROTOCOLS[protocol].fuse]
    sides = [join(images[n], images[f"{n}_mirrored"]) for n in ("first", "second")]
    scores = np.empty(600)
    for k in range(10):
        mean = 0.0
        if PROTOCOLS[protocol].center == "train_folds":
            mean = np.vstack([side[fold != k] for side in sides]).mean(axis=0)
        first, second = ((side - mean)[fold == k] for side in sides)
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        scores[fold == k] = np.sum(first * second, axis=1) / lengths
    found = verification(**images, **pairs, protocol=protocol)
    np.testing.assert_allclose(found.auc, roc_auc_score(same, scores), rtol=1e-12)
    accept, detect, _ = roc_curve(same, scores)
    crossing = brentq(lambda x: 1 - x - interp1d(accept, detect)(x), 0, 1)
    np.testing.assert_allclose(found.eer, crossing, atol=1e-9)


def test_the_equal_error_rate_is_linear_between_corners():
    images, pairs = parted(pairs=64)
    accepted = np.arange(64) % 8 == 1  # a quarter of the different pairs, at cosine 1 too
    images["second"][accepted] = images["first"][accepted]
    found = verification(**images, **pairs, protocol=PLAIN)
    np.testing.assert_allclose([found.eer, found.auc], [0.2, 0.875])  # 1 - x = x / 0.25


def test_validation_rate_at_a_false_accept_rate():
    images, pairs = lfw(pairs=1200, folds=4, noise=1.5)
    same, fold = pairs["same"], pairs["fold"]
    first, second = (
        images[n] / np.linalg.norm(images[n], axis=1)[:, None] for n in images if "_" not in n
    )
    scores = np.sum(first * second, axis=1)
    found = verification(
        **without_mirror(images), **pairs, protocol=PLAIN, fars=(0.001, 0.02, 0.1, 0.5)
    )
    for target, rates in found.val_at_far.items():
        expected = []
        for k in range(4):
            negatives = np.sort(scores[(fold != k) & ~same])[::-1]  # 450
            # Between the first negative that may not pass and the next score of any kind.
            train = np.sort(scores[fold != k])
            first_out = np.searchsorted(train, negatives[int(target * 450)])
            threshold = train[first_out : first_out + 2].mean()
            test = scores[fold == k] > threshold
            expected.append([test[same[fold == k]].mean(), test[~same[fold == k]].mean()])
        np.testing.assert_allclose(rates, np.mean(expected, axis=0), atol=1e-12)
    assert found.val_at_far[0.001][0] < found.val_at_far[0.1][0]


def test_results_are_json():
    images, pairs = lfw(pairs=600)
    for protocol in PROTOCOLS:
        found = verification(**images, **pairs, protocol=protocol, fars=(1e-3,))
        record = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert record["accuracy"] == found.accuracy
        assert record["val_at_far"]["0.001"]["val"] == found.val_at_far[1e-3][0]
        assert record["protocol"]["name"] == protocol
        assert len(json.dumps(record)) < 2000
    grid = PROTOCOLS["sphereface"].to_json()["thresholds"]
    assert grid == {"first": -1.0, "last": 1.0, "number": 20001}


def spoilt(value, row=3):
    def change(array):
        array = array.copy()
        array[row] = value
        return array

    return change


@pytest.mark.parametrize("name", ["first", "second", "first_mirrored", "second_mirrored"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.ones_like(x), "collapsed"),
        (lambda x: np.outer(np.arange(1, len(x) + 1), x[0]), "collapsed"),
        (spoilt(np.nan), "NaN or infinity in 1 of 120 rows, row 3"),
        (spoilt(np.inf), "NaN or infinity"),
        (spoilt(0.0), "row 3 of norm 0"),
        (spoilt(1e200), "row 3 of norm inf"),
        (lambda x: x[0], "must be"),
        (lambda x: x[:-1], "one row a pair"),
        (lambda x: x[:, :-1], "one row a pair"),
        (lambda x: x[:, :0], "must be"),
    ],
)
def test_embeddings_that_measure_nothing(name, change, message):
    images, pairs = lfw(pairs=120, folds=2)
    with pytest.raises(ValueError, match=message):
        verification(**images | {name: change(images[name])}, **pairs)


def test_embeddings_that_cancel():
    images, pairs = lfw(pairs=120, folds=2)
    with pytest.raises(ValueError, match="first has 120 of 120 rows that cannot be normalised"):
        verification(**images | {"first_mirrored": -images["first"]}, **pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": np.ones(120, bool)}, "fold 0 has pairs of one kind"),
        ({"same": np.ones(120, int)}, "same must be bool"),
        ({"same": np.ones(60, bool)}, "same must be bool"),
        ({"fold": np.zeros(120, int)}, "two folds or more"),
        ({"fold": 1 + np.arange(120) // 60}, "numbered 0"),
        ({"fold": np.arange(120) // 60 * 2}, "without a gap"),
        ({"fold": np.arange(120) / 60}, "whole numbers"),
        ({"fold": np.arange(120)}, "one kind"),
        ({"fars": (0.1, 1.0)}, "fars"),
        ({"protocol": "insigthface"}, "choose from insightface, exact, sphereface"),
        ({"protocol": PLAIN}, "first_mirrored is not used"),
        ({"second_mirrored": None}, "second_mirrored is missing"),
    ],
)
def test_what_does_not_fit(change, message):
    images, pairs = lfw(pairs=120, folds=2)
    with pytest.raises(ValueError, match=message):
        verification(**images | pairs | change)


@pytest.mark.parametrize(
    "fields",
    [
        {"fuse": "mean"},
        {"center": "all"},
        {"metric": "l2"},
        {"equal": "same"},
        {"best": "last"},
        {"thresholds": "grid"},
        {"thresholds": ()},
        {"thresholds": (0.0, np.nan)},
    ],
)
def test_protocols_that_do_not_exist(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Protocol("mine", **fields)
