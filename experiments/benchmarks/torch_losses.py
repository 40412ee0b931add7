"""The losses in plain PyTorch, as one usually finds them there: what the benchmark compares with.

Named as in `kd_jax.losses`, each a scalar, the mean over the batch. Operation for operation what
RepDistiller does (DKD: mdistiller), temporaries included: differences `[N, N, D]` for angles,
gathered rows `[N, K + 1, D]` for CRD, products `[N, C, C', H W]` for NST and FSP. HORKD and MK-MMD,
which have no official code, in the same style. Maps are `[N, C, H, W]`.
"""

import math

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own way

# ------------------------------------------------------------------------------------ logits


def cross_entropy(logits, labels):
    """Of logits `[N, C]` with labels `[N]`."""
    return F.cross_entropy(logits, labels)


def soft_target_kl(student, teacher, temperature=4.0):
    """KD, `KD.py`."""
    return temperature**2 * _divergence(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    )


def soft_target_cross_entropy(student, teacher, temperature=4.0):
    """KD without the teacher's entropy and without T^2."""
    scores = F.log_softmax(student / temperature, 1)
    return -(F.softmax(teacher / temperature, 1) * scores).sum(1).mean()


def decoupled_kd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    """DKD: mdistiller, `DKD.py`."""
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


# ------------------------------------------------------------------------------------ angles


def normalized_softmax(cosines, labels, scale=64.0):
    """NormFace, of cosines `[N, C]`."""
    return F.cross_entropy(scale * cosines, labels)


def cosface(cosines, labels, scale=64.0, margin=0.35):
    """CosFace, as in insightface."""
    own = torch.zeros_like(cosines).scatter_(1, labels[:, None], margin)
    return F.cross_entropy(scale * (cosines - own), labels)


def arcface(cosines, labels, scale=64.0, margin=0.5):
    """ArcFace, as in insightface."""
    cosine = cosines.gather(1, labels[:, None])
    within = cosine * math.cos(margin) - (1 - cosine**2).sqrt() * math.sin(margin)
    beyond = cosine - margin * math.sin(margin)
    target = torch.where(cosine > -math.cos(margin), within, beyond)
    return F.cross_entropy(scale * cosines.scatter(1, labels[:, None], target), labels)


def sphereface_r(cosines, labels, scale=30.0, margin=1.7):
    """SphereFace-R, v1, as in opensphere: angles of all classes, without gradient."""
    with torch.no_grad():
        factors = torch.ones_like(cosines).scatter_(1, labels[:, None], margin)
        shift = torch.cos((factors * torch.acos(cosines)).clamp(max=math.pi)) - cosines
    return F.cross_entropy(scale * (cosines + shift), labels)


def a_softmax(cosines, norms, labels):
    """A-Softmax of margin 4 without blend, as usual: cosines of four angles of all classes."""
    k = (4 * torch.acos(cosines.detach()) / math.pi).floor()
    psi = (-1) ** k * (8 * cosines**4 - 8 * cosines**2 + 1) - 2 * k
    own = F.one_hot(labels, cosines.shape[1]).bool()
    return F.cross_entropy(norms[:, None] * torch.where(own, psi, cosines), labels)


# -------------------------------------------------------------------------- features of an image


def feature_l1(student, teacher):
    """HORKD's L1."""
    return (student - teacher).abs().sum(1).mean()


def feature_mse(student, teacher):
    """Hint loss, `FitNet.py`."""
    return F.mse_loss(student, teacher)


def normalized_feature_l2(student, teacher):
    """KDim's distance of the normalised features."""
    return (F.normalize(student) - F.normalize(teacher)).norm(dim=1).mean()


# -------------------------------------------------------------------------------------- maps


def attention_transfer(student, teacher):
    """AT, `AT.py`."""
    return (_attention(student) - _attention(teacher)).pow(2).mean()


def factor_transfer(student, teacher):
    """FT, `FT.py`."""
    return (_attention(student) - _attention(teacher)).abs().mean()


def _attention(maps):
    return F.normalize(maps.pow(2).mean(1).view(len(maps), -1))


def activation_boundary(student, teacher, margin=1.0):
    """AB, `AB.py`, one layer."""
    below = (student + margin).pow(2) * ((student > -margin) & (teacher <= 0)).float()
    above = (student - margin).pow(2) * ((student <= margin) & (teacher > 0)).float()
    return (below + above).abs().sum() / len(student) / 1000 * 3


def neuron_selectivity(student, teacher):
    """NST, `NST.py`, one layer."""
    student, teacher = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))

    def kernel(a, b):
        return (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1).pow(2).mean()

    own = kernel(teacher, teacher).detach() + kernel(student, student)
    return own - 2 * kernel(student, teacher)


def flow_of_solution(student, teacher):
    """FSP, `FSP.py`, of two maps of one height and width."""

    def flow(shallow, deep):
        return (shallow.flatten(2).unsqueeze(1) * deep.flatten(2).unsqueeze(2)).mean(-1)

    return (flow(*student) - flow(*teacher)).pow(2).mean()


def variational_information(trained, teacher, epsilon=1e-5):
    """VID, `VID.py`, given the means and the logarithmic scales."""
    mean, log_scale = trained
    variance = (torch.log(1 + torch.exp(log_scale)) + epsilon).view(1, -1, 1, 1)
    return (0.5 * ((mean - teacher).pow(2) / variance + torch.log(variance))).mean()


# ---------------------------------------------------------------------------------- relations


def similarity_preserving(student, teacher):
    """SP, `SP.py`."""
    student, teacher = (F.normalize(torch.mm(x, x.t())) for x in (student, teacher))
    return (teacher - student).pow(2).sum() / len(student) ** 2


def probabilistic_transfer(student, teacher, epsilon=1e-7):
    """PKT, `PKT.py`."""

    def probabilities(x):
        x = x / (x.pow(2).sum(1, keepdim=True).sqrt() + epsilon)
        x = torch.where(torch.isnan(x), 0, x)
        similarities = (torch.mm(x, x.t()) + 1) / 2
        return similarities / similarities.sum(1, keepdim=True)

    q, p = probabilities(student), probabilities(teacher)
    return (p * torch.log((p + epsilon) / (q + epsilon))).mean()


def correlation_congruence(student, teacher):
    """CC, `CC.py`, of the projected embeddings."""
    gap = (student - teacher).abs()
    return (gap[:-1] * gap[1:]).sum(1).mean()


def correlation_congruence_paper(student, teacher, gamma=0.4, order=2):
    """CC as in the paper: Taylor series of the Gaussian kernel."""

    def correlations(x):
        x = F.normalize(x)
        products, factor, series = torch.mm(x, x.t()), 1.0, 0.0
        for p in range(order + 1):
            series = series + factor * products.pow(p)
            factor *= 2 * gamma / (p + 1)
        return math.exp(-2 * gamma) * series

    return (correlations(student) - correlations(teacher)).pow(2).mean()


def rkd_distance(student, teacher):
    """RKD-D, `RKD.py`."""

    def normalised(x):
        distances = _squared_distances(x).clamp(min=1e-12).sqrt().clone().fill_diagonal_(0)
        return distances / distances[distances > 0].mean()

    with torch.no_grad():
        target = normalised(teacher)
    return F.smooth_l1_loss(normalised(student), target)


def rkd_angle(student, teacher):
    """RKD-A, `RKD.py`."""
    with torch.no_grad():
        target = _cosines(teacher)
    return F.smooth_l1_loss(_cosines(student), target)


def pair_relation(student, teacher):
    """HORKD's L2, over the distinct pairs."""
    n = len(student)
    distinct = ~torch.eye(n, dtype=torch.bool, device=student.device)

    def normalised(x):
        distances = torch.cdist(x, x)[distinct]
        return distances / distances.mean()

    return (normalised(student) - normalised(teacher)).pow(2).mean()


def triplet_relation(student, teacher):
    """HORKD's L3, over the distinct triplets; the others add nothing to the sum."""
    n = len(student)
    total = F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="sum")
    return total / (n * (n - 1) * (n - 2))


def _cosines(x):
    """Cosine of the angle at j, `[j, i, k]`."""
    sides = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
    return torch.bmm(sides, sides.transpose(1, 2))


def center_relation(student, teacher, centers):
    """HORKD's LC."""
    return (torch.cdist(teacher, centers) - torch.cdist(student, centers)).pow(2).mean()


def hybrid_order(student, teacher, centers, feature=1.0, pair=0.02, triplet=0.01, center=1.0):
    """HORKD, all four terms."""
    return (
        feature * feature_l1(student, teacher)
        + pair * pair_relation(student, teacher)
        + triplet * triplet_relation(student, teacher)
        + center * center_relation(student, teacher, centers)
    )


# ------------------------------------------------------------------ distributions, contrasts


def mk_mmd(student, teacher, multipliers=(1, 2, 4, 8, 16)):
    """DAN's, of the normalised features; its differences `[2 N, 2 N, D]` as one Gram matrix."""
    n = len(student)
    squares = _squared_distances(torch.cat([F.normalize(student), F.normalize(teacher)]))
    variance = squares.detach().sum() / (4 * n * n - 2 * n)
    kernels = sum(torch.exp(-squares / (2 * m * variance)) for m in multipliers)
    xx, yy, xy, yx = kernels[:n, :n], kernels[n:, n:], kernels[:n, n:], kernels[n:, :n]
    return (xx + yy - xy - yx).mean()


def info_nce(student, teacher, temperature=0.07):
    """In-batch, student among teachers."""
    scores = torch.mm(F.normalize(student), F.normalize(teacher).t()) / temperature
    return F.cross_entropy(scores, torch.arange(len(student), device=student.device))


def contrastive_representation(trained, memory, index, negatives, temperature=0.07, epsilon=1e-7):
    """CRD, `crd/memory.py` and `crd/criterion.py`, without the memory's update."""
    student, teacher = trained
    batch, width = student.shape
    rows = torch.cat([index[:, None], negatives], 1)
    share = negatives.shape[1] / len(memory.student)

    def side(x, bank, partition):
        each = torch.index_select(bank, 0, rows.view(-1)).view(batch, -1, width)
        p = torch.exp(torch.bmm(each, x.view(batch, width, 1)) / temperature) / partition
        own, others = p[:, 0], p[:, 1:]
        own = torch.log(own / (own + share + epsilon))
        others = torch.log(share / (others + share + epsilon))
        return -(own.sum() + others.sum()) / batch

    student_side = side(student, memory.teacher, memory.partition[0])
    return student_side + side(teacher, memory.student, memory.partition[1])


def _squared_distances(x):
    squares = x.pow(2).sum(1)
    return squares[:, None] + squares[None] - 2 * torch.mm(x, x.t())
