"""Writes `official_updates.npz`: gradients of one update of each method by its official code.

    python tests/methods/official_updates.py FOLDER

FOLDER holds checkouts: `rd` (HobbitLong/RepDistiller b84f547), `md` (megvii-research/mdistiller
a08d46f), `ls` (sunshangquan/logit-standardization-KD f6e5aa5), `afd`
(clovaai/attention-feature-distillation dd990d0) and `dist` (hunto/DIST_KD 2418f18). PyTorch is
needed (2.13.0+cpu was used). The networks, weights and batches are those of `tiny_networks.py`. The
functions that train are the official ones: `train_distill` and `init` of RepDistiller,
`forward_train` of mdistiller, `train_kl` of AFD. Only the optimizer is replaced: it keeps the
gradients. DIST has no training code in its repository; its loss is added to the cross-entropy.
"""

import io
import pathlib
import sys
import types

import numpy as np
import tiny_networks as tiny
import torch
from official_networks import (
    Recorder,
    adapters,
    conv,
    linear,
    load,
    module_gradients,
    norm,
    rows,
    same,
    student_first,
    transposed,
)
from official_others import logits_method, namespace, of_afd, of_dist, of_reviewkd
from torch import nn

from kd_jax import methods

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
PATH = pathlib.Path(__file__).with_name("official_updates.npz")
WIDTH = 5


def accuracy(output, target, topk=(1,)):
    return [torch.zeros(1) for _ in topk]


def repdistiller(name, distill, options, criterion, ours, build=None, seeds=(0,)):
    """Returns the gradients of `train_distill`."""
    from distiller_zoo import DistillKL
    from helper import loops

    loops.accuracy = accuracy
    student, teacher = student_first()
    params = adapters(ours)
    modules, table = build(student, teacher) if build else ([], {})
    load(table, params)
    gamma, alpha, beta = options
    opt = types.SimpleNamespace(
        distill=distill, gamma=gamma, alpha=alpha, beta=beta, hint_layer=2, print_freq=1000
    )
    recorder = Recorder([*student.parameters(), *(p for m in modules for p in m.parameters())])
    recorder.read = lambda: (student.gradients(), module_gradients(table, params))
    criteria = nn.ModuleList([nn.CrossEntropyLoss(), DistillKL(4.0), criterion])
    loader = [rows(s) if distill == "crd" else rows(s)[:3] for s in seeds]
    recorded = nn.ModuleList([student, *modules, teacher])
    loops.train_distill(1, loader, recorded, criteria, recorder, opt)
    return {
        f"{name}/{part}{step or ''}": values
        for step, found in enumerate(recorder.steps)
        for part, values in zip(("student", "adapters"), found, strict=True)
    }


def first_stage(name, distill, criterion, ours, build, teacher="teacher"):
    """Returns the gradients of `helper.pretrain.init`."""
    from helper import pretrain

    student, frozen = student_first(teacher)
    params = adapters(ours, teacher)
    modules, table = build(student, frozen)
    load(table, params)
    made = []

    def optimizer(parameters, **options):
        made.append(Recorder(parameters, **options))
        made[0].read = lambda: (
            np.zeros(0) if distill == "factor" else student.gradients(),
            module_gradients(table, params),
        )
        return made[0]

    pretrain.optim.SGD = optimizer
    opt = types.SimpleNamespace(
        distill=distill, model_s="tiny", learning_rate=1, momentum=0, weight_decay=0, init_epochs=1
    )
    logger = types.SimpleNamespace(log_value=lambda *_: None)
    pretrain.init(student, frozen, nn.ModuleList(modules), criterion, [rows()[:3]], logger, opt)
    ((of_student, of_modules),) = made[0].steps
    found = {f"{name}/adapters": of_modules}
    return found if distill == "factor" else found | {f"{name}/student": of_student}


def embeds(cls):
    def build(student, teacher):
        both = [cls(8, WIDTH), cls(8, WIDTH)]
        names = ("student", "teacher") if cls.__name__ == "LinearEmbed" else None
        table = {}
        for module, role in zip(both, ("student", "teacher"), strict=True):
            path = (role,) if names else (f"of_{role}", "linear")
            table |= linear(module.linear, *path)
        return both, table

    return build


def of_repdistiller():
    """Returns the gradients of the methods of one stage, except CRD."""
    import distiller_zoo as zoo
    from models import util

    def hint(student, teacher):
        module = util.ConvReg((1, 6, 4, 4), (1, 7, 4, 4))
        return [module], conv(module.conv, "hint", "conv") | norm(module.bn, "hint", "norm")

    found = {}
    m = methods
    found |= repdistiller("kd", "kd", (0.1, 0.9, 0), nn.Module(), m.KD())
    found |= repdistiller("fitnet", "hint", (1, 0, 100), zoo.HintLoss(), m.FitNet(), hint)
    found |= repdistiller("at", "attention", (1, 0, 1000), zoo.Attention(), m.AT())
    found |= repdistiller("nst", "nst", (1, 0, 50), zoo.NSTLoss(), m.NST())
    found |= repdistiller("sp", "similarity", (1, 0, 3000), zoo.Similarity(), m.SP())
    found |= repdistiller("rkd", "rkd", (1, 0, 1), zoo.RKDLoss(), m.RKD())
    found |= repdistiller("pkt", "pkt", (1, 0, 30000), zoo.PKT(), m.PKT())
    cc = m.CC(width=WIDTH)
    found |= repdistiller(
        "cc", "correlation", (1, 0, 0.02), zoo.Correlation(), cc, embeds(util.LinearEmbed)
    )
    channels = list(zip(tiny.WIDTHS["student"][1:], tiny.WIDTHS["teacher"][1:], strict=True))
    vid = nn.ModuleList([zoo.VIDLoss(s, t, t) for s, t in channels])

    def regressors(student, teacher):
        table = {}
        for i, each in enumerate(vid, start=1):
            table[f"map{i}", "log_scale"] = (each.log_scale, same, same)
            for j, k in enumerate((0, 2, 4), start=1):
                table |= conv(each.regressor[k], f"map{i}", f"conv{j}")
        return [], table

    return found | repdistiller("vid", "vid", (1, 0, 1), vid, m.VID(), regressors)


def of_crd():
    """Returns the gradients of two updates, and the memory after them."""
    from crd.criterion import CRDLoss

    sizes = {"s_dim": 8, "t_dim": 8, "feat_dim": WIDTH, "n_data": tiny.MEMORY}
    settings = {"nce_k": tiny.NEGATIVES, "nce_t": 0.07, "nce_m": 0.5}
    alias, torch.Tensor.cuda = torch.Tensor.cuda, lambda self, *_: self
    crd = CRDLoss(namespace(**sizes, **settings))
    torch.Tensor.cuda = alias
    rng = np.random.default_rng(3)
    banks = rng.uniform(-0.5, 0.5, (2, tiny.MEMORY, WIDTH)).astype(np.float32)
    crd.contrast.memory_v1.copy_(torch.tensor(banks[0]))
    crd.contrast.memory_v2.copy_(torch.tensor(banks[1]))

    def contrast(student, teacher):
        both = {"of_student": crd.embed_s, "of_teacher": crd.embed_t}
        table = {}
        for name, module in both.items():
            table |= linear(module.linear, name, "linear")
        return list(both.values()), table

    ours = methods.CRD(width=WIDTH, negatives=tiny.NEGATIVES)
    found = repdistiller("crd", "crd", (1, 0, 0.8), crd, ours, contrast, (0, 1))
    memory = [crd.contrast.memory_v1, crd.contrast.memory_v2]
    return found | {"crd/memory": np.stack([x.numpy() for x in memory])}


def of_ft():
    """Returns the gradients of the paraphraser, and of the second stage."""
    import distiller_zoo as zoo
    from models import util

    factors = util.Paraphraser((1, 8, 2, 2)), util.Translator((1, 8, 2, 2), (1, 8, 2, 2))

    def paraphraser(student, teacher):
        table, (module, _) = {}, factors
        for i in range(3):
            table |= conv(module.encoder[3 * i], "paraphraser", f"encoder{i + 1}", bias=True)
            table |= transposed(module.decoder[3 * i], "paraphraser", f"decoder{i + 1}")
        return [module], table

    def translator(student, teacher):
        table, (fixed, module) = paraphraser(student, teacher)[1], factors
        for parameter in fixed.parameters():
            parameter.grad, parameter.requires_grad = None, False
        for i in range(3):
            table |= conv(module.encoder[3 * i], "translator", f"conv{i + 1}")
            table |= norm(module.encoder[3 * i + 1], "translator", f"norm{i + 1}")
        return [module, fixed], table

    ours, loss = methods.Paraphrase(), nn.MSELoss()
    found = first_stage("paraphraser", "factor", loss, ours, paraphraser)
    loss, options = zoo.FactorTransfer(), (1, 0, 200)
    return found | repdistiller("ft", "factor", options, loss, methods.FT(), translator)


def of_first_stages():
    """Returns the gradients of the first stages of AB and FSP."""
    import distiller_zoo as zoo
    from models import util

    def connectors(student, teacher):
        shapes = [
            [
                (1, width, size, size)
                for width, size in zip(tiny.WIDTHS[role][1:], (8, 4, 2), strict=True)
            ]
            for role in ("student", "teacher")
        ]
        module = util.Connector(*shapes)
        second = module.connectors[1]
        table = conv(second.conv, "connector2", "conv") | norm(second.bn, "connector2", "norm")
        return [module, student.get_feat_modules()], table

    def backbone(student, teacher):
        return [student.get_feat_modules()], {}

    found = first_stage("ab", "abound", zoo.ABLoss(3), methods.AB(), connectors)
    shapes = [(1, width, 1, 1) for width in tiny.WIDTHS["student"]]
    fsp = zoo.FSP(shapes, shapes)
    return found | first_stage("fsp", "fsp", fsp, methods.FSP(), backbone, "same_width")


def main():
    sys.stdout, out = io.StringIO(), sys.stdout
    sys.path.insert(0, str(FOLDER / "rd"))
    found = of_repdistiller() | of_crd() | of_ft() | of_first_stages()
    dkd = {"CE_WEIGHT": 1.0, "ALPHA": 1.0, "BETA": 8.0, "T": 4.0, "WARMUP": 20}
    for epoch in (1, 30):
        cfg = namespace(DKD=namespace(**dkd))
        found |= logits_method(FOLDER / "md", f"dkd{epoch}", "DKD", cfg, epoch=epoch)
    cfg = namespace(
        EXPERIMENT=namespace(LOGIT_STAND=True),
        KD=namespace(TEMPERATURE=2.0, LOSS=namespace(CE_WEIGHT=0.1, KD_WEIGHT=9.0)),
        DKD=namespace(**dkd | {"T": 2.0, "ALPHA": 9.0, "BETA": 72.0}),
    )
    found |= logits_method(FOLDER / "ls", "kd_standardized", "KD", cfg)
    found |= logits_method(FOLDER / "ls", "dkd_standardized", "DKD", cfg, epoch=30)
    found |= of_reviewkd(FOLDER / "md")
    found |= of_afd(FOLDER / "afd") | of_dist(FOLDER / "dist")
    sys.stdout = out
    np.savez_compressed(PATH, **{n: x.astype(np.float32) for n, x in found.items() if x.size})
    for name, values in found.items():
        print(name, values.shape, float(np.abs(values).max()) if values.size else "")


if __name__ == "__main__":
    main()
