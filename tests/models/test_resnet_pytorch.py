"""A ResNet equals the same network written with PyTorch's functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from kd_jax.models.resnet import BasicBlock, Bottleneck, ResNet

torch = pytest.importorskip("torch")
functional = torch.nn.functional


class Twin:
    """RepDistiller's and torchvision's network, with the variables of ours."""

    def __init__(self, variables, network):
        self.params, self.statistics = (
            jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), variables[kind])
            for kind in ("params", "batch_stats")
        )
        jax.tree.map(lambda leaf: leaf.requires_grad_(), self.params)
        self.network = network

    def convolve(self, x, at, name, norm, stride, train):
        """A convolution and its batch norm; `at` is the path of both."""
        params, statistics = self.params, self.statistics
        for key in at:
            params, statistics = params[key], statistics[key]
        kernel = params[name]["kernel"].permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        running, params = statistics[norm], params[norm]
        return functional.batch_norm(
            x, running["mean"], running["var"], params["scale"], params["bias"], train
        )

    def __call__(self, x, train):
        imagenet = self.network.stem == "imagenet"
        x = self.convolve(x, (), "stem_conv", "stem_norm", 2 if imagenet else 1, train).relu()
        x = functional.max_pool2d(x, 3, 2, 1) if imagenet else x
        bottleneck = self.network.block is Bottleneck
        preactivations = []
        for stage, count in enumerate(self.network.blocks):
            for place in range(count):
                stride = 2 if stage and place == 0 else 1
                at, y = (f"stage{stage + 1}_block{place + 1}",), x
                strides = (1, stride, 1) if bottleneck else (stride, 1)
                for i, s in enumerate(strides):
                    y = y.relu() if i else y
                    y = self.convolve(y, at, f"Conv_{i}", f"BatchNorm_{i}", s, train)
                if x.shape != y.shape:
                    x = self.convolve(x, at, "shortcut_conv", "shortcut_norm", stride, train)
                y = x + y
                x = y.relu()
            preactivations.append(y)
        classifier = self.params["classifier"]
        return x.mean((2, 3)) @ classifier["kernel"] + classifier["bias"], preactivations


@pytest.mark.parametrize(
    ("block", "blocks", "stem", "size"),
    [
        (BasicBlock, (1, 2, 1), "cifar", 9),
        (BasicBlock, (2, 1), "imagenet", 18),
        (Bottleneck, (1, 2), "cifar", 6),
    ],
)
def test_equals_pytorch(filled, block, blocks, stem, size):
    network = ResNet(10, blocks, (4, 8, 16)[: len(blocks)], block, stem, stem_channels=4)
    x = jax.random.normal(jax.random.key(0), (8, size, size, 3))
    variables = filled(network, x, scale=0.3, train=False)

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(variables):
        def loss(params):
            outputs, state = network.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(outputs.logits**2), (outputs, state["batch_stats"])

        gradients, aux = jax.grad(loss, has_aux=True)(variables["params"])
        return gradients, *aux, network.apply(variables, x, train=False)

    gradients, trained, statistics, evaluated = run(variables)
    twin = Twin(variables, network)
    images = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
    for outputs, train in [(evaluated, False), (trained, True)]:
        logits, preactivations = twin(images, train)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
        close(outputs.logits, logits.detach().numpy())
        for ours, theirs in zip(outputs.preactivations, preactivations, strict=True):
            close(ours, theirs.detach().permute(0, 2, 3, 1).numpy())
    (logits**2).mean().backward()
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(twin.params), strict=True):
        scale = theirs.grad.abs().max().item()
        np.testing.assert_allclose(ours, theirs.grad, rtol=0, atol=2e-3 * scale + 1e-6)
    for path, ours in jax.tree_util.tree_leaves_with_path(statistics):
        theirs = functools.reduce(lambda tree, entry: tree[entry.key], path, twin.statistics)
        if path[-1].key == "mean":  # PyTorch's running variance is the unbiased one
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
