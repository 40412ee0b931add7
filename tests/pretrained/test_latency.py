"""Cost of networks: counts are those of the literature."""

import pytest
from small_trained import small_trained

from kd_jax.pretrained import NetworkInfo, Trained
from kd_jax.pretrained.latency import measure, multiply_adds


@pytest.mark.parametrize(
    ("name", "size", "classes", "options", "expected"),
    [
        # torchvision's table of weights: 1.81 GFLOPS.
        ("resnet18", (224, 224), 1000, {"stem": "imagenet"}, 1.814e9),
        # He et al., CVPR 2016: three stages of six 3x3 convolutions, 16 to 64 channels.
        ("resnet20", (32, 32), 10, {"shortcut": "A"}, 40.55e6),
    ],
)
def test_multiply_adds(name, size, classes, options, expected):
    info = NetworkInfo(name, options, classes, size, "bicubic", (0.5,) * 3, (0.5,) * 3)
    trained = Trained.of(info, info.shapes(info.module()))  # shapes are enough
    assert multiply_adds(trained) == pytest.approx(expected, rel=1e-3)


def test_the_choice_of_a_platform_counts_once():
    """On 1x1 and 2x2 maps, convolutions have one program for the CPU and one for others."""
    first, second, head = 2 * 2 * 9 * 1 * 8, 1 * 1 * 9 * 8 * 16, 16 * 5
    assert multiply_adds(small_trained()) == first + second + head


def test_a_network_is_measured():
    cost = measure(small_trained(), (1, 3))
    assert cost.parameters == 9 * 8 + 9 * 8 * 16 + 2 * (8 + 16) + 17 * 5
    assert cost.weight_bytes == 4 * (cost.parameters + 2 * (8 + 16))
    assert set(cost.milliseconds) == set(cost.working_bytes) == {1, 3}
    assert min(cost.milliseconds.values()) > 0
