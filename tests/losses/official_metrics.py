"""Writes `official_metrics.npz`: values and gradients of metric learning by the reference code.

    python tests/losses/official_metrics.py FOLDER

FOLDER holds a checkout of lenscloth/RKD at 0a6c3c0. PyTorch and pytorch-metric-learning are needed
(2.13.0+cpu and 2.9.0 were used). Everything is computed in float64. Three parts of PyTorch are
replaced: `triplet_margin_loss` gets eps = 0 (its default adds 1e-6 to each difference),
`multinomial` inverts the cumulative sum at the numbers that `triplet_margin` draws with the key
`jax.random.key(0)`, and RKD's masks of uint8, which PyTorch no longer takes as indices, become
booleans.
"""

import functools
import pathlib
import sys

import jax
import numpy as np
import torch
from pytorch_metric_learning import losses, miners, reducers

sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else ".")
from metric import loss as rkd
from metric import pairsampler

PATH = pathlib.Path(__file__).with_name("official_metrics.npz")
LABELS = np.array([0, 1, 0, 2, 1, 3, 0, 2, 1, 0])  # one class has one image
rng = np.random.default_rng(0)
STUDENT, TEACHER = rng.normal(size=(10, 6)) / 2, rng.normal(size=(10, 8)) / 2
PROXIES = rng.normal(size=(5, 6))


def of(function, *arrays):
    """Returns the value and the gradients by the arrays."""
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    value = function(*tensors)
    return value.item(), *(x.numpy() for x in torch.autograd.grad(value, tensors))


def mine_as_rkd():
    """Replaces parts of PyTorch, see above."""
    masks = pairsampler.pos_neg_mask
    pairsampler.pos_neg_mask = lambda labels: [mask.bool() for mask in masks(labels)]
    plain = torch.nn.functional.triplet_margin_loss
    torch.nn.functional.triplet_margin_loss = functools.partial(plain, eps=0)
    keys = [jax.random.fold_in(jax.random.key(0), row) for row in range(len(LABELS))]
    uniform = np.stack([jax.random.uniform(key, LABELS.shape) for key in keys])
    positive = (LABELS[:, None] == LABELS) & ~np.eye(len(LABELS), dtype=bool)

    def multinomial(weight, number):
        assert number == 1
        bounds = torch.tensor(uniform[positive])[:, None] * weight.sum(1, keepdim=True)
        return (weight.cumsum(1) <= bounds).sum(1, keepdim=True)

    torch.multinomial = multinomial


def of_rkd():
    mine_as_rkd()
    labels = torch.tensor(LABELS)
    samplers = {
        "all": pairsampler.AllPairs,
        "hard": pairsampler.HardNegative,
        "semihard": pairsampler.SemiHardNegative,
        "distance": pairsampler.DistanceWeighted,
    }
    for name, sampler in samplers.items():
        triplet = rkd.L2Triplet(sampler=sampler(), margin=0.2)
        yield f"rkd_{name}", of(lambda x, triplet=triplet: triplet(x, labels), STUDENT)
    teacher = torch.tensor(TEACHER)
    for alpha, beta in ((3, 3), (2, 2)):
        rank = rkd.HardDarkRank(alpha=alpha, beta=beta)
        yield f"rank_{alpha}_{beta}", of(lambda x, rank=rank: rank(x, teacher), STUDENT)


def of_margin():
    """Yields the margin loss with a gradient by its boundary."""
    for name, classes, nu in (("margin", None, 0.3), ("margin_classes", 4, 0.1)):
        loss = losses.MarginLoss(learn_beta=True, num_classes=classes, nu=nu).double()
        with torch.no_grad():
            loss.beta.copy_(1.2 + torch.linspace(0, 0.3, len(loss.beta), dtype=torch.float64))

        def value(x, beta, loss=loss):
            del loss.beta
            loss.beta = beta
            return loss(x, torch.tensor(LABELS))

        yield name, of(value, STUDENT, loss.beta.detach().numpy())


def of_classifiers():
    """Yields losses with trained vectors of the classes, and gradients by them."""
    arguments = {"num_classes": len(PROXIES), "embedding_size": STUDENT.shape[1]}
    for name, loss, field in (
        ("proxy_nca", losses.ProxyNCALoss(**arguments, softmax_scale=3), "proxies"),
        ("normalized_softmax", losses.NormalizedSoftmaxLoss(**arguments), "W"),
        ("arcface", losses.ArcFaceLoss(**arguments), "W"),
    ):
        loss = loss.double()

        def value(x, proxies, loss=loss, field=field):
            delattr(loss, field)
            setattr(loss, field, proxies if field == "proxies" else proxies.T)
            return loss(x, torch.tensor(LABELS))

        yield name, of(value, STUDENT, PROXIES)


def of_pml():
    """Yields losses of the pairs and triplets of pytorch-metric-learning."""
    labels, mean = torch.tensor(LABELS), reducers.MeanReducer()
    hard, similar = miners.BatchHardMiner(), miners.MultiSimilarityMiner(epsilon=0.1)
    for name, loss, miner in (
        ("triplet_nonzero", losses.TripletMarginLoss(margin=0.2), None),
        ("batch_hard", losses.TripletMarginLoss(margin=0.2, reducer=mean), hard),
        ("batch_hard_nonzero", losses.TripletMarginLoss(margin=0.2), hard),
        ("contrastive", losses.ContrastiveLoss(pos_margin=0.1, neg_margin=1), None),
        ("n_pair", losses.NPairsLoss(), None),
        ("multi_similarity", losses.MultiSimilarityLoss(), None),
        ("multi_similarity_mined", losses.MultiSimilarityLoss(), similar),
    ):

        def value(x, loss=loss, miner=miner):
            return loss(x, labels, miner(x.detach(), labels) if miner else None)

        yield name, of(value, STUDENT)
    yield from of_margin()
    yield from of_classifiers()


def main():
    found = {"student": STUDENT, "teacher": TEACHER, "proxies": PROXIES, "labels": LABELS}
    for name, (value, *gradients) in [*of_rkd(), *of_pml()]:
        found[name] = np.float64(value)
        for i, gradient in enumerate(gradients):
            found[f"{name}/gradient{i}"] = gradient
    np.savez_compressed(PATH, **found)


if __name__ == "__main__":
    main()
