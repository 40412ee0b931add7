"""The other networks with imported weights compute what the PyTorch networks compute."""

import pytest

from kd_jax import models
from kd_jax.models.mobilenet import MobileNetV2
from kd_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from kd_jax.models.sphereface import SphereFace

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional


def register(name, module, **values):
    """Registers a small network of this test's."""
    models.register(name, lambda **options: module(**{**values, **options}))


register("parity_mobile", MobileNetV2, blocks=(1, 2, 1, 1, 1, 1, 1))
register("parity_shuffle1", ShuffleNetV1, blocks=(2, 1, 1))
register("parity_shuffle2", ShuffleNetV2, blocks=(2, 1, 1))
register("parity_sphere", SphereFace, units=(1, 2), channels=(4, 6), embedding_size=5)


def conv(inner, outer, size=1, stride=1, groups=1):
    return nn.Conv2d(inner, outer, size, stride, size // 2, groups=groups, bias=False)


def sequential(*parts):
    """A convolution, its norm and its activation take three numbers, as in the originals."""
    layers = [x for part in parts for x in (part, nn.BatchNorm2d(part.out_channels), nn.ReLU())]
    return nn.Sequential(*layers)


class RepVGG(nn.Module):
    """RepDistiller's `vgg8_bn`, with eighths of the channels."""

    def __init__(self):
        super().__init__()
        inner = 3
        for i, channels in enumerate((8, 16, 32, 64, 64)):
            block = nn.Sequential(nn.Conv2d(inner, channels, 3, 1, 1), nn.BatchNorm2d(channels))
            setattr(self, f"block{i}", block)
            inner = channels
        self.classifier = nn.Linear(inner, 6)

    def forward(self, x):
        for i in range(5):
            x = functional.max_pool2d(x, 2) if 0 < i < 4 else x
            x = getattr(self, f"block{i}")(x).relu()
        return self.classifier(x.mean((2, 3)))


class TorchvisionVGG(nn.Module):
    """torchvision's `vgg11_bn`, with eighths of the channels; returns the pooled features."""

    def __init__(self):
        super().__init__()
        layers, inner = [], 3
        for group in ((8,), (16,), (32, 32), (64, 64), (64, 64)):
            for channels in group:
                layers += [nn.Conv2d(inner, channels, 3, 1, 1), nn.BatchNorm2d(channels), nn.ReLU()]
                inner = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        head = [nn.Identity(), nn.Identity(), nn.Identity()] * 2
        self.classifier = nn.Sequential(*head, nn.Linear(4096, 2))

    def forward(self, x):
        return self.features[:-1](x).mean((2, 3))


def three_layers():
    """The classifier of chenyaofo's and OKDDip's VGGs, with eighths of the units."""
    hidden = [nn.Linear(64, 64), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*hidden, nn.Linear(64, 64), *hidden[1:], nn.Linear(64, 6))


class KuangliuVGG(TorchvisionVGG):
    """kuangliu's `VGG11`, with eighths of the channels."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(64, 6)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class ChenyaofoVGG(KuangliuVGG):
    """chenyaofo's `vgg11_bn`, with eighths of the channels."""

    def __init__(self):
        super().__init__()
        self.classifier = three_layers()


class OKDDipVGG(nn.Module):
    """OKDDip's `vgg16`, with eighths of the channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        inner = 8
        for i, (channels, count) in enumerate(((16, 2), (32, 3), (64, 3), (64, 3)), start=1):
            layers = []
            for _ in range(count):
                layers += [nn.Conv2d(inner, channels, 3, 1, 1), nn.BatchNorm2d(channels), nn.ReLU()]
                inner = channels
            setattr(self, f"layer{i}", nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.classifier = three_layers()

    def forward(self, x):
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        x = self.layer2(self.layer1(functional.max_pool2d(x, 2)))
        return self.classifier(self.layer4(self.layer3(x)).flatten(1))


class Inverted(nn.Module):
    def __init__(self, inner, outer, stride, expansion):
        super().__init__()
        wide = inner * expansion
        depthwise = conv(wide, wide, 3, stride, wide)
        self.conv = sequential(conv(inner, wide), depthwise, conv(wide, outer))[:-1]
        self.shortcut = stride == 1 and inner == outer

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


class Mobile(nn.Module):
    """RepDistiller's MobileNetV2 with eighths of the channels and fewer blocks."""

    def __init__(self):
        super().__init__()
        self.conv1, self.blocks, inner = sequential(conv(3, 4, 3, 2)), nn.ModuleList(), 4
        groups = [(1, 2, 1), (6, 3, 1), (6, 4, 2), (6, 8, 2), (6, 12, 1), (6, 20, 2), (6, 40, 1)]
        for i, (expansion, outer, stride) in enumerate(groups):
            blocks = [Inverted(inner, outer, stride, expansion)]
            blocks += [Inverted(outer, outer, 1, expansion)] if i == 1 else []
            self.blocks.append(nn.Sequential(*blocks))
            inner = outer
        self.conv2 = sequential(conv(inner, 160))
        self.classifier = nn.Sequential(nn.Linear(160, 6))

    def forward(self, x):
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.conv2(x).mean((2, 3)))


def shuffled(x, groups):
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Numbered(nn.Module):
    """Modules `conv1`, `bn1`, `conv2` ... with one method that computes one pair."""

    def add(self, *convolutions):
        for i, part in enumerate(convolutions, start=1):
            setattr(self, f"conv{i}", part)
            setattr(self, f"bn{i}", nn.BatchNorm2d(part.out_channels))

    def pair(self, i, x):
        return getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))


class Shuffle1Block(Numbered):
    def __init__(self, inner, outer, stride, first):
        super().__init__()
        self.stride, self.first, middle = stride, first, outer // 4
        depthwise = conv(middle, middle, 3, stride, middle)
        self.add(conv(inner, middle, groups=first), depthwise, conv(middle, outer, groups=3))

    def forward(self, x):
        y = shuffled(self.pair(1, x).relu(), self.first)
        y = self.pair(3, self.pair(2, y).relu())
        if self.stride == 1:
            return (x + y).relu()
        return torch.cat([y, functional.avg_pool2d(x, 3, 2, 1)], 1).relu()


class Shuffle1(Numbered):
    """RepDistiller's ShuffleV1 with half of the channels and fewer blocks."""

    def __init__(self):
        super().__init__()
        self.add(conv(3, 12))
        first = Shuffle1Block(12, 108, 2, 1)
        self.layer1 = nn.Sequential(first, Shuffle1Block(120, 120, 1, 3))
        self.layer2 = nn.Sequential(Shuffle1Block(120, 120, 2, 3))
        self.layer3 = nn.Sequential(Shuffle1Block(240, 240, 2, 3))
        self.linear = nn.Linear(480, 6)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.pair(1, x).relu())))
        return self.linear(x.mean((2, 3)))


class Down(Numbered):
    def __init__(self, inner, outer):
        super().__init__()
        half = outer // 2
        left = conv(inner, inner, 3, 2, inner), conv(inner, half)
        self.add(*left, conv(inner, half), conv(half, half, 3, 2, half), conv(half, half))

    def forward(self, x):
        left = self.pair(2, self.pair(1, x)).relu()
        right = self.pair(5, self.pair(4, self.pair(3, x).relu())).relu()
        return shuffled(torch.cat([left, right], 1), 2)


class Split(Numbered):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.add(conv(half, half), conv(half, half, 3, 1, half), conv(half, half))

    def forward(self, x):
        left, right = x.chunk(2, 1)
        right = self.pair(3, self.pair(2, self.pair(1, right).relu())).relu()
        return shuffled(torch.cat([left, right], 1), 2)


class Shuffle2(Numbered):
    """RepDistiller's ShuffleV2 with half of the channels and fewer blocks."""

    def __init__(self):
        super().__init__()
        self.add(conv(3, 12), conv(232, 512))
        self.layer1 = nn.Sequential(Down(12, 58), Split(58))
        self.layer2, self.layer3 = nn.Sequential(Down(58, 116)), nn.Sequential(Down(116, 232))
        self.linear = nn.Linear(512, 6)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.pair(1, x).relu())))
        return self.linear(self.pair(2, x).relu().mean((2, 3)))


class Angle(nn.Module):
    """clcarwin's `AngleLinear` without the margin: lengths times cosines."""

    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, classes))

    def forward(self, x):
        return x @ functional.normalize(self.weight, dim=0)


class Sphere(nn.Module):
    """clcarwin's network with two stages; the biases of its units are 0."""

    def __init__(self):
        super().__init__()
        for stage, (inner, outer, count) in enumerate([(3, 4, 3), (4, 6, 5)], start=1):
            for i in range(1, count + 1):
                part = nn.Conv2d(inner if i == 1 else outer, outer, 3, 2 if i == 1 else 1, 1)
                nn.init.zeros_(part.bias)
                setattr(self, f"conv{stage}_{i}", part)
                setattr(self, f"relu{stage}_{i}", nn.PReLU(outer))
        self.conv1_1.bias.data.fill_(0.3)
        self.fc5, self.fc6 = nn.Linear(6 * 3 * 2, 5), Angle(5, 6)

    def layer(self, name, x):
        return getattr(self, f"relu{name}")(getattr(self, f"conv{name}")(x))

    def forward(self, x):
        x = self.layer("1_1", x)
        x = x + self.layer("1_3", self.layer("1_2", x))
        x = self.layer("2_1", x)
        for i in (2, 4):
            x = x + self.layer(f"2_{i + 1}", self.layer(f"2_{i}", x))
        return self.fc6(self.fc5(x.flatten(1)))


class CosUnit(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels, 3), conv(channels, channels, 3)
        self.prelu1, self.prelu2 = nn.PReLU(channels), nn.PReLU(channels)

    def forward(self, x):
        return x + self.prelu2(self.conv2(self.prelu1(self.conv1(x))))


class CosFace(nn.Module):
    """MuggleWang's network with two stages."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.PReLU(4), CosUnit(4))
        units = CosUnit(6), CosUnit(6)
        self.layer2 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.PReLU(6), *units)
        self.fc = nn.Linear(6 * 3 * 2, 5)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).flatten(1))


@pytest.mark.parametrize(
    ("network", "options", "make", "size", "classes"),
    [
        ("vgg8", {"width": 0.125}, RepVGG, (16, 16), None),
        ("vgg11", {"width": 0.125}, TorchvisionVGG, (64, 64), 3),
        ("vgg11", {"width": 0.125, "pools": 5}, KuangliuVGG, (32, 32), None),
        (
            "vgg11",
            {"width": 0.125, "pools": 5, "hidden": (512, 512)},
            ChenyaofoVGG,
            (32, 32),
            None,
        ),
        ("vgg16_okddip", {"width": 0.125}, OKDDipVGG, (32, 32), None),
        ("parity_mobile", {"width": 0.125}, Mobile, (16, 16), None),
        ("parity_shuffle1", {"width": 0.5}, Shuffle1, (16, 16), None),
        ("parity_shuffle2", {"width": 0.5}, Shuffle2, (16, 16), None),
        ("parity_sphere", {}, Sphere, (12, 8), None),
        ("parity_sphere", {}, CosFace, (12, 8), 3),
    ],
)
def test_equals_pytorch(torch_network, same_outputs, network, options, make, size, classes):
    module, path = torch_network(make())
    same_outputs(module, path, network, options, size, num_classes=classes)
