"""The losses in plain PyTorch, as they are usually written there, for comparison.

They have the names of `kd_jax.losses` and return a scalar, the mean over the batch. Each operation
is RepDistiller's (DKD: mdistiller's), with its temporary arrays: differences `[N, N, D]` for
angles, gathered rows `[N, K + 1, D]` for CRD. HORKD and MK-MMD, which have no official code, are
written in the same way. `torch_maps` has the losses of feature maps.
"""

import math

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's convention


def cross_entropy(logits, labels):
    """Computes the cross-entropy of logits `[N, C]` with labels `[N]`."""
    return F.cross_entropy(logits, labels)


def soft_target_kl(student, teacher, temperature=4.0):
    """Computes KD as in `KD.py`."""
    return temperature**2 * _divergence(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    )


def soft_target_cross_entropy(student, teacher, temperature=4.0):
    """Computes KD without the teacher's entropy and without T^2."""
    scores = F.log_softmax(student / temperature, 1)
    return -(F.softmax(teacher / temperature, 1) * scores).sum(1).mean()


def decoupled_kd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    """Computes DKD as in `DKD.py` of mdistiller."""
    own = torch.zeros_like(student).scatter_(1, labels[:, None], 1)

    def binary(logits):
        p = F.softmax(logits / temperature, 1)
        return torch.cat([(p * own).sum(1, keepdim=True), (p * (1 - own)).sum(1, keepdim=True)], 1)

    target = _divergence(binary(student).log(), binary(teacher))
    others = _divergence(
        F.log_softmax(student / temperature - 1000 * own, 1),
        F.softmax(teacher / temperature - 1000 * own, 1),
    )
    return temperature**2 * (alpha * target + beta * others)


def _divergence(log_q, p):
    return F.kl_div(log_q, p, reduction="sum") / len(p)


def normalized_softmax(cosines, labels, scale=64.0):
    """Computes NormFace of cosines `[N, C]`."""
    return F.cross_entropy(scale * cosines, labels)


def cosface(cosines, labels, scale=64.0, margin=0.35):
    """Computes CosFace as in insightface."""
    own = torch.zeros_like(cosines).scatter_(1, labels[:, None], margin)
    return F.cross_entropy(scale * (cosines - own), labels)


def arcface(cosines, labels, scale=64.0, margin=0.5):
    """Computes ArcFace as in insightface."""
    cosine = cosines.gather(1, labels[:, None])
    within = cosine * math.cos(margin) - (1 - cosine**2).sqrt() * math.sin(margin)
    beyond = cosine - margin * math.sin(margin)
    target = torch.where(cosine > -math.cos(margin), within, beyond)
    return F.cross_entropy(scale * cosines.scatter(1, labels[:, None], target), labels)


def sphereface_r(cosines, labels, scale=30.0, margin=1.7):
    """Computes SphereFace-R v1 as in opensphere: angles of all classes, without gradient."""
    with torch.no_grad():
        factors = torch.ones_like(cosines).scatter_(1, labels[:, None], margin)
        shift = torch.cos((factors * torch.acos(cosines)).clamp(max=math.pi)) - cosines
    return F.cross_entropy(scale * (cosines + shift), labels)


def a_softmax(cosines, norms, labels):
    """Computes A-Softmax of margin 4 without blend, as usual: cos(4 angle) of all classes."""
    k = (4 * torch.acos(cosines.detach()) / math.pi).floor()
    psi = (-1) ** k * (8 * cosines**4 - 8 * cosines**2 + 1) - 2 * k
    own = F.one_hot(labels, cosines.shape[1]).bool()
    return F.cross_entropy(norms[:, None] * torch.where(own, psi, cosines), labels)


def feature_l1(student, teacher):
    """Computes L1 of HORKD."""
    return (student - teacher).abs().sum(1).mean()


def feature_mse(student, teacher):
    """Computes the hint loss as in `FitNet.py`."""
    return F.mse_loss(student, teacher)


def normalized_feature_l2(student, teacher):
    """Computes the distance of the normalized features, as in KDim."""
    return (F.normalize(student) - F.normalize(teacher)).norm(dim=1).mean()


def inter_class_relation(student, teacher):
    """Computes DIST's distance of the predictions for each image as in its official code."""
    student, teacher = (F.softmax(logits, 1) for logits in (student, teacher))
    student, teacher = (p - p.mean(1, keepdim=True) for p in (student, teacher))
    return 1 - F.cosine_similarity(student, teacher, 1, 1e-8).mean()


def intra_class_relation(student, teacher):
    """Computes DIST's distance of the predictions for each class as in its official code."""
    student, teacher = (F.softmax(logits, 1) for logits in (student, teacher))
    student, teacher = (p - p.mean(0, keepdim=True) for p in (student, teacher))
    return 1 - F.cosine_similarity(student, teacher, 0, 1e-8).mean()


def similarity_preserving(student, teacher):
    """Computes SP as in `SP.py`."""
    student, teacher = (F.normalize(torch.mm(x, x.t())) for x in (student, teacher))
    return (teacher - student).pow(2).sum() / len(student) ** 2


def probabilistic_transfer(student, teacher, epsilon=1e-7):
    """Computes PKT as in `PKT.py`."""

    def probabilities(x):
        x = x / (x.pow(2).sum(1, keepdim=True).sqrt() + epsilon)
        x = torch.where(torch.isnan(x), 0, x)
        similarities = (torch.mm(x, x.t()) + 1) / 2
        return similarities / similarities.sum(1, keepdim=True)

    q, p = probabilities(student), probabilities(teacher)
    return (p * torch.log((p + epsilon) / (q + epsilon))).mean()


def correlation_congruence(student, teacher):
    """Computes CC of projected embeddings as in `CC.py`."""
    gap = (student - teacher).abs()
    return (gap[:-1] * gap[1:]).sum(1).mean()


def correlation_congruence_paper(student, teacher, gamma=0.4, order=2):
    """Computes CC as in the paper: the Taylor series of the Gaussian kernel."""

    def correlations(x):
        x = F.normalize(x)
        products, factor, series = torch.mm(x, x.t()), 1.0, 0.0
        for p in range(order + 1):
            series = series + factor * products.pow(p)
            factor *= 2 * gamma / (p + 1)
        return math.exp(-2 * gamma) * series

    return (correlations(student) - correlations(teacher)).pow(2).mean()


def rkd_distance(student, teacher):
    """Computes RKD-D as in `RKD.py`."""

    def normalized(x):
        distances = _squared_distances(x).clamp(min=1e-12).sqrt().clone().fill_diagonal_(0)
        return distances / distances[distances > 0].mean()

    with torch.no_grad():
        target = normalized(teacher)
    return F.smooth_l1_loss(normalized(student), target)


def rkd_angle(student, teacher):
    """Computes RKD-A as in `RKD.py`."""
    with torch.no_grad():
        target = _cosines(teacher)
    return F.smooth_l1_loss(_cosines(student), target)


def pair_relation(student, teacher):
    """Computes L2 of HORKD over the distinct pairs."""
    n = len(student)
    distinct = ~torch.eye(n, dtype=torch.bool, device=student.device)

    def normalized(x):
        distances = torch.cdist(x, x)[distinct]
        return distances / distances.mean()

    return (normalized(student) - normalized(teacher)).pow(2).mean()


def triplet_relation(student, teacher):
    """Computes L3 of HORKD over the distinct triplets; other triplets add 0 to the sum."""
    n = len(student)
    total = F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="sum")
    return total / (n * (n - 1) * (n - 2))


def _cosines(x):
    """Returns the cosines of the angles at j, `[j, i, k]`."""
    sides = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
    return torch.bmm(sides, sides.transpose(1, 2))


def center_relation(student, teacher, centers):
    """Computes L_C of HORKD."""
    return (torch.cdist(teacher, centers) - torch.cdist(student, centers)).pow(2).mean()


def hybrid_order(student, teacher, centers, feature=1.0, pair=0.02, triplet=0.01, center=1.0):
    """Computes all four terms of HORKD: sums over the tuples, divided by the number of images."""
    n = len(student)
    return (
        feature * feature_l1(student, teacher)
        + pair * (n - 1) / 2 * pair_relation(student, teacher)
        + triplet * (n - 1) * (n - 2) / 2 * triplet_relation(student, teacher)
        + center * len(centers) * center_relation(student, teacher, centers)
    )


def mk_mmd(student, teacher, multipliers=(1, 2, 4, 8, 16)):
    """Computes DAN's MK-MMD of the normalized features, from one Gram matrix."""
    n = len(student)
    squares = _squared_distances(torch.cat([F.normalize(student), F.normalize(teacher)]))
    variance = squares.detach().sum() / (4 * n * n - 2 * n)
    kernels = sum(torch.exp(-squares / (2 * m * variance)) for m in multipliers)
    xx, yy, xy, yx = kernels[:n, :n], kernels[n:, n:], kernels[:n, n:], kernels[n:, :n]
    return (xx + yy - xy - yx).mean()


def info_nce(student, teacher, temperature=0.07):
    """Computes InfoNCE: each student embedding among the teachers of the batch."""
    scores = torch.mm(F.normalize(student), F.normalize(teacher).t()) / temperature
    return F.cross_entropy(scores, torch.arange(len(student), device=student.device))


def contrastive_representation(trained, memory, index, negatives, temperature=0.07, epsilon=1e-7):
    """Computes CRD as in `crd/memory.py` and `crd/criterion.py`, without the memory's update."""
    student, teacher = trained
    batch, width = student.shape
    rows = torch.cat([index[:, None], negatives], 1)
    ratio = negatives.shape[1] / len(memory.student)

    def side(x, bank, partition):
        each = torch.index_select(bank, 0, rows.view(-1)).view(batch, -1, width)
        p = torch.exp(torch.bmm(each, x.view(batch, width, 1)) / temperature) / partition
        own, others = p[:, 0], p[:, 1:]
        own = torch.log(own / (own + ratio + epsilon))
        others = torch.log(ratio / (others + ratio + epsilon))
        return -(own.sum() + others.sum()) / batch

    student_side = side(student, memory.teacher, memory.partition[0])
    return student_side + side(teacher, memory.student, memory.partition[1])


def contrastive_representation_shared(
    trained, memory, index, negatives, valid, temperature=0.07, epsilon=1e-7
):
    """Computes CRD with negatives `[K]` of the whole batch, of which `valid` `[N, K]` count."""
    ratio = valid.sum(1, keepdim=True) / len(memory.student)

    def side(x, bank, partition):
        own = torch.exp((x * bank[index]).sum(1, keepdim=True) / temperature) / partition
        others = torch.exp(torch.mm(x, bank[negatives].t()) / temperature) / partition
        own = torch.log(own / (own + ratio + epsilon))
        return -(own.sum() + (torch.log(ratio / (others + ratio + epsilon)) * valid).sum()) / len(x)

    student, teacher = trained
    student_side = side(student, memory.teacher, memory.partition[0])
    return student_side + side(teacher, memory.student, memory.partition[1])


def _squared_distances(x):
    squares = x.pow(2).sum(1)
    return squares[:, None] + squares[None] - 2 * torch.mm(x, x.t())
