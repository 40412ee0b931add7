import dataclasses

import numpy as np
import pytest
from evaluation.embedded_pairs import lfw, separated, used_by, without_mirror

from kd_jax.evaluation import verification
from kd_jax.evaluation.faces import PROTOCOLS, Protocol


def insightface(images, same, folds=10, normalize=True):
    """recognition/arcface_torch/eval/verification.py: test, calculate_roc, calculate_accuracy."""
    sides = [images[name] + images[f"{name}_mirrored"] for name in ("first", "second")]
    if normalize:
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
        centered = [side - mean for side in sides]
        unit = [side / np.sqrt(np.sum(side**2, axis=1, keepdims=True)) for side in centered]
        scores = np.sum(unit[0] * unit[1], axis=1)

        def right(threshold, same, different):
            return np.count_nonzero(same > threshold) + np.count_nonzero(different < threshold)

        parts = scores[train & same], scores[train & ~same]
        counts = np.array([right(threshold, *parts) for threshold in grid])
        best = np.mean(grid[counts == counts.max()])
        thresholds.append(best)
        accuracies.append(right(best, scores[test & same], scores[test & ~same]) / test.sum())
    return accuracies, thresholds


@pytest.mark.parametrize("published", [insightface, sphereface])
def test_presets_equal_the_published_loops(published):
    images, pairs = lfw(pairs=1200, noise=1.5, offset=0.5)
    result = verification(**images, **pairs, protocol=published.__name__)
    accuracies, thresholds = published(images, pairs["same"])
    assert result.fold_accuracies == tuple(accuracies)
    np.testing.assert_allclose(result.thresholds, thresholds, atol=1e-12)
    assert result.accuracy == np.mean(accuracies)
    assert result.std == np.std(accuracies)
    assert 0.6 < result.accuracy < 0.999


def test_the_norm_does_not_matter():
    images, pairs = lfw(pairs=600)
    longer = {name: 10 * array for name, array in images.items()}
    assert insightface(longer, pairs["same"], normalize=False)[0] == [0.5] * 10
    for protocol in PROTOCOLS:
        found, expected = (
            verification(**used_by(protocol, each), **pairs, protocol=protocol).accuracy
            for each in (longer, images)
        )
        assert found == expected > 0.8


def accuracy(images, pairs, protocol, **changes):
    return verification(
        **images, **pairs, protocol=dataclasses.replace(PROTOCOLS[protocol], **changes)
    ).accuracy


def test_the_mean_of_the_training_folds_removes_a_common_offset():
    images, pairs = lfw(noise=1.2, offset=3.0)
    centered = accuracy(images, pairs, "sphereface")
    assert centered > accuracy(images, pairs, "sphereface", center="none") + 0.02
    plain, pairs = lfw(noise=1.2, offset=0.0)
    np.testing.assert_allclose(centered, accuracy(plain, pairs, "sphereface"), atol=0.003)


def test_sum_concatenation_and_no_mirror_image():
    images, pairs = lfw(noise=1.2)
    added, joined = (accuracy(images, pairs, "exact", fuse=fuse) for fuse in ("sum", "concat"))
    alone = accuracy(without_mirror(images), pairs, "plain")
    assert added > joined + 0.004 > alone + 0.004


def test_a_grid_cannot_separate_scores_between_its_steps():
    images, pairs = lfw(offset=30.0)  # all distances below the first step
    assert accuracy(images, pairs, "insightface") == 0.5
    assert accuracy(images, pairs, "insightface", thresholds="exact") > 0.7


def test_a_score_equal_to_the_threshold():
    images, pairs = separated()  # scores 0 and 1
    low = Protocol("low", thresholds=(0.0,))
    assert verification(**images, **pairs, protocol=low).accuracy == 0.5
    low = dataclasses.replace(low, equal="different")
    assert verification(**images, **pairs, protocol=low).accuracy == 1
    for equal in ("different", "error"):
        high = Protocol("high", thresholds=(1.0,), equal=equal)
        assert verification(**images, **pairs, protocol=high).accuracy == 0.5


def test_first_and_mean_of_the_best_thresholds():
    images, pairs = separated()
    grid = Protocol("grid", thresholds=(0.9, 0.2, 0.1, -0.5))
    assert verification(**images, **pairs, protocol=grid).thresholds == (0.9,) * 4
    mean = verification(**images, **pairs, protocol=dataclasses.replace(grid, best="mean"))
    np.testing.assert_allclose(mean.thresholds, 0.4)


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
def test_impossible_protocols_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Protocol("mine", **fields)
