"""Updates of mdistiller, logit standardization, AFD and DIST, for `official_updates.py`."""

import importlib.util
import sys
import types

import torch
from official_networks import (
    Network,
    Recorder,
    adapters,
    conv,
    linear,
    load,
    module_gradients,
    norm,
    rows,
    same,
)
from torch import nn

from kd_jax import methods

QK = 6


def namespace(**values):
    return types.SimpleNamespace(**values)


def official(path, name, package=None):
    """Imports one file of a checkout."""
    spec = importlib.util.spec_from_file_location(f"{package}.{name}" if package else name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def logits_method(folder, name, file, cfg, **options):
    """Returns the gradients of `forward_train` of mdistiller and of logit standardization."""
    package = f"{folder.name}_distillers"
    sys.modules[package] = types.ModuleType(package)
    official(folder / "mdistiller/distillers/_base.py", "_base", package)
    module = official(folder / f"mdistiller/distillers/{file}.py", file, package)
    student, teacher = Network("student", "md"), Network("teacher", "md").eval()
    image, label, _ = rows()[:3]
    distiller = getattr(module, file)(student, teacher, cfg)
    distiller.train()
    _, found = distiller.forward_train(image, label, **options)
    sum(found.values()).backward()
    return {f"{name}/student": student.gradients()}


def of_reviewkd(folder):
    """Returns the gradients of `forward_train` of mdistiller's ReviewKD."""
    package = "reviewkd_distillers"
    sys.modules[package] = types.ModuleType(package)
    official(folder / "mdistiller/distillers/_base.py", "_base", package)
    module = official(folder / "mdistiller/distillers/ReviewKD.py", "ReviewKD", package)
    student, teacher = Network("student", "md"), Network("teacher", "md").eval()
    sizes = [1, 2, 4, 8]
    names = {"SHAPES": sizes, "OUT_SHAPES": sizes, "CE_WEIGHT": 1.0, "REVIEWKD_WEIGHT": 1.0}
    names |= {"IN_CHANNELS": [4, 6, 8, 8], "OUT_CHANNELS": [4, 7, 8, 8]}
    names |= {"WARMUP_EPOCHS": 20, "STU_PREACT": False, "MAX_MID_CHANNEL": 512}
    distiller = module.ReviewKD(student, teacher, namespace(REVIEWKD=namespace(**names)))
    table = {}
    for level, abf in enumerate(reversed(list(distiller.abfs))):
        for part, layers in (("in", abf.conv1), ("out", abf.conv2)):
            table |= conv(layers[0], "review", f"conv{level}_{part}")
            table |= norm(layers[1], "review", f"norm{level}_{part}")
        if abf.att_conv is not None:
            table |= conv(abf.att_conv[0], "review", f"gate{level}", bias=True)
    params = adapters(methods.ReviewKD())
    load(table, params)
    image, label, _ = rows()[:3]
    distiller.train()
    _, found = distiller.forward_train(image, label, epoch=30)
    sum(found.values()).backward()
    found = student.gradients(), module_gradients(table, params)
    return dict(zip(("reviewkd/student", "reviewkd/adapters"), found, strict=True))


def of_afd(folder):
    """Returns the gradients of AFD's `train_kl`."""
    for name in ("models", "helper", "distill", "utils"):
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    distill = importlib.import_module("distill")
    utils = importlib.import_module("utils")
    student, teacher = Network("student"), Network("teacher").eval()
    image = rows()[0]
    shapes = [[f.size() for f in net(image, is_feat=True)[0][1:4]] for net in (student, teacher)]
    args = namespace(
        guide_layers=[1, 2, 3], hint_layers=[1, 2, 3], qk_dim=QK, alpha=0.9, beta=200.0
    )
    args.s_shapes, args.t_shapes = shapes
    args.n_t, args.unique_t_shapes = utils.unique_shape(args.t_shapes)
    module = distill.AFD(args)
    attention, table, root = module.attention, {}, "attention"
    for role, p in (("teacher", attention.p_t), ("student", attention.p_s)):
        table[root, f"{role}_positions"] = (p, same, same)
    layers = {f"key{i}": x for i, x in enumerate(attention.linear_trans_s.key_layer)}
    layers |= {f"query{i}": x for i, x in enumerate(attention.linear_trans_t.query_layer)}
    layers["bilinear"] = attention.linear_trans_s.bilinear
    for name, layer in layers.items():
        table |= linear(layer.linear, root, name) | norm(layer.bn, root, f"{name}_norm")
    params = adapters(methods.AFD(width=QK))
    load(table, params)
    recorder = Recorder([*student.parameters(), *module.parameters()])
    recorder.read = lambda: (student.gradients(), module_gradients(table, params))
    criteria = nn.CrossEntropyLoss(), distill.DistillKL(4.0), module
    modules, loader = nn.ModuleList([student, module, teacher]), [rows()[:2]]
    utils.train_kl(modules, recorder, criteria, loader, torch.device("cpu"), args)
    return dict(zip(("afd/student", "afd/adapters"), recorder.steps[0], strict=True))


def of_dist(folder):
    module = official(folder / "segmentation/losses/dist_kd.py", "dist_kd")
    student, teacher = Network("student"), Network("teacher").eval()
    image, label, _ = rows()[:3]
    logits = student(image)
    with torch.no_grad():
        target = teacher(image)
    loss = nn.functional.cross_entropy(logits, label) + module.DIST(2.0, 2.0)(logits, target)
    loss.backward()
    return {"dist/student": student.gradients()}
