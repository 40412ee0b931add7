"""Residual networks with imported weights compute what the PyTorch networks compute."""

import functools

import pytest

from kd_jax import models
from kd_jax.models.resnet import Bottleneck, ResNet

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional


def register(name, blocks, channels, **values):
    """Registers a small ResNet of this test's."""

    def network(**options):
        return ResNet(blocks=blocks, channels=channels, stem_channels=4, **{**values, **options})

    models.register(name, network)


register("parity_basic", (1, 2, 1), (4, 8, 16))
register("parity_bottleneck", (1, 2), (4, 8), block=Bottleneck)
register("parity_wide", (1, 2), (4, 8), block=functools.partial(Bottleneck, widen=2))
caffe_block = functools.partial(Bottleneck, stride_first=True)
register("parity_caffe", (1, 2), (4, 8), block=caffe_block, stem="caffe")


def conv(inner, outer, size, stride=1):
    return nn.Conv2d(inner, outer, size, stride, size // 2, bias=False)


class Block(nn.Module):
    """A basic block, or a bottleneck of four times the channels."""

    def __init__(self, inner, channels, stride, bottleneck, widen, first, word, zeros):
        super().__init__()
        outer = 4 * channels if bottleneck else channels
        middle = widen * channels
        sizes = [(inner, channels, 3, stride), (channels, outer, 3, 1)]
        if bottleneck:
            strides = (stride, 1) if first else (1, stride)
            sizes = [
                (inner, middle, 1, strides[0]),
                (middle, middle, 3, strides[1]),
                (middle, outer, 1, 1),
            ]
        self.count, self.stride, self.added, self.word = len(sizes), stride, outer - inner, word
        for i, (a, b, size, s) in enumerate(sizes, start=1):
            setattr(self, f"conv{i}", conv(a, b, size, s))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        if (stride != 1 or inner != outer) and not zeros:
            setattr(self, word, nn.Sequential(conv(inner, outer, 1, stride), nn.BatchNorm2d(outer)))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y.relu() if i > 1 else y))
        if hasattr(self, self.word):
            x = getattr(self, self.word)(x)
        elif self.added:
            half = self.added // 2
            x = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half)
            )
        return (x + y).relu()


class Residual(nn.Module):
    """torchvision's, RepDistiller's, akamaster's or VGGFace2's network, by their names."""

    def __init__(
        self,
        blocks,
        channels,
        *,
        bottleneck=False,
        widen=1,
        stem="cifar",
        word="downsample",
        head="fc",
        zeros=False,
    ):
        super().__init__()
        self.stem, self.head, self.stages = stem, head, len(blocks)
        self.conv1 = conv(3, 4, 3) if stem == "cifar" else conv(3, 4, 7, 2)
        self.bn1 = nn.BatchNorm2d(4)
        inner = 4
        for stage, (count, width) in enumerate(zip(blocks, channels, strict=True), start=1):
            layer = []
            for place in range(count):
                stride = 2 if stage > 1 and place == 0 else 1
                layer.append(
                    Block(inner, width, stride, bottleneck, widen, stem == "caffe", word, zeros)
                )
                inner = 4 * width if bottleneck else width
            setattr(self, f"layer{stage}", nn.Sequential(*layer))
        setattr(self, head, nn.Linear(inner, 6))

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        if self.stem == "imagenet":
            x = functional.max_pool2d(x, 3, 2, 1)
        if self.stem == "caffe":
            x = functional.max_pool2d(x, 3, 2, 0, ceil_mode=True)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(outer)
        self.conv1, self.conv2 = conv(inner, outer, 3, stride), conv(outer, outer, 3)
        if inner != outer:
            self.convShortcut = conv(inner, outer, 1, stride)

    def forward(self, x):
        y = self.bn1(x).relu()
        z = self.conv2(self.bn2(self.conv1(y)).relu())
        return z + (self.convShortcut(y) if hasattr(self, "convShortcut") else x)


class Wide(nn.Module):
    """RepDistiller's `wrn_16_2` with half of the channels."""

    def __init__(self):
        super().__init__()
        self.conv1 = conv(3, 8, 3)
        inner = 8
        for stage, channels in enumerate((16, 32, 64), start=1):
            group = nn.Module()
            first = WideBlock(inner, channels, 2 if stage > 1 else 1)
            group.layer = nn.Sequential(first, WideBlock(channels, channels, 1))
            setattr(self, f"block{stage}", group)
            inner = channels
        self.bn1, self.fc = nn.BatchNorm2d(64), nn.Linear(64, 6)

    def forward(self, x):
        x = self.conv1(x)
        for stage in (1, 2, 3):
            x = getattr(self, f"block{stage}").layer(x)
        return self.fc(self.bn1(x).relu().mean((2, 3)))


basic = functools.partial(Residual, (1, 2, 1), (4, 8, 16))
bottleneck = functools.partial(Residual, (1, 2), (4, 8), bottleneck=True)
linear, large = {"word": "shortcut", "head": "linear"}, {"widen": 2, "stem": "imagenet"}
CASES = [
    ("parity_basic", {}, basic, 9),
    ("parity_basic", {"shortcut": "A"}, functools.partial(basic, zeros=True, **linear), 9),
    ("parity_bottleneck", {}, functools.partial(bottleneck, **linear), 8),
    ("parity_wide", {"stem": "imagenet"}, functools.partial(bottleneck, **large), 20),
    ("parity_caffe", {}, functools.partial(bottleneck, stem="caffe"), 20),
    ("wrn_16_2", {"width": 0.5}, Wide, 8),
]


@pytest.mark.parametrize(("network", "options", "make", "size"), CASES)
def test_equals_pytorch(torch_network, same_outputs, network, options, make, size):
    module, path = torch_network(make())
    same_outputs(module, path, network, options, (size, size))


def test_weights_for_bgr_see_rgb(torch_network, same_outputs):
    module, path = torch_network(basic())
    same_outputs(module, path, "parity_basic", {}, (9, 9), bgr=True)
