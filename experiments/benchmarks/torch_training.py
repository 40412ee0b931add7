"""A stage of HORKD in plain PyTorch, as it is usually written there, for comparison."""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's convention

from experiments.benchmarks.torch_losses import hybrid_order


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the maps `[N, C, H, W]`."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with the CIFAR stem."""

    def __init__(self, num_classes: int = 100, width: float = 1.0):
        super().__init__()
        widths = [max(1, round(width * c)) for c in (64, 64, 64, 128, 128, 256, 256, 512, 512)]
        strides = (1, 1, 2, 1, 2, 1, 2, 1)
        blocks = zip(itertools.pairwise(widths), strides, strict=True)
        self.body = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            *(Block(before, after, stride) for (before, after), stride in blocks),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns logits and embedding of images `[N, 3, H, W]`."""
        embedding = self.body(images)
        return self.classifier(embedding), embedding


def augmented(batch: torch.Tensor) -> torch.Tensor:
    """Returns random crops of a batch `[N, C, H, H]` with 4 pixels of padding, half mirrored."""
    n, device = len(batch), batch.device
    grid = torch.arange(batch.shape[-1], device=device)
    rows, columns = torch.randint(0, 9, (2, n, 1), device=device) + grid
    columns = torch.where(torch.rand(n, 1, device=device) < 0.5, columns.flip(1), columns)
    padded = F.pad(batch.float(), (4, 4, 4, 4)).permute(0, 2, 3, 1)
    each = torch.arange(n, device=device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def resized(batch: torch.Tensor, size: int) -> torch.Tensor:
    """Returns a normalized batch at a height and width."""
    if batch.shape[-1] != size:
        batch = F.interpolate(batch, (size, size), mode="bicubic", antialias=True)
    return (batch / 255 - 0.5) / 0.25


def training(
    images: np.ndarray,
    labels: np.ndarray,
    batches: Callable[[int], np.ndarray],
    weights: Mapping[str, float],
    *,
    width: float,
    resolution: int,
    bfloat16: bool,
    steps: int,
) -> Callable[[], None]:
    """Makes a function that trains some steps: crop, flip, views, both networks, loss, SGD.

    Args:
        images: uint8 `[N, H, W, 3]`; the teacher sees this size.
        labels: `[N]`.
        batches: returns the indices of the batch of a step.
        weights: weights of the terms of `hybrid_order`.
        width: width of both networks.
        resolution: height and width of the images that the student sees.
        bfloat16: compute in bfloat16 where PyTorch's autocast does.
        steps: number of steps per call.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    form = torch.channels_last if device == "cuda" else torch.contiguous_format
    torch.backends.cudnn.benchmark = True
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
    y = torch.from_numpy(np.asarray(labels, np.int64)).to(device)
    student, teacher = (ResNet18(100, width).to(device, memory_format=form) for _ in range(2))
    teacher.eval().requires_grad_(False)
    rule = torch.optim.SGD(student.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4)
    centers = torch.randn(100, student.classifier.in_features, device=device)
    cast = torch.autocast(device, torch.bfloat16, enabled=bfloat16)
    size, numbers = x.shape[-1], itertools.count()

    def view(batch: torch.Tensor, size: int) -> torch.Tensor:
        return resized(batch, size).contiguous(memory_format=form)

    def program() -> None:
        total = torch.zeros((), device=device)
        for _ in range(steps):
            index = torch.from_numpy(batches(next(numbers))).to(device)
            batch = augmented(x[index])
            with cast:
                with torch.no_grad():
                    _, target = teacher(view(batch, size))
                logits, embedding = student(view(batch, resolution))
            loss = F.cross_entropy(logits.float(), y[index])
            loss = loss + hybrid_order(embedding.float(), target.float(), centers, **weights)
            rule.zero_grad()
            loss.backward()
            rule.step()
            total += loss.detach()
        total.item()  # waits

    return program
