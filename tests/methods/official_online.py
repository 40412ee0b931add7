"""Writes `official_online.npz`: gradients of one update of each online method by public code.

    python tests/methods/official_online.py FOLDER

FOLDER holds checkouts: `ok` (DefangChen/OKDDip-AAAI2020 c6a05de), `one` (Lan1991Xu/ONE_NeurIPS2018
54afde3), `dml` (YingZhangDUT/Deep-Mutual-Learning 34a2058) and `byot`
(ArchipLab-LinfengZhang/pytorch-self-distillation-final 47ca93b). PyTorch is needed (2.13.0+cpu was
used). Forward passes and functions that train are the official ones, with the layers and batches of
`tiny_branches.py` and `tiny_networks.py`. The optimizer only keeps the gradients. The code of ONE
is changed in two places, because it is for PyTorch 0.3. Of the TensorFlow code of DML, only the
divergence is run, with PyTorch in place of `tf`.
"""

import ast
import pathlib
import sys
import time
import types

import numpy as np
import torch
from official_layers import Silent, conv, grad, linear, tensor
from official_networks import Network, Recorder, flat, rows
from official_others import namespace, official
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from methods import tiny_branches
from methods import tiny_networks as tiny
from official_byot import of_byot

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
PATH = pathlib.Path(__file__).with_name("official_online.npz")
EPOCH = tiny_branches.EPOCH


def functions(path, names, given, changes=()):
    """Returns functions of a script, without running the script."""
    text = (FOLDER / path).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    tree = ast.parse(text)
    tree.body = [x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name in names]
    exec(compile(tree, path, "exec"), given)
    return [given[name] for name in names]


def accuracy(*_, **__):
    return torch.zeros(1), torch.zeros(1)


def with_branches(model, order, branch="layer3_{}", classifier="classifier3_{}"):
    """Gives an official network the tiny layers; `order` are its branches in our order.

    Returns a function that reads the gradients.
    """
    params = tiny_branches.weights(len(order))
    model.conv1, model.bn1 = conv(params["shared"]), nn.Identity()
    model.layer1 = model.layer2 = nn.Identity()
    model.avgpool = model.avgpool_c = nn.AdaptiveAvgPool2d(1)
    names = [name for name in params if name != "shared"]
    names = ["student", *sorted(set(names) - {"student"})]
    for name, i in zip(names, order, strict=True):
        setattr(model, branch.format(i), nn.Sequential(conv(params[name]["conv"]), nn.ReLU()))
        head = params[name]["classifier"]
        setattr(model, classifier.format(i), linear(head["kernel"], head["bias"]))

    def read():
        found = {"shared": grad(model.conv1.weight)}
        for name, i in zip(names, order, strict=True):
            head = getattr(model, classifier.format(i))
            own = {"kernel": grad(head.weight), "bias": grad(head.bias)}
            own_conv = getattr(model, branch.format(i))[0].weight
            found[name] = {"conv": grad(own_conv), "classifier": own}
        return flat(found)

    return read


def gate(model, count):
    """Gives the gate given weights, and returns a function that reads their gradients."""
    params = tiny.filled(
        {
            "gate": {
                "linear": {"kernel": np.zeros((tiny_branches.SHARED, count)), "bias": 0.0},
                "norm": {"scale": np.zeros(count), "bias": np.zeros(count)},
            }
        },
        7,
    )["gate"]
    params["linear"]["bias"] = np.zeros(count)  # batch norm removes it
    model.control_v1 = linear(params["linear"]["kernel"], params["linear"]["bias"])
    model.bn_v1 = nn.BatchNorm1d(count)
    model.bn_v1.weight.data = tensor(params["norm"]["scale"])
    model.bn_v1.bias.data = tensor(params["norm"]["bias"])

    def read():
        norm = {"scale": grad(model.bn_v1.weight), "bias": grad(model.bn_v1.bias)}
        first = {"kernel": grad(model.control_v1.weight), "bias": grad(model.control_v1.bias)}
        return flat({"linear": first, "norm": norm})

    return read


def of_one():
    """Returns the gradients of `train` of ONE's `cifar_one.py`."""
    module = official(FOLDER / "one/models/cifar/resnet.py", "one_resnet")
    criterion_kl = official(FOLDER / "one/loss/kl_loss.py", "one_kl").KLLoss()
    model = module.ONE_ResNet(8, tiny.CLASSES)
    student = with_branches(model, (1, 2, 3), classifier="classfier3_{}")
    adapters = gate(model, 3)
    given = {"torch": torch, "args": namespace(consistency_rampup=80), "accuracy": accuracy}
    given |= {"AverageMeter": Silent, "Bar": Silent}
    given["ramps"] = official(FOLDER / "one/utils/ramps.py", "one_ramps")
    names = ("get_current_consistency_weight", "train")
    changes = (("async=True", "non_blocking=True"), (".data[0]", ".data"))
    Silent.__format__ = lambda self, _: ""
    *_, train = functions("one/cifar_one.py", names, given, changes)
    recorder = Recorder(model.parameters())
    recorder.read = lambda: (student(), adapters())
    train([rows()[:2]], model, nn.CrossEntropyLoss(), criterion_kl, recorder, EPOCH, False)
    return dict(zip(("one/student", "one/adapters"), recorder.steps[0], strict=True))


def okddip_train(path, model, read, args, weighted=True):
    """Returns the gradients of a function `train` of OKDDip's code."""
    utils = official(FOLDER / "ok/utils.py", "ok_utils")
    utils.RunningAverage = lambda: namespace(update=lambda _: None, value=lambda: 0.0)
    given = {"torch": torch, "nn": nn, "utils": utils, "np": np, "time": time, "tqdm": Silent}
    given |= {"logging": Silent(), "args": args}
    names = ("get_current_consistency_weight", "train") if weighted else ("train",)
    *weight, train = functions(path, names, given)
    recorder = Recorder(model.parameters())
    recorder.read = read
    criteria = nn.CrossEntropyLoss(), utils.KL_Loss(3.0), accuracy, args
    train([rows()[:2]], model, recorder, *criteria, *(f(EPOCH) for f in weight))
    return recorder.steps[0]


def of_okddip():
    """Returns the gradients of OKDDip, and of CL-ILR and ONE in its code."""
    args = namespace(num_branches=4, alpha=1.0, length=80, ind=False, avg=False, type=False)
    module = official(FOLDER / "ok/models/model_cifar/resnet_GL.py", "ok_gl")
    model = module.ResNet(
        module.BasicBlock, [1, 1, 1], tiny.CLASSES, 4, input_channel=tiny_branches.WIDTH
    )
    student = with_branches(model, (3, 0, 1, 2))  # the leader is the last
    shape = np.zeros((tiny_branches.WIDTH, 2))
    params = tiny.filled({"query": shape, "key": shape}, 7)
    model.query_weight, model.key_weight = linear(params["query"]), linear(params["key"])

    def read():
        maps = {"query": grad(model.query_weight.weight), "key": grad(model.key_weight.weight)}
        return student(), flat(maps)

    both = okddip_train("ok/train_GL.py", model, read, args)
    found = dict(zip(("okddip/student", "okddip/adapters"), both, strict=True))
    module = official(FOLDER / "ok/models/model_cifar/resnet_one.py", "ok_one")
    for name, avg in (("one_okddip", False), ("cl_ilr", True)):
        model = module.ResNet(module.BasicBlock, [1, 1, 1], tiny.CLASSES, 4, bpscale=avg, avg=avg)
        student = with_branches(model, (0, 1, 2, 3))
        adapters = (lambda: np.zeros(0)) if avg else gate(model, 4)
        args.avg = avg
        both = okddip_train(
            "ok/train_one.py", model, lambda a=adapters, s=student: (s(), a()), args
        )
        found |= dict(zip((f"{name}/student", f"{name}/adapters"), both, strict=True))
    return found


class Peers(nn.Module):
    """The three tiny networks, with the result of OKDDip's `MutualNet`."""

    def __init__(self):
        super().__init__()
        self.peers = nn.ModuleList([Network(role) for role in tiny.WIDTHS])

    def forward(self, x):
        return torch.stack([peer(x) for peer in self.peers], -1)

    def read(self):
        pairs = zip(tiny.WIDTHS, self.peers, strict=True)
        return flat({role: peer.gradients() for role, peer in pairs})


def of_dml():
    """Returns the gradients of DML in OKDDip's code, and of the official divergence."""
    found = {}
    for name, pairs in (("dml_each", True), ("dml_mean", False)):
        model = Peers()
        args = namespace(num_branches=3, type=pairs)
        found[name] = okddip_train("ok/train_DML.py", model, model.read, args, weighted=False)
    given = {"tf": types.SimpleNamespace(reduce_mean=torch.mean, reduce_sum=torch.sum)}
    given["tf"].log = torch.log
    given["tf"].nn = namespace(softmax=lambda x: functional.softmax(x, -1))
    (divergence,) = functions("dml/train_models.py", ("kl_loss_compute",), given)
    image, label = rows()[:2]
    gradients = {}
    for role in ("student", "teacher"):  # each loss has the variables of its own network
        networks = {x: Network(x) for x in ("student", "teacher")}
        own = networks.pop(role)
        (other,) = networks.values()
        logits = own(image)
        loss = functional.cross_entropy(logits, label) + divergence(logits, other(image))
        loss.backward()
        gradients[role] = own.gradients()
    return found | {"dml": flat(gradients)}


def main():
    torch.Tensor.cuda = lambda self, *_, **__: self
    found = of_one() | of_okddip() | of_dml() | of_byot(FOLDER / "byot")
    np.savez_compressed(PATH, **{n: x.astype(np.float32) for n, x in found.items() if x.size})
    for name, values in found.items():
        print(name, values.shape, float(np.abs(values).max()) if values.size else "")


if __name__ == "__main__":
    main()
