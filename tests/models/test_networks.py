"""All networks: shapes, numbers of parameters, multiply-adds."""

import functools
from unittest import mock

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.models import convolution
from kd_jax.models.mobilenet import MobileNetV2
from kd_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from kd_jax.models.sphereface import SphereFace


def _halving(height, width, channels, stages=4):
    """Feature maps of networks where each stage has twice the channels of the one before."""
    return [(height // n, width // n, channels * n) for n in (1, 2, 4, 8)[:stages]]


_NARROW, _WRN2, _X4 = (_halving(32, 32, channels, 3) for channels in (16, 32, 64))
_BASIC, _BOTTLENECK = _halving(32, 32, 64), _halving(32, 32, 256)
_VGG = [(16, 16, 128), (8, 8, 256), (4, 4, 512), (4, 4, 512)]
_VGG_OKDDIP = [*_VGG[:3], (2, 2, 512)]
_SHUFFLE1, _SHUFFLE2 = _halving(16, 16, 240, 3), _halving(16, 16, 116, 3)
_MOBILE = [(16, 16, 24), (8, 8, 32), (4, 4, 96), (2, 2, 320)]
_MOBILE_HALF = [(16, 16, 12), (8, 8, 16), (4, 4, 48), (2, 2, 160)]

# Parameters with 100 classes, feature maps at 32x32, number of blocks, and multiply-adds of
# convolutions and classifier for one such image. Source: the modules of RepDistiller (commit
# b84f547), parameters and multiply-adds counted in PyTorch. `wrn_50_2` is not among them: it has
# torchvision's 68,883,240 parameters, less those of the larger stem and of 900 classes. The names
# with `okddip` are from `models/model_cifar` of DefangChen/OKDDip, counted in PyTorch too.
_CIFAR100 = {
    "resnet8": (83_892, _NARROW, 3, None),
    "resnet14": (181_108, _NARROW, 6, None),
    "resnet20": (278_324, _NARROW, 9, None),
    "resnet32": (472_756, _NARROW, 15, None),
    "resnet44": (667_188, _NARROW, 21, None),
    "resnet56": (861_620, _NARROW, 27, None),
    "resnet110": (1_736_564, _NARROW, 54, 253_155_584),
    "resnet110_okddip": (1_170_868, _X4, 36, 167_453_696),
    "resnet8x4": (1_233_540, _X4, 3, None),
    "resnet32x4": (7_433_860, _X4, 15, None),
    "wrn_16_1": (180_916, _NARROW, 6, None),
    "wrn_16_2": (703_284, _WRN2, 6, None),
    "wrn_40_1": (569_780, _NARROW, 18, None),
    "wrn_40_2": (2_255_156, _WRN2, 18, None),
    "vgg8": (3_965_028, _VGG, 0, 96_192_512),
    "vgg11": (9_277_284, _VGG, 0, 209_438_720),
    "vgg13": (9_462_180, _VGG, 0, 284_936_192),
    "vgg16": (14_774_436, _VGG, 0, 398_182_400),
    "vgg19": (20_086_692, _VGG, 0, 511_428_608),
    "vgg16_okddip": (15_299_748, _VGG_OKDDIP, 0, 313_772_032),
    "resnet18": (11_220_132, _BASIC, 8, 555_468_800),
    "resnet34": (21_328_292, _BASIC, 16, 1_159_448_576),
    "resnet50": (23_705_252, _BOTTLENECK, 16, 1_298_014_208),
    "resnet101": (42_697_380, _BOTTLENECK, 33, 2_510_168_064),
    "wrn_50_2": (67_031_460, _BOTTLENECK, 16, 3_684_573_184),
    "shufflenet_v1": (949_258, _SHUFFLE1, 16, 38_691_456),
    "shufflenet_v2": (1_355_528, _SHUFFLE2, 16, 44_504_448),
    "mobilenet_v2": (2_353_060, _MOBILE, 17, 22_381_056),
    "mobilenet_v2_half": (812_836, _MOBILE_HALF, 17, 6_523_648),
}
# Where the embedding is not the pooled last feature map.
_EMBEDDING = {"shufflenet_v2": 1024, "mobilenet_v2": 1280, "mobilenet_v2_half": 1280}

# Image size, parameters and multiply-adds in millions, both without the classifier, to as many
# digits as are known, first feature map, and number of blocks. Source: SphereFace's released
# prototxt, layer by layer, and the ResNets written in PyTorch.
_FACES = [
    ("sphereface4", (112, 96), 12.562, 164, (56, 48, 64), 0),
    ("sphereface20", (112, 96), 22.667, 1_750, (56, 48, 64), 8),
    ("sphereface36", (112, 96), 32.771, 3_335, (56, 48, 64), 16),
    ("sphereface64", (112, 96), 47.891648, 5_912, (56, 48, 64), 29),
    ("sphereface64_paper", (112, 96), 48.187, 6_110, (56, 48, 64), 30),
    ("sphereface36_thin", (112, 96), 4.820642, 267, (56, 48, 18), 16),
    ("resnet50_vggface2", (224, 224), 23.508, 3_856, (56, 56, 256), 16),
    ("resnet18_slim", (16, 16), 0.6156, 7.7, (16, 16, 15), 8),
    ("resnet34_slim", (32, 32), 7.905, 431, (32, 32, 39), 16),
    ("resnet34_slim", (16, 16), 7.905, 108, (16, 16, 39), 16),
]


def _count(variables):
    return sum(p.size for p in jax.tree.leaves(variables))


def _maps(outputs):
    return [m.shape[1:] for m in outputs.feature_maps]


def _program(network, *shape):
    """The program of a network as accelerators trace it, with every convolution one operation."""
    by_xla = mock.patch.object(
        convolution.lax, "platform_dependent", lambda *arrays, default, **_: default(*arrays)
    )
    convolution._by_platform.clear_cache()  # other tests traced it as for CPUs
    with by_xla:
        program, shapes = jax.make_jaxpr(
            lambda key: network.init_with_output(key, jnp.zeros(shape), train=False),
            return_shape=True,
        )(jax.random.key(0))
    convolution._by_platform.clear_cache()
    return program.jaxpr, *shapes


def _multiply_adds(jaxpr):
    """Multiply-adds of all convolutions and products in a program, with those in its parts."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # [h, w, C / groups, F]
            total += equation.outvars[0].aval.size * np.prod(kernel[:-1])
        elif equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * np.prod([shape[i] for i in contracted])
        for part in equation.params.values():
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                total += _multiply_adds(part)
    return total


def _check_maps(outputs, maps, blocks):
    assert [m.shape[1:] for m in outputs.feature_maps] == maps
    assert [m.shape[1:] for m in outputs.preactivations] == maps
    assert len(outputs.blocks) == blocks
    assert not blocks or outputs.blocks[-1].shape[1:] == maps[-1]


def test_every_network_is_listed_here():
    def is_ours(factory):  # other tests register their own
        return getattr(factory, "func", factory).__module__.startswith("kd_jax.")

    ours = {name for name in models.names() if is_ours(models.NETWORKS.get(name))}
    assert ours == {*_CIFAR100, *(row[0] for row in _FACES)}


@pytest.mark.parametrize("name", _CIFAR100)
def test_shapes_parameters_and_multiply_adds(name):
    parameters, maps, blocks, multiply_adds = _CIFAR100[name]
    network = models.create(name, num_classes=100)
    program, outputs, variables = _program(network, 2, 32, 32, 3)
    _check_maps(outputs, maps, blocks)
    assert outputs.embedding.shape == (2, _EMBEDDING.get(name, maps[-1][-1]))
    assert outputs.logits.shape == (2, 100)
    assert _count(variables["params"]) == parameters
    if multiply_adds:
        assert _multiply_adds(program) == 2 * multiply_adds


@pytest.mark.parametrize(("name", "size", "parameters", "millions", "first", "blocks"), _FACES)
def test_networks_for_faces(name, size, parameters, millions, first, blocks):
    program, outputs, variables = _program(models.create(name, num_classes=1), 1, *size, 3)
    _check_maps(outputs, _halving(*first), blocks)
    assert outputs.embedding.shape[1] == (512 if "sphere" in name else 8 * first[-1])
    count = _count(variables["params"]) - _count(variables["params"]["classifier"])
    assert count / 1e6 == pytest.approx(parameters, rel=1e-4)
    multiply_adds = _multiply_adds(program) - outputs.embedding.shape[1]
    assert multiply_adds / 1e6 == pytest.approx(millions, rel=3e-3)


# torchvision's models with 1000 classes: the "num_params" in the `_metas` of its weights.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("wrn_50_2", 68_883_240),
    ],
)
def test_imagenet_stem(traced, name, parameters):
    network = models.create(name, num_classes=1000, stem="imagenet")
    outputs, variables = traced(network, 1, 224, 224, 3)
    assert _count(variables["params"]) == parameters
    assert [m[:2] for m in _maps(outputs)] == [(56, 56), (28, 28), (14, 14), (7, 7)]


@pytest.mark.parametrize(
    ("name", "options", "stem", "channels", "embedding"),
    [
        ("resnet50", {"width": 0.25}, 16, (64, 128, 256, 512), 512),
        ("sphereface4", {"width": 0.5}, None, (32, 64, 128, 256), 512),
        ("sphereface36_thin", {"width": 0.5}, None, (9, 18, 36, 72), 512),
        ("mobilenet_v2", {"widen": 0.25}, 8, (6, 8, 24, 80), 1280),
        ("mobilenet_v2", {"widen": 1.5, "width": 0.5}, 24, (18, 24, 72, 240), 960),
        # The smallest width leaves one channel, or one per group.
        ("resnet20", {"width": 1e-9}, 1, (1, 1, 1), 1),
        ("resnet50", {"width": 1e-9}, 1, (4, 4, 4, 4), 4),
        ("wrn_16_1", {"width": 1e-9}, 1, (1, 1, 1), 1),
        ("vgg8", {"width": 1e-9}, 1, (1, 1, 1, 1), 1),
        ("vgg16_okddip", {"width": 1e-9}, 1, (1, 1, 1, 1), 1),
        ("shufflenet_v1", {"width": 1e-9}, 3, (6, 9, 12), 12),
        ("shufflenet_v2", {"width": 1e-9}, 1, (2, 2, 2), 1),
        ("mobilenet_v2_half", {"width": 1e-9}, 1, (1, 1, 1, 1), 1),
    ],
)
def test_width_multiplies_all_channels(traced, name, options, stem, channels, embedding):
    outputs, _ = traced(models.create(name, num_classes=2, **options), 2, 32, 32, 3)
    assert stem is None or outputs.stem.shape[-1] == stem
    assert tuple(m[-1] for m in _maps(outputs)) == channels
    assert outputs.embedding.shape == (2, embedding)


_SMALL = {
    "resnet18": models.create("resnet18", num_classes=2, width=0.1),
    "resnet8": models.create("resnet8", num_classes=2, width=0.1),
    "wrn_16_1": models.create("wrn_16_1", num_classes=2, width=0.1),
    "vgg8": models.create("vgg8", num_classes=2, width=0.1),
    "ShuffleNetV1": ShuffleNetV1(2, blocks=(1, 1, 1), width=0.05),
    "ShuffleNetV2": ShuffleNetV2(2, blocks=(1, 1, 1), width=0.05),
    "MobileNetV2": MobileNetV2(num_classes=2, blocks=(1,) * 7, width=0.05),
    "SphereFace": SphereFace(2, (1, 0, 0, 0), (3, 4, 5, 6), embedding_size=6),
}


@pytest.mark.parametrize(("size", "channels"), [((1, 1), 1), ((9, 64), 4)])
@pytest.mark.parametrize("name", [name for name in _SMALL if name != "vgg8"])
def test_images_of_any_size_and_number_of_channels(traced, name, size, channels):
    outputs, _ = traced(_SMALL[name], 1, *size, channels)
    first = 1 if name in ("resnet18", "resnet8", "wrn_16_1") else 2
    strides = [first * 2**i for i in range(len(outputs.feature_maps))]
    assert [m[:2] for m in _maps(outputs)] == [
        tuple(-(-n // stride) for n in size) for stride in strides
    ]


def test_vgg_pools_a_fourth_time_from_64_pixels(traced):
    for size, last in [(8, 1), (63, 7), (64, 4), (128, 8)]:
        outputs, _ = traced(_SMALL["vgg8"], 1, size, size, 3)
        assert outputs.feature_maps[-1].shape[1] == last
    with pytest.raises(UsageError, match=r"VGG-8 .*4x9 pixels.*at least 8x8"):
        traced(_SMALL["vgg8"], 1, 4, 9, 3)


@pytest.mark.parametrize(("pools", "last"), [(0, 32), (4, 2), (5, 2)])
def test_the_number_of_pools_of_a_vgg(traced, pools, last):
    network = models.create("vgg8", num_classes=2, width=0.1, pools=pools)
    outputs, _ = traced(network, 1, 32, 32, 3)
    assert outputs.feature_maps[-1].shape[1] == last
    with pytest.raises(UsageError, match=f"cannot see images of 0x32 .*at least {2**pools}x"):
        traced(network, 1, 0, 32, 3)


def test_a_vgg_has_at_most_five_pools():
    with pytest.raises(UsageError, match="pools = 6 is impossible: choose 0 to 5"):
        models.create("vgg8", num_classes=2, pools=6)


@pytest.mark.parametrize("name", _SMALL)
def test_one_exported_program_takes_batches_of_any_size(traced, name):
    _, variables = traced(_SMALL[name], 1, 16, 16, 3)
    (size,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((size, 16, 16, 3), jnp.float32)
    apply = jax.jit(functools.partial(_SMALL[name].apply, train=False))
    exported = jax.export.export(apply)(variables, images)
    assert exported.out_avals[0].shape == (size, 2)


@pytest.mark.parametrize("name", _SMALL)
def test_every_block_can_be_computed_again(traced, name):
    """The stem is one too; a VGG has five groups. The names of the variables stay the same."""
    network = _SMALL[name]
    outputs, variables = traced(network, 1, 16, 16, 3)
    again = network.clone(remat=True)
    assert traced(again, 1, 16, 16, 3)[1] == variables
    images = jnp.zeros((1, 16, 16, 3))
    apply = functools.partial(again.apply, train=True, mutable=["batch_stats"])
    names = [e.primitive.name for e in jax.make_jaxpr(apply)(variables, images).eqns]
    first = {"vgg8": 5, "SphereFace": 4}.get(name, 1)
    assert sum(name.startswith(("remat", "checkpoint")) for name in names) == first + len(
        outputs.blocks
    )


@pytest.mark.parametrize("name", [name for name in _SMALL if name != "vgg8"])
def test_empty_images(traced, name):
    with pytest.raises(UsageError, match=r"\w+ cannot see images of 0x4 pixels"):
        traced(_SMALL[name], 1, 0, 4, 3)
