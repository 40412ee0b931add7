import dataclasses
import json

import numpy as np
import pytest
from evaluation.embedded_pairs import lfw, separated, used_by, without_mirror
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from kd_jax.core.errors import UsageError
from kd_jax.evaluation import best_threshold, verification
from kd_jax.evaluation.faces import PROTOCOLS, with_threshold

PLAIN = PROTOCOLS["plain"]  # exact without mirror images


def test_exact_thresholds_are_the_best_of_all():
    images, pairs = lfw(pairs=120, folds=3)
    same, fold = pairs["same"], pairs["fold"]
    result = verification(**images, **pairs)
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
        np.testing.assert_allclose(result.thresholds[k], best, atol=1e-12)
        assert result.fold_accuracies[k] == np.mean((scores > best)[fold == k] == same[fold == k])


def test_cosine_and_squared_l2_give_the_same_order():
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
    images, pairs = separated()
    result = verification(**images, **pairs, protocol=PLAIN)
    assert (result.accuracy, result.std, result.auc, result.eer) == (1, 0, 1, 0)
    assert result.thresholds == (0.5,) * 4
    assert result.val_at_far == {0.001: (1, 0), 0.01: (1, 0), 0.1: (1, 0)}


def test_one_pair_with_a_false_label():
    images, pairs = separated()
    pairs["same"][5] = True  # in fold 0
    result = verification(**images, **pairs, protocol=PLAIN)
    assert result.fold_accuracies == (0.9, 1, 1, 1)


def test_chance():
    images, pairs = lfw()
    shuffled = {"same": np.random.default_rng(1).permuted(pairs["same"]), "fold": pairs["fold"]}
    result = verification(**images, **shuffled)
    np.testing.assert_allclose([result.accuracy, result.auc, result.eer], 0.5, atol=0.03)
    for target, (val, far) in result.val_at_far.items():
        np.testing.assert_allclose([val, far], target, atol=0.02)


def test_opposite_scores_are_not_inverted():
    images, pairs = separated()
    result = verification(**images, same=~pairs["same"], fold=pairs["fold"], protocol=PLAIN)
    assert (result.accuracy, result.auc, result.eer) == (0.5, 0, 1)


def test_two_points_for_all_images_give_chance():
    rng = np.random.default_rng(0)
    points = np.eye(2)
    _, pairs = lfw()
    sides = {name: points[rng.integers(0, 2, 6000)] for name in ("first", "second")}
    result = verification(**sides, **pairs, protocol=PLAIN)
    assert abs(result.accuracy - 0.5) < 0.02
    assert result.val_at_far[0.1] == (0, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_fold_does_not_influence_its_own_threshold(protocol):
    images, pairs = lfw(pairs=600, noise=1.5, offset=1.0)
    images = used_by(protocol, images)
    others = {name: np.where(pairs["fold"][:, None] == 3, -2, 1) * x for name, x in images.items()}
    before, after = (
        verification(**x, **pairs, protocol=protocol, fars=(0.1,)) for x in (images, others)
    )
    assert after.thresholds[3] == before.thresholds[3]
    assert after.thresholds != before.thresholds or PROTOCOLS[protocol].center == "none"
    assert (after.fold_accuracies[3] == before.fold_accuracies[3]) == (
        PROTOCOLS[protocol].center == "none"  # turning both sides changes no score then
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_auc_and_equal_error_rate(protocol):
    images, pairs = lfw(pairs=600, noise=1.5, offset=1.0)
    same, fold = pairs["same"], pairs["fold"]
    join = {
        "none": lambda image, mirrored: image,
        "sum": np.add,
        "concat": lambda image, mirrored: np.hstack([image, mirrored]),
    }[PROTOCOLS[protocol].fuse]
    sides = [join(images[n], images[f"{n}_mirrored"]) for n in ("first", "second")]
    images = used_by(protocol, images)
    scores = np.empty(600)
    for k in range(10):
        mean = 0.0
        if PROTOCOLS[protocol].center == "train_folds":
            mean = np.vstack([side[fold != k] for side in sides]).mean(axis=0)
        first, second = ((side - mean)[fold == k] for side in sides)
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        scores[fold == k] = np.sum(first * second, axis=1) / lengths
    result = verification(**images, **pairs, protocol=protocol)
    np.testing.assert_allclose(result.auc, roc_auc_score(same, scores), rtol=1e-12)
    accept, detect, _ = roc_curve(same, scores)
    crossing = brentq(lambda x: 1 - x - interp1d(accept, detect)(x), 0, 1)
    np.testing.assert_allclose(result.eer, crossing, atol=1e-9)


def test_the_equal_error_rate_is_linear_between_corners():
    images, pairs = separated(pairs=64)
    accepted = np.arange(64) % 8 == 1  # a quarter of the different pairs, at cosine 1 too
    images["second"][accepted] = images["first"][accepted]
    result = verification(**images, **pairs, protocol=PLAIN)
    np.testing.assert_allclose([result.eer, result.auc], [0.2, 0.875])  # 1 - x = x / 0.25


def test_validation_rate_at_a_false_accept_rate():
    images, pairs = lfw(pairs=1200, folds=4, noise=1.5)
    same, fold = pairs["same"], pairs["fold"]
    first, second = (
        images[n] / np.linalg.norm(images[n], axis=1)[:, None] for n in images if "_" not in n
    )
    scores = np.sum(first * second, axis=1)
    result = verification(
        **without_mirror(images), **pairs, protocol=PLAIN, fars=(0.001, 0.02, 0.1, 0.5)
    )
    for target, rates in result.val_at_far.items():
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
    assert result.val_at_far[0.001][0] < result.val_at_far[0.1][0]


def test_results_are_json():
    images, pairs = lfw(pairs=600)
    for protocol in PROTOCOLS:
        used = used_by(protocol, images)
        result = verification(**used, **pairs, protocol=protocol, fars=(1e-3,))
        record = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert record["accuracy"] == result.accuracy
        assert record["val_at_far"]["0.001"]["val"] == result.val_at_far[1e-3][0]
        assert record["protocol"]["name"] == protocol
        assert len(json.dumps(record)) < 2000
    grid = PROTOCOLS["sphereface"].to_json()["thresholds"]
    assert grid == {"first": -1.0, "last": 1.0, "number": 20001}


@pytest.mark.parametrize("protocol", ["plain", "exact", "insightface"])
def test_a_threshold_that_is_set_beforehand(protocol):
    """HORKD, section 4.2: "with a pre-set threshold"."""
    images, pairs = lfw(pairs=600, noise=1.5)
    images = used_by(protocol, images)
    half = {name: array[:300] for name, array in images.items()}
    threshold = best_threshold(**half, same=pairs["same"][:300], protocol=protocol)
    rest = {name: array[300:] for name, array in images.items()}
    same, fold = pairs["same"][300:], pairs["fold"][300:] - 5
    result = verification(
        **rest, same=same, fold=fold, protocol=with_threshold(protocol, threshold)
    )
    sides = [rest["first"], rest["second"]]
    if PROTOCOLS[protocol].fuse == "sum":
        sides = [rest[name] + rest[f"{name}_mirrored"] for name in ("first", "second")]
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    cosine = np.sum(first * second, axis=1)
    accepted = 2 - 2 * cosine < threshold if protocol == "insightface" else cosine > threshold
    assert result.accuracy == pytest.approx(np.mean(accepted == same))
    assert set(result.thresholds) == {threshold}
    assert result.protocol.to_json()["name"] == f"{protocol}, preset threshold"
    assert result.protocol.to_json()["thresholds"] == {
        "first": threshold,
        "last": threshold,
        "number": 1,
    }


def test_the_best_threshold_is_the_one_that_the_folds_choose():
    images, pairs = lfw(pairs=600, noise=1.5)
    fold = (np.arange(600) < 300).astype(int)  # the first half is trained on for fold 0
    result = verification(**images, same=pairs["same"], fold=fold)
    half = {name: array[:300] for name, array in images.items()}
    assert result.thresholds[0] == best_threshold(**half, same=pairs["same"][:300])


def test_impossible_thresholds_are_refused():
    images, pairs = lfw(pairs=120, folds=2)
    with pytest.raises(UsageError, match="'sphereface' subtracts a mean of the evaluated pairs"):
        with_threshold("sphereface", 0.5)
    with pytest.raises(UsageError, match="subtracts a mean"):
        best_threshold(**images, same=pairs["same"], protocol="sphereface")
    with pytest.raises(ValueError, match=r"same must be bool \[120\], .* pairs of both kinds"):
        best_threshold(**images, same=np.ones(120, bool))


def spoiled(value, row=3):
    def change(array):
        array = array.copy()
        array[row] = value
        return array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.ones_like, "collapsed"),
        (lambda x: np.outer(np.arange(1, len(x) + 1), x[0]), "collapsed"),
        (spoiled(np.nan), "NaN or infinity in 1 of 120 rows, first in row 3"),
        (spoiled(np.inf), "NaN or infinity"),
        (spoiled(0.0), "row 3 of norm 0"),
        (spoiled(1e200), "row 3 of norm inf"),
        (lambda x: x[0], "must be"),
        (lambda x: x[:-1], "one row per pair"),
        (lambda x: x[:, :-1], "one row per pair"),
        (lambda x: x[:, :0], "must be"),
    ],
)
def test_embeddings_that_measure_nothing_are_refused(change, message):
    images, pairs = lfw(pairs=120, folds=2)
    for name in images:
        with pytest.raises(ValueError, match=message):
            verification(**images | {name: change(images[name])}, **pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": np.ones(120, bool)}, "fold 0 has pairs of one kind"),
        ({"same": np.ones(120, int)}, "same must be bool"),
        ({"same": np.ones(60, bool)}, "same must be bool"),
        ({"fold": np.zeros(120, int)}, "two folds or more"),
        ({"fold": 1 + np.arange(120) // 60}, "numbered 0"),
        ({"fold": np.arange(120) // 60 * 2}, "without a gap"),
        ({"fold": np.arange(120) / 60}, "integers"),
        ({"fold": np.arange(120)}, "one kind"),
        ({"fars": (0.1, 1.0)}, "fars"),
        ({"protocol": "insigthface"}, "'insigthface' is unknown: choose one of insightface, exact"),
        ({"protocol": PLAIN}, "first_mirrored is not used"),
        ({"second_mirrored": None}, "second_mirrored is missing"),
        ({"first_mirrored": -lfw(pairs=120, folds=2)[0]["first"]}, "first has 120 of 120 rows"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    images, pairs = lfw(pairs=120, folds=2)
    with pytest.raises(ValueError, match=message):
        verification(**images | pairs | change)
