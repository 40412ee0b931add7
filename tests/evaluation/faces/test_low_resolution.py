import dataclasses

import numpy as np
import pytest

from kd_jax.core.errors import UsageError
from kd_jax.evaluation import best_threshold, verification
from kd_jax.evaluation.faces import FacePairs, Protocol, lr_verification

RNG = np.random.default_rng(0)
PAIRS = FacePairs(
    images=RNG.integers(0, 256, (30, 2, 2, 1), dtype=np.uint8),
    first=RNG.integers(0, 30, 40),
    second=RNG.integers(0, 30, 40),
    same=np.arange(40) % 2 == 0,
    fold=np.arange(40) // 20,
    name="pairs",
)


class Embed:
    """Embeddings that depend on the image, the size and the side; it records its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, images, *, size=None, mirrored=False):
        self.calls.append((len(images), size, mirrored))
        images = images[:, :, ::-1] if mirrored else images
        return np.sin(images.reshape(len(images), -1) + (size or 0.0)) + 0.1


@pytest.mark.parametrize(("mode", "first_size"), [("hr_lr", None), ("lr_lr", 8)])
def test_only_the_probe_is_reduced_or_both(mode, first_size):
    embed = Embed()
    results = lr_verification(embed, PAIRS, (8, None), mode=mode)
    assert list(results) == [8, None]
    expected = verification(
        embed(PAIRS.images, size=first_size)[PAIRS.first],
        embed(PAIRS.images, size=8)[PAIRS.second],
        PAIRS.same,
        PAIRS.fold,
        first_mirrored=embed(PAIRS.images, size=first_size, mirrored=True)[PAIRS.first],
        second_mirrored=embed(PAIRS.images, size=8, mirrored=True)[PAIRS.second],
    )
    assert results[8] == expected
    assert results[None] != expected


def test_every_image_is_embedded_once_per_side_and_size():
    embed = Embed()
    lr_verification(embed, PAIRS, (8, None), protocol=Protocol("plain"))
    first, second = len(np.unique(PAIRS.first)), len(np.unique(PAIRS.second))
    assert sorted(embed.calls, key=str) == sorted(
        [(first, None, False), (second, 8, False), (second, None, False)], key=str
    )
    embed = Embed()
    lr_verification(embed, PAIRS, (8, None))
    assert len(embed.calls) == 6


def test_a_threshold_that_is_set_beforehand_is_that_of_each_size():
    """HORKD, section 4.2: "with a pre-set threshold"."""
    embed = Embed()
    others = dataclasses.replace(PAIRS, first=PAIRS.second, second=PAIRS.first[::-1])
    results = lr_verification(embed, PAIRS, (8, None), protocol="plain", threshold=others)
    for size, result in results.items():
        threshold = best_threshold(
            embed(PAIRS.images)[others.first],
            embed(PAIRS.images, size=size)[others.second],
            others.same,
            protocol="plain",
        )
        assert set(result.thresholds) == {threshold}
    assert results[8].thresholds != results[None].thresholds
    number = lr_verification(embed, PAIRS, (8, None), protocol="plain", threshold=0.25)
    assert all(result.thresholds == (0.25, 0.25) for result in number.values())
    with pytest.raises(UsageError, match="subtracts a mean"):
        lr_verification(embed, PAIRS, protocol="sphereface", threshold=others)


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="mode = 'lr' is unknown: choose one of hr_lr, lr_lr"):
        lr_verification(Embed(), PAIRS, mode="lr")
    with pytest.raises(UsageError, match="protocol = 'lfw' is unknown: choose one of"):
        lr_verification(Embed(), PAIRS, protocol="lfw")
