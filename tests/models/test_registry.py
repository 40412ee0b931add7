import functools

import flax.linen as nn
import jax.numpy as jnp
import pytest

from kd_jax import models
from kd_jax.core.errors import UsageError


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet_18", {}, "network = 'resnet_18' is unknown: choose one of resnet18, "),
        ("vgg12", {}, "network = 'vgg12' is unknown: choose one of vgg.*wrn_40_2"),
        ("resnet18", {"stemm": "cifar"}, "resnet18 option = 'stemm' is unknown: .* one of stem, "),
        ("resnet20", {"stem": "imagenet"}, "resnet20 option = 'stem' .*dtype, .*head, .*width"),
        ("mobilenet_v2", {"branches": 2}, "mobilenet_v2 option = 'branches' is unknown"),
        ("mobilenet_v2", {"blocks": (1,)}, "option = 'blocks' .* one of dtype, .*widen, width"),
        ("mobilenet_v2_half", {"widen": 2}, "option = 'widen' is unknown: .* one of width, dtype"),
        ("mobilenet_v2", {"widen": 0}, "MobileNetV2 needs widen > 0, not 0"),
        ("resnet18", {"stem": "tiny"}, "^stem = 'tiny' is unknown: choose one of caffe, cifar"),
        ("resnet18", {"head": "angle"}, "^head = 'angle' is unknown: choose one of angular, lin"),
        ("resnet18", {"head_scale": 64.0}, "head_scale = 64.0 needs head = 'angular'"),
        ("resnet18_slim", {"channels": (1,)}, "resnet18_slim option = 'channels' is unknown"),
        ("sphereface20", {"units": (1,)}, "sphereface20 option = 'units' is unknown"),
        ("sphereface20", {"head": "none"}, "head = 'none' is unknown"),
        ("sphereface20", {"channels": (1,)}, r"channels = \(1,\) need one number per stage"),
        ("vgg8", {"width": 0}, "width > 0, not 100 and 0"),
        ("vgg8", {"num_classes": 0}, "num_classes >= 1"),
        ("vgg8", {"dtype": "int8"}, "dtype = 'int8' is unknown: choose one of .*bfloat16, float32"),
        ("vgg8", {"dtype": "bf16"}, "dtype = 'bf16' is unknown: choose one of bfloat16, "),
    ],
)
def test_errors_name_the_fix(name, options, message):
    with pytest.raises(UsageError, match=message):
        models.create(name, **{"num_classes": 100, **options})


def test_networks_of_a_user(monkeypatch, traced):
    monkeypatch.setattr(models.NETWORKS, "_entries", dict(models.NETWORKS._entries))

    @models.register("linear")
    class Linear(nn.Module):
        num_classes: int
        width: float
        dtype: jnp.dtype
        axis_name: str | None
        scale: float = 1.0

        @nn.compact
        def __call__(self, images, *, train):
            x = self.scale * images.mean((1, 2))
            return models.Outputs(models.LinearMap(self.num_classes)(x), x)

    models.register("linear_tenfold", functools.partial(Linear, scale=10.0))
    assert models.names()[-2:] == ("linear", "linear_tenfold")
    outputs, _ = traced(models.create("linear", num_classes=5, scale=2.0), 2, 8, 8, 3)
    assert outputs.logits.shape == (2, 5)
    with pytest.raises(UsageError, match="linear_tenfold option = 'scale' is unknown"):
        models.create("linear_tenfold", num_classes=5, scale=2.0)
    with pytest.raises(UsageError, match="'resnet18' is a network of kd_jax"):
        models.register("resnet18", Linear)
    models.register("linear", functools.partial(Linear, scale=3.0))  # as notebooks do
    assert models.create("linear", num_classes=5).scale == 3.0


def test_equal_requests_make_equal_networks():
    one, other = (models.create("resnet50", num_classes=10) for _ in range(2))
    assert one == other and hash(one) == hash(other)
