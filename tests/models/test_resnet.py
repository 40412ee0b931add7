"""A ResNet against the same one in PyTorch, weights copied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.resnet import BasicBlock, Bottleneck, ResNet

torch = pytest.importorskip("torch")


class _Block(torch.nn.Module):
    """RepDistiller's (and torchvision's) basic block or bottleneck, not yet activated."""

    def __init__(self, before, features, stride, bottleneck):
        super().__init__()
        sizes = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        after = features * (4 if bottleneck else 1)
        widths = [before, *[features] * (len(sizes) - 1), after]
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(i, o, k, s, k // 2, bias=False)
            for i, o, (k, s) in zip(widths[:-1], widths[1:], sizes, strict=True)
        )
        self.norms = torch.nn.ModuleList(map(torch.nn.BatchNorm2d, widths[1:]))
        self.shortcut = None
        if stride != 1 or before != after:
            self.shortcut = torch.nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut_norm = torch.nn.BatchNorm2d(after)

    def forward(self, x):
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(torch.relu(y) if i else y))
        return y + (self.shortcut_norm(self.shortcut(x)) if self.shortcut else x)


class _Twin(torch.nn.Module):
    def __init__(self, counts, channels, bottleneck, imagenet):
        super().__init__()
        before = channels[0]
        self.stem = torch.nn.Conv2d(3, before, *((7, 2, 3) if imagenet else (3, 1, 1)), bias=False)
        self.stem_norm = torch.nn.BatchNorm2d(before)
        self.pool = torch.nn.MaxPool2d(3, 2, 1) if imagenet else torch.nn.Identity()
        self.stages = torch.nn.ModuleList()
        for stage, (count, features) in enumerate(zip(counts, channels, strict=True)):
            blocks = torch.nn.ModuleList()
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                blocks.append(_Block(before, features, stride, bottleneck))
                before = features * (4 if bottleneck else 1)
            self.stages.append(blocks)
        self.classifier = torch.nn.Linear(before, 10)

    def forward(self, x):
        x = self.pool(torch.relu(self.stem_norm(self.stem(x))))
        preactivations = []
        for blocks in self.stages:
            for block in blocks:
                preactivation = block(x)
                x = torch.relu(preactivation)
            preactivations.append(preactivation)
        return self.classifier(x.mean((2, 3))), preactivations


def _layers(twin):
    """Our name -> PyTorch layer."""
    yield ("stem_conv",), twin.stem
    yield ("stem_norm",), twin.stem_norm
    yield ("classifier",), twin.classifier
    for s, blocks in enumerate(twin.stages):
        for b, block in enumerate(blocks):
            name = f"stage{s + 1}_block{b + 1}"
            for i, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True)):
                yield (name, f"Conv_{i}"), conv
                yield (name, f"BatchNorm_{i}"), norm
            if block.shortcut is not None:
                yield (name, "shortcut_conv"), block.shortcut
                yield (name, "shortcut_norm"), block.shortcut_norm


def _put(tree, path, leaf):
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = jnp.asarray(leaf.detach().numpy().copy())


def _variables(twin):
    variables = {"params": {}, "batch_stats": {}}
    for path, layer in _layers(twin):
        if isinstance(layer, torch.nn.BatchNorm2d):
            _put(variables["params"], (*path, "scale"), layer.weight)
            _put(variables["params"], (*path, "bias"), layer.bias)
            _put(variables["batch_stats"], (*path, "mean"), layer.running_mean)
            _put(variables["batch_stats"], (*path, "var"), layer.running_var)
        elif isinstance(layer, torch.nn.Conv2d):
            _put(variables["params"], (*path, "kernel"), layer.weight.permute(2, 3, 1, 0))
        else:
            _put(variables["params"], (*path, "kernel"), layer.weight.T)
            _put(variables["params"], (*path, "bias"), layer.bias)
    return variables


@pytest.mark.parametrize(
    ("block", "blocks", "stem", "size"),
    [
        (BasicBlock, (1, 2, 1), "cifar", 9),
        (BasicBlock, (2, 1), "imagenet", 18),
        (Bottleneck, (1, 2), "cifar", 6),
    ],
)
def test_equals_pytorch(block, blocks, stem, size):
    torch.manual_seed(0)
    channels = (4, 8, 16)[: len(blocks)]
    twin = _Twin(blocks, channels, block is Bottleneck, stem == "imagenet")
    for layer in twin.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
    images = torch.randn(8, 3, size, size)
    network = ResNet(10, blocks, channels, block, stem, stem_channels=4)
    variables = _variables(twin)
    x = jnp.asarray(images.permute(0, 2, 3, 1).numpy())
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), x, train=False))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)

    @jax.jit
    def run(variables):
        def loss(params):
            outputs, state = network.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(outputs.logits**2), (outputs, state["batch_stats"])

        (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value, aux, gradients, network.apply(variables, x, train=False)

    value, (trained, statistics), gradients, evaluated = run(variables)

    with torch.no_grad():
        _assert_close(evaluated, *twin.eval()(images))
    logits, preactivations = twin.train()(images)
    expected = (logits**2).mean()
    expected.backward()
    _assert_close(trained, logits, preactivations)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-4)
    for path, layer in _layers(twin):
        ours = gradients
        for key in path:
            ours = ours[key]
        if isinstance(layer, torch.nn.BatchNorm2d):
            theirs = layer.weight.grad
            ours = ours["scale"]
            mean = statistics
            for key in path:
                mean = mean[key]
            np.testing.assert_allclose(mean["mean"], layer.running_mean, rtol=1e-3, atol=1e-4)
        else:
            theirs, ours = layer.weight.grad, ours["kernel"]
            theirs = theirs.permute(2, 3, 1, 0) if theirs.ndim == 4 else theirs.T
        scale = theirs.abs().max().item()
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=2e-3 * scale + 1e-6)


def _assert_close(outputs, logits, preactivations):
    for ours, theirs in zip(outputs.preactivations, preactivations, strict=True):
        theirs = theirs.detach().permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(outputs.logits, logits.detach().numpy(), rtol=1e-3, atol=1e-3)
