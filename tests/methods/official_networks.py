"""Tiny networks, batches and weights in PyTorch, for `official_updates.py`."""

import jax
import numpy as np
import tiny_networks as tiny
import torch
from torch import nn

from kd_jax import methods


class Network(nn.Module):
    """A tiny network that returns its features as those of RepDistiller, mdistiller and AFD."""

    def __init__(self, role, style="rd"):
        super().__init__()
        params, self.style, self.parts, channels = tiny.weights(role), style, [], 3
        for (name, stride), width in zip(tiny.STRIDES.items(), tiny.WIDTHS[role], strict=True):
            conv = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            conv.weight.data = torch.tensor(params[name].transpose(3, 2, 0, 1).copy())
            setattr(self, name, conv)
            channels = width
        self.classifier = nn.Linear(channels, tiny.CLASSES)
        self.classifier.weight.data = torch.tensor(params["classifier"]["kernel"].T.copy())
        self.classifier.bias.data = torch.tensor(params["classifier"]["bias"])

    def get_feat_modules(self):
        return nn.ModuleList([getattr(self, name) for name in tiny.STRIDES])

    def forward(self, x, is_feat=False, preact=False):
        features, befores = [], []
        for name in tiny.STRIDES:
            before = getattr(self, name)(x)
            befores.append(before)
            x = torch.relu(before)
            features.append(before if preact and name != "stem" else x)
        features.append(x.mean((2, 3)))
        logits = self.classifier(features[-1])
        if self.style == "md":
            found = {"feats": features[:-1], "preact_feats": befores}
            return logits, found | {"pooled_feat": features[-1]}
        return (features, logits) if is_feat else logits

    def gradients(self):
        """Returns the gradients in the order of the leaves of `tiny_networks.weights`."""
        grads = {
            name: getattr(self, name).weight.grad.numpy().transpose(2, 3, 1, 0)
            for name in tiny.STRIDES
        }
        head = {"kernel": self.classifier.weight, "bias": self.classifier.bias}
        grads["classifier"] = {
            name: (np.zeros(p.shape) if p.grad is None else p.grad.numpy()).T
            for name, p in head.items()
        }
        return flat(grads)


def flat(tree):
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return np.zeros(0, np.float32)
    return np.concatenate([np.ravel(x) for x in leaves]).astype(np.float32)


class Recorder:
    """An optimizer that changes nothing and keeps the gradients of every step."""

    def __init__(self, parameters=(), **_):
        self.parameters, self.steps, self.read = list(parameters), [], None

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        self.steps.append(self.read())


# ------------------------------------------------------------------- modules, ours and PyTorch's


def same(x):
    return x


def kernel_of_conv(x):
    return x.transpose(3, 2, 0, 1)


def linear(module, *path):
    weight = module.weight, np.transpose, np.transpose
    return {(*path, "kernel"): weight, (*path, "bias"): (module.bias, same, same)}


def conv(module, *path, bias=False):
    if module.bias is not None and not bias:
        module.bias.data.zero_()
    found = {(*path, "kernel"): (module.weight, kernel_of_conv, lambda x: x.transpose(2, 3, 1, 0))}
    return found | ({(*path, "bias"): (module.bias, same, same)} if bias else {})


def transposed(module, *path):
    found = {
        (*path, "kernel"): (
            module.weight,
            lambda x: x[::-1, ::-1].transpose(2, 3, 0, 1),
            lambda x: x.transpose(2, 3, 0, 1)[::-1, ::-1],
        )
    }
    return found | {(*path, "bias"): (module.bias, same, same)}


def norm(module, *path):
    scale = {(*path, "scale"): (module.weight, same, same)}
    return scale | {(*path, "bias"): (module.bias, same, same)}


def load(table, params):
    for path, (parameter, to_torch, _) in table.items():
        value = params
        for name in path:
            value = value[name]
        parameter.data = torch.tensor(to_torch(value).copy())


def module_gradients(table, params):
    def leaf(path, value):
        entry = table.get(tuple(key.key for key in path))
        if entry is None or entry[0].grad is None:
            return np.zeros_like(value)
        return entry[2](entry[0].grad.numpy())

    return flat(jax.tree_util.tree_map_with_path(leaf, params))


def rows(seed=0):
    """Returns a batch of RepDistiller's loaders."""
    b = tiny.batch(seed)
    contrast = np.concatenate([b["index"][:, None], b["negatives"]], 1)
    image = torch.tensor(b["image"].transpose(0, 3, 1, 2).copy())
    long = (torch.tensor(x).long() for x in (b["label"], b["index"], contrast))
    return (image, *long)


def student_first(role="teacher"):
    torch.manual_seed(0)
    return Network("student"), Network(role).eval()


def adapters(method, teacher="teacher"):
    """Returns the adapters of one of our methods, with the weights of the comparison."""
    roles = {"student": "student", "teacher": teacher}
    b = tiny.batch()
    outputs = {r: tiny.network(tiny.weights(name), b["image"]) for r, name in roles.items()}
    info = methods.StageInfo(tiny.MEMORY, tiny.CLASSES, 2, 1)
    return tiny.filled(method.init(jax.random.key(0), outputs, b, {}, info).params, 7)
