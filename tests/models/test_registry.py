import functools
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import models
from kd_jax.errors import UsageError
from kd_jax.models import convolution, registry
from kd_jax.models.mobilenet import MobileNetV2
from kd_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from kd_jax.models.wide_resnet import WideResNet


def _shapes(module, shape=(2, 32, 32, 3)):
    """Outputs and variables of a network by shape and dtype, nothing computed."""
    return jax.eval_shape(
        lambda key: module.init_with_output(key, jnp.zeros(shape), train=False), jax.random.key(0)
    )


def _count(variables):
    return sum(p.size for p in jax.tree.leaves(variables["params"]))


def _maps(outputs):
    return [m.shape[1:] for m in outputs.maps]


# (stages' maps, embedding) at 32x32: kd_anchors 2.0 of RepDistiller's `python models/*.py`.
_NARROW = [(32, 32, 16), (16, 16, 32), (8, 8, 64)]
_X4 = [(32, 32, 64), (16, 16, 128), (8, 8, 256)]
_WRN2 = [(32, 32, 32), (16, 16, 64), (8, 8, 128)]
_BASIC = [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]
_BOTTLENECK = [(32, 32, 256), (16, 16, 512), (8, 8, 1024), (4, 4, 2048)]
_VGG = [(16, 16, 128), (8, 8, 256), (4, 4, 512), (4, 4, 512)]
_SHUFFLE1 = [(16, 16, 240), (8, 8, 480), (4, 4, 960)]
_SHUFFLE2 = [(16, 16, 116), (8, 8, 232), (4, 4, 464)]
_MOBILE = [(16, 16, 24), (8, 8, 32), (4, 4, 96), (2, 2, 320)]
_SPHERE = [(16, 16, 64), (8, 8, 128), (4, 4, 256), (2, 2, 512)]
_MOBILE_HALF = [(16, 16, 12), (8, 8, 16), (4, 4, 48), (2, 2, 160)]

# Parameters with 100 classes: the RepDistiller / mdistiller networks (counted in PyTorch).
_CIFAR100 = {
    "resnet8": (None, _NARROW),
    "resnet14": (None, _NARROW),
    "resnet20": (278_324, _NARROW),
    "resnet32": (472_756, _NARROW),
    "resnet44": (None, _NARROW),
    "resnet56": (861_620, _NARROW),
    "resnet110": (1_736_564, _NARROW),
    "resnet8x4": (1_233_540, _X4),
    "resnet32x4": (7_433_860, _X4),
    "wrn_16_1": (None, _NARROW),
    "wrn_16_2": (703_284, _WRN2),
    "wrn_40_1": (569_780, _NARROW),
    "wrn_40_2": (2_255_156, _WRN2),
    "vgg8": (3_965_028, _VGG),
    "vgg11": (None, _VGG),
    "vgg13": (9_462_180, _VGG),
    "vgg16": (None, _VGG),
    "vgg19": (None, _VGG),
    "resnet18": (11_220_132, _BASIC),
    "resnet34": (None, _BASIC),
    "resnet50": (23_705_252, _BOTTLENECK),
    "resnet101": (None, _BOTTLENECK),
    "wrn_50_2": (None, _BOTTLENECK),
    "shufflenet_v1": (949_258, _SHUFFLE1),
    "shufflenet_v2": (1_355_528, _SHUFFLE2),
    "mobilenet_v2": (2_353_060, _MOBILE),
    "mobilenet_v2_half": (812_836, _MOBILE_HALF),
    "resnet18_slim": (None, [(32, 32, 15), (16, 16, 30), (8, 8, 60), (4, 4, 120)]),
    "resnet34_slim": (None, [(32, 32, 39), (16, 16, 78), (8, 8, 156), (4, 4, 312)]),
    "resnet50_vggface2": (None, [(8, 8, 256), (4, 4, 512), (2, 2, 1024), (1, 1, 2048)]),
    "sphereface4": (None, _SPHERE),
    "sphereface20": (None, _SPHERE),
    "sphereface36": (None, _SPHERE),
    "sphereface36_thin": (None, [(16, 16, 18), (8, 8, 36), (4, 4, 72), (2, 2, 144)]),
    "sphereface64": (None, _SPHERE),
    "sphereface64_paper": (None, _SPHERE),
}
# Where the embedding is not the pooled last map.
_EMBEDDING = {"shufflenet_v2": 1024, "mobilenet_v2": 1280, "mobilenet_v2_half": 1280}
_EMBEDDING |= {name: 512 for name in _CIFAR100 if name.startswith("sphereface")}

# Multiply-adds of convolutions and classifier for one image of 32x32, counted in PyTorch by hooks.
_MULTIPLY_ADDS = {
    "vgg8": 96_192_512,
    "vgg11": 209_438_720,
    "vgg13": 284_936_192,
    "vgg16": 398_182_400,
    "vgg19": 511_428_608,
    "resnet18": 555_468_800,
    "resnet34": 1_159_448_576,
    "resnet50": 1_298_014_208,
    "resnet101": 2_510_168_064,
    "resnet110": 253_155_584,
    "wrn_50_2": 3_684_573_184,
    "shufflenet_v1": 38_691_456,
    "shufflenet_v2": 44_504_448,
    "mobilenet_v2": 22_381_056,
    "mobilenet_v2_half": 6_523_648,
}


def test_every_network_is_listed_here():
    assert set(_CIFAR100) == registry._BUILT_IN  # other tests register their own
    assert set(_CIFAR100) <= set(models.names())


@pytest.mark.parametrize("name", _CIFAR100)
def test_shapes_parameters_and_multiply_adds(name):
    parameters, maps = _CIFAR100[name]
    network = models.create(name, num_classes=100)
    program, (outputs, variables) = _traced(network, (2, 32, 32, 3))
    assert _maps(outputs) == maps
    assert [m.shape for m in outputs.preactivations] == [m.shape for m in outputs.maps]
    assert outputs.embedding.shape == (2, _EMBEDDING.get(name, maps[-1][-1]))
    assert outputs.logits.shape == (2, 100)
    assert _count(variables) == (parameters or _by_arithmetic(name))
    if name in _MULTIPLY_ADDS:
        assert _multiply_adds(program) == 2 * _MULTIPLY_ADDS[name]


def _traced(network, shape):
    """The program of a network as accelerators trace it, with every convolution one operation."""
    with mock.patch.object(convolution.jax, "default_backend", lambda: "tpu"):
        program, shapes = jax.make_jaxpr(
            lambda key: network.init_with_output(key, jnp.zeros(shape), train=False),
            return_shape=True,
        )(jax.random.key(0))
    return program.jaxpr, shapes


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


def _by_arithmetic(name):
    """Parameters of the networks for which no published number is at hand, layer by layer."""

    def conv(fan_in, fan_out, k=3):  # with its batch norm
        return k * k * fan_in * fan_out + 2 * fan_out

    def vgg(*counts):
        total, before = 512 * 100 + 100, 3
        for count, width in zip(counts, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                total, before = total + conv(before, width) + width, width
        return total

    def basic(counts, widths):
        total, before = conv(3, widths[0]) + 100 * widths[-1] + 100, widths[0]
        for count, width in zip(counts, widths, strict=True):
            for _ in range(count):
                total += conv(before, width) + conv(width, width)
                total += conv(before, width, 1) if before != width else 0
                before = width
        return total

    def bottleneck(counts, wide):
        total, before = conv(3, 64) + 2048 * 100 + 100, 64
        for count, width in zip(counts, (64, 128, 256, 512), strict=True):
            for i in range(count):
                inner = wide * width
                total += conv(before, inner, 1) + conv(inner, inner) + conv(inner, 4 * width, 1)
                total += conv(before, 4 * width, 1) if i == 0 else 0
                before = 4 * width
        return total

    def sphere(units, widths=(64, 128, 256, 512)):
        total, before = 2 * 2 * widths[-1] * 512 + 512 + 512 * 100, 3
        for count, width in zip(units, widths, strict=True):
            total += 9 * before * width + 2 * width  # bias and slopes
            total += count * 2 * (9 * width * width + width)
            before = width
        return total

    return {
        "resnet8": lambda: basic((1, 1, 1), (16, 32, 64)),
        "resnet14": lambda: basic((2, 2, 2), (16, 32, 64)),
        "resnet44": lambda: basic((7, 7, 7), (16, 32, 64)),
        "wrn_16_1": lambda: basic((2, 2, 2), (16, 32, 64)) - 2 * (32 + 64),  # no shortcut norms
        "vgg11": lambda: vgg(1, 1, 2, 2, 2),
        "vgg16": lambda: vgg(2, 2, 3, 3, 3),
        "vgg19": lambda: vgg(2, 2, 4, 4, 4),
        "resnet34": lambda: basic((3, 4, 6, 3), (64, 128, 256, 512)),
        "resnet101": lambda: bottleneck((3, 4, 23, 3), 1),
        "wrn_50_2": lambda: bottleneck((3, 4, 6, 3), 2),
        "resnet18_slim": lambda: basic((2, 2, 2, 2), (15, 30, 60, 120)),
        "resnet34_slim": lambda: basic((3, 4, 6, 3), (39, 78, 156, 312)),
        "resnet50_vggface2": lambda: bottleneck((3, 4, 6, 3), 1) + (49 - 9) * 3 * 64,
        "sphereface4": lambda: sphere((0, 0, 0, 0)),
        "sphereface20": lambda: sphere((1, 2, 4, 1)),
        "sphereface36": lambda: sphere((2, 4, 8, 2)),
        "sphereface36_thin": lambda: sphere((2, 4, 8, 2), (18, 36, 72, 144)),
        "sphereface64": lambda: sphere((3, 7, 16, 3)),
        "sphereface64_paper": lambda: sphere((3, 8, 16, 3)),
    }[name]()


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
def test_imagenet_stem(name, parameters):
    network = models.create(name, num_classes=1000, stem="imagenet")
    outputs, variables = _shapes(network, (1, 224, 224, 3))
    assert _count(variables) == parameters
    assert [m[:2] for m in _maps(outputs)] == [(56, 56), (28, 28), (14, 14), (7, 7)]


# face_anchors 2.2 and 2.3: parameters without the classifier, and multiply-adds in millions, as
# counted from the released prototxt and by PyTorch; to as many digits as are given.
@pytest.mark.parametrize(
    ("name", "size", "parameters", "millions"),
    [
        ("sphereface4", (112, 96), 12.562e6, 164),
        ("sphereface20", (112, 96), 22.667e6, 1_750),
        ("sphereface36", (112, 96), 32.771e6, 3_335),
        ("sphereface64", (112, 96), 47_891_648, 5_912),
        ("sphereface64_paper", (112, 96), 48.187e6, 6_110),
        ("sphereface36_thin", (112, 96), 4_820_642, 267),
        ("resnet50_vggface2", (224, 224), 23.508e6, 3_856),
        ("resnet18_slim", (16, 16), 0.6156e6, 7.7),
        ("resnet34_slim", (32, 32), 7.905e6, 431),
        ("resnet34_slim", (16, 16), 7.905e6, 108),
    ],
)
def test_networks_for_faces(name, size, parameters, millions):
    program, (outputs, variables) = _traced(models.create(name, num_classes=1), (1, *size, 3))
    width = outputs.embedding.shape[1]
    head = sum(p.size for p in jax.tree.leaves(variables["params"]["classifier"]))
    count = _count(variables) - head
    if isinstance(parameters, int):
        assert count == parameters
    else:
        assert count == pytest.approx(parameters, rel=1e-4)
    assert (_multiply_adds(program) - width) / 1e6 == pytest.approx(millions, rel=3e-3)


def test_slim_resnets_have_the_papers_size():
    for name, parameters in {"resnet18_slim": 0.61e6, "resnet34_slim": 7.8e6}.items():
        _, variables = _shapes(models.create(name, num_classes=1))
        assert _count(variables) == pytest.approx(parameters, rel=0.02)


def test_width_multiplies_every_stage_and_the_stem():
    outputs, variables = _shapes(models.create("resnet50", num_classes=7, width=0.25))
    assert _maps(outputs) == [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]
    assert outputs.embedding.shape == (2, 512)
    assert variables["params"]["stem_conv"]["kernel"].shape == (3, 3, 3, 16)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet20", 1),
        ("resnet50", 4),
        ("wrn_16_1", 1),
        ("vgg8", 1),
        ("shufflenet_v1", 6),
        ("shufflenet_v2", 2),
        ("mobilenet_v2_half", 1),
    ],
)
def test_the_least_width_leaves_one_channel_or_one_a_group(name, channels):
    outputs, _ = _shapes(models.create(name, num_classes=2, width=1e-9))
    assert outputs.maps[0].shape[-1] == channels


@pytest.mark.parametrize("name", ["resnet18", "resnet8", "wrn_16_1", "vgg8", "shufflenet_v1"])
def test_bfloat16_leaves_parameters_statistics_embedding_and_logits_in_float32(name):
    outputs, variables = _shapes(models.create(name, num_classes=10, width=0.1, dtype="bfloat16"))
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {m.dtype for m in outputs.maps + outputs.preactivations} == {jnp.dtype("bfloat16")}
    assert outputs.logits.dtype == outputs.embedding.dtype == jnp.float32


def _variables(network, images):
    """Random ones, without compiling the initialisers."""
    _, shapes = _shapes(network, images.shape)
    rng = np.random.default_rng(1)
    fill = {"params": lambda p: rng.normal(size=p.shape), "batch_stats": lambda p: np.ones(p.shape)}
    return {
        kind: jax.tree.map(lambda p, fill=fill[kind]: jnp.asarray(fill(p), jnp.float32), tree)
        for kind, tree in shapes.items()
    }


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (models.create("resnet8", num_classes=3, width=0.2, dtype="bfloat16"), 8),
        (models.create("vgg8", num_classes=3, width=0.1, dtype="bfloat16"), 8),
        (WideResNet(num_classes=3, depth=10, width=0.2, dtype=jnp.bfloat16), 8),
        (ShuffleNetV1(3, blocks=(2, 0, 0), width=0.1, dtype=jnp.bfloat16), 16),
        (ShuffleNetV2(3, blocks=(2, 0, 0), width=0.1, dtype=jnp.bfloat16), 32),
        (MobileNetV2(3, blocks=(0, 0, 2, 0, 0, 0, 0), width=0.1, dtype=jnp.bfloat16), 64),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_a_step_in_bfloat16_is_finite_and_updates_the_statistics(network, size):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, size, size, 2)), jnp.float32)
    variables = _variables(network, images)

    # Hardly optimised, it compiles in half the time.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(variables):
        def loss(params):
            outputs, state = network.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(outputs.logits**2), (outputs, state["batch_stats"])

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, (outputs, statistics) = step(variables)
    for array in jax.tree.leaves((gradients, outputs.logits)):
        assert np.isfinite(array).all()
    for array in (g for g in jax.tree.leaves(gradients) if g.ndim > 1):
        assert np.abs(array).max() > 0
    for after in jax.tree.leaves(statistics):
        assert (after != 1).any()
    linear = isinstance(network, MobileNetV2)
    for activated, raw in zip(outputs.maps, outputs.preactivations, strict=True):
        np.testing.assert_array_equal(activated, raw if linear else nn.relu(raw))
    if not isinstance(network, ShuffleNetV2 | MobileNetV2):
        mean = outputs.maps[-1].astype(jnp.float32).mean((1, 2))
        np.testing.assert_allclose(outputs.embedding, mean, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("name", ["resnet18", "resnet8", "wrn_16_1"])
def test_any_size_and_number_of_channels(name, size, channels):
    outputs, _ = _shapes(models.create(name, num_classes=2, width=0.1), (1, *size, channels))
    assert outputs.maps[0].shape[1:3] == size
    assert outputs.maps[1].shape[1:3] == tuple(-(-n // 2) for n in size)


def test_vgg_pools_a_fourth_time_from_64_pixels_on_and_needs_8():
    vgg = models.create("vgg8", num_classes=2, width=0.1)
    for size, last in [(8, 1), (63, 7), (64, 4), (128, 8)]:
        outputs, _ = _shapes(vgg, (1, size, size, 3))
        assert outputs.maps[-1].shape[1] == last
    with pytest.raises(UsageError, match=r"VGG-8 .*4x9 pixels.*at least 8x8"):
        _shapes(vgg, (1, 4, 9, 3))


def test_wrn_drops_out_only_in_training():
    network = WideResNet(num_classes=2, depth=10, dropout=0.5)
    images = jax.random.normal(jax.random.key(2), (4, 4, 4, 1))
    variables = _variables(network, images)

    @functools.partial(jax.jit, static_argnames="train")
    def logits(key, train):
        mutable = ["batch_stats"] if train else False
        result = network.apply(
            variables, images, train=train, mutable=mutable, rngs={"dropout": key}
        )
        return result[0].logits if train else result.logits

    one, other = jax.random.split(jax.random.key(1))
    assert (logits(one, True) != logits(other, True)).any()
    np.testing.assert_array_equal(logits(one, False), logits(other, False))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet_18", {}, "no network 'resnet_18': choose one of resnet18, "),
        ("vgg12", {}, "choose one of vgg.*wrn_40_2"),
        ("resnet18", {"stemm": "cifar"}, "resnet18 has no option 'stemm'.*are stem, "),
        ("resnet20", {"stem": "imagenet"}, "resnet20 has no option 'stem': .*dtype, head, .*width"),
        ("vgg8", {"depth": 19}, "vgg8 has no option 'depth'"),
        ("mobilenet_v2", {"blocks": (1,)}, "no option 'blocks'.*dtype, widen, width"),
        ("mobilenet_v2_half", {"widen": 2}, "no option 'widen'"),
        ("mobilenet_v2", {"widen": 0}, "MobileNetV2 needs widen > 0, not 0"),
        ("resnet18", {"stem": "tiny"}, "stem='tiny' is unknown: choose one of cifar, imagenet"),
        ("resnet18", {"head": "angle"}, "head='angle' is unknown: choose one of angular, linear"),
        ("resnet18", {"head_scale": 64.0}, "head_scale=64.0 needs head='angular'"),
        ("resnet18_slim", {"channels": (1,)}, "resnet18_slim has no option 'channels'"),
        ("sphereface20", {"units": (1,)}, "sphereface20 has no option 'units'"),
        ("sphereface20", {"head": "none"}, "head='none' is unknown"),
        ("sphereface20", {"channels": (1,)}, r"channels=\(1,\) need one number a stage"),
        ("vgg8", {"width": 0}, "width > 0, not 100 and 0"),
        ("vgg8", {"num_classes": 0}, "num_classes >= 1"),
        ("vgg8", {"dtype": "int8"}, "cannot compute in int8"),
    ],
)
def test_errors_name_the_remedy(name, options, message):
    with pytest.raises(UsageError, match=message):
        models.create(name, **{"num_classes": 100, **options})


def test_networks_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, "_NETWORKS", dict(registry._NETWORKS))

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
            return models.Outputs(models.LinearMap(self.num_classes)(x), x, (), ())

    models.register("linear_tenfold", functools.partial(Linear, scale=10.0))
    assert models.names()[-2:] == ("linear", "linear_tenfold")
    outputs, _ = _shapes(models.create("linear", num_classes=5, scale=2.0))
    assert outputs.logits.shape == (2, 5)
    with pytest.raises(UsageError, match="linear_tenfold has no option 'scale'"):
        models.create("linear_tenfold", num_classes=5, scale=2.0)
    with pytest.raises(UsageError, match="'resnet18' is a network of kd_jax"):
        models.register("resnet18", Linear)
    models.register("linear", functools.partial(Linear, scale=3.0))  # as notebooks do
    assert models.create("linear", num_classes=5).scale == 3.0


def test_equal_requests_make_equal_networks():
    one, other = (models.create("resnet50", num_classes=10) for _ in range(2))
    assert one == other and hash(one) == hash(other)
