"""Standard errors of accuracies, and differences within noise."""

import math

import pytest

from kd_jax.experiment import noise

STAGE = {
    "name": "student",
    "network": "tiny",
    "resolution": 8,
    "params": 10,
    "result": "accuracy",
    "images": {"train": 9, "test": 10_000},
    "last": {"accuracy": 0.9},
}


def stage(accuracy, **values):
    return {**STAGE, "last": {"accuracy": accuracy}, **values}


def test_the_binomial_standard_error():
    # sqrt(0.9 * 0.1 / 10,000) = 0.3 points
    assert noise.standard_error(0.9, 10_000) == pytest.approx(0.003, rel=1e-3)
    # (0 + 1) / (8 + 2) = 0.1: an accuracy of 0 % on 8 images is not certain
    assert noise.standard_error(0.0, 8) == pytest.approx(math.sqrt(0.1 * 0.9 / 8))


def test_a_difference_of_two_stages_on_known_images():
    # sqrt(2) * 1.96 * 0.3 points = 0.83 points
    small, large = (noise.of_stages(stage(0.9 + gap), stage(0.9)) for gap in (0.005, 0.02))
    assert small.margin == pytest.approx(0.0083, abs=1e-4)
    assert small.within_noise
    assert not large.within_noise
    assert (
        str(small) == "+0.50 ± 0.82 (within the noise of 10,000 test images, without that of seeds)"
    )


@pytest.mark.parametrize(
    "other",
    [{"images": {}}, {"result": "pairs/accuracy", "last": {"pairs/accuracy": 0.5}}],
)
def test_without_a_known_number_of_images_nothing_is_claimed(other):
    assert noise.of_stages(stage(0.9), {**stage(0.9), **other}) is None


def test_differences_paired_by_seed():
    # Differences 1, 2, 3 points: mean 2, standard error 1 / sqrt(3), t(2, 97.5 %) = 4.3027.
    found = noise.of_seeds([0.51, 0.62, 0.73], [0.50, 0.60, 0.70])
    assert found.value == pytest.approx(0.02)
    assert found.margin == pytest.approx(0.01 * 4.3027 / math.sqrt(3), rel=1e-4)
    assert found.within_noise


def test_only_stages_with_like_networks_are_compared():
    stages = [stage(0.9), stage(0.8, params=11), stage(0.7)]
    assert noise.comparable(stages) == [(0, 2)]
