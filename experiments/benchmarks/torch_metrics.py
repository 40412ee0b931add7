"""The losses of metric learning in plain PyTorch, as in `torch_losses`.

Embeddings are `[N, D]`, labels `[N]`. The mining and the options are those of `loss_cases`. Each
function returns a scalar.
"""

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's convention


def contrastive_pairs(embeddings, labels, margin=1.0):
    """Computes the contrastive loss as `ContrastiveLoss` of pytorch-metric-learning."""
    distances = torch.cdist(embeddings, embeddings)
    positive, negative = _pairs(labels)
    near, far = F.relu(distances[positive]), F.relu(margin - distances[negative])
    return sum(part.sum() / (part > 0).sum().clamp(min=1) for part in (near, far))


def n_pair(embeddings, labels):
    """Computes the N-pair loss of the first two images of each class."""
    order = labels.argsort(stable=True)
    _, counts = labels.unique(return_counts=True)
    first = (counts.cumsum(0) - counts)[counts > 1]
    anchors, positives = embeddings[order[first]], embeddings[order[first + 1]]
    scores = torch.mm(anchors, positives.t())
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def multi_similarity(embeddings, labels, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1):
    """Computes the multi-similarity loss with the selection of its paper."""
    x = F.normalize(embeddings)
    cosines = torch.mm(x, x.t())
    positive, negative = _pairs(labels)
    with torch.no_grad():
        least = cosines.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
        most = cosines.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
        positive &= cosines - epsilon < most
        negative &= cosines + epsilon > least
    pull = (torch.exp(-alpha * (cosines - base)) * positive).sum(1)
    push = (torch.exp(beta * (cosines - base)) * negative).sum(1)
    return (torch.log1p(pull) / alpha + torch.log1p(push) / beta).mean()


def proxy_nca(cosines, labels):
    """Computes proxy-NCA as `ProxyNCALoss` of pytorch-metric-learning, of cosines `[N, C]`."""
    squared_distances = 2 - 2 * cosines
    return F.cross_entropy(-squared_distances, labels)


def triplet_margin(embeddings, labels, margin=0.2):
    """Computes the triplet loss of FaceNet's semi-hard negatives, from distances `[P, N]`.

    P is the number of pairs of an anchor and a positive. A pair without a negative that is further
    away than the positive has the furthest negative.
    """
    distances = torch.cdist(embeddings, embeddings)
    positive, negative = _pairs(labels)
    anchors, positives = positive.nonzero(as_tuple=True)
    near, others, allowed = distances[anchors, positives], distances[anchors], negative[anchors]
    further = allowed & (others > near[:, None])
    nearest = others.masked_fill(~further, torch.inf).min(1).values
    furthest = others.masked_fill(~allowed, -torch.inf).max(1).values
    far = torch.where(further.any(1), nearest, furthest)
    return F.relu(near - far + margin)[allowed.any(1)].mean()


def triplet_margin_batch_hard(embeddings, labels, margin=0.2):
    """Computes the triplet loss of the furthest positive and the nearest negative."""
    near, far, chosen = _batch_hard(embeddings, labels)
    return F.relu(near - far + margin)[chosen].mean()


def distance_margin(trained, labels, margin=0.2):
    """Computes the margin loss of embeddings and boundaries `[C]`, with batch-hard triplets."""
    embeddings, boundary = trained
    near, far, chosen = _batch_hard(embeddings, labels)
    bounds = boundary[labels]
    terms = torch.cat(
        [F.relu(near - bounds + margin)[chosen], F.relu(bounds - far + margin)[chosen]]
    )
    return terms.sum() / (terms > 0).sum().clamp(min=1)


def neighbor_ranking(student, teacher, alpha=3.0, beta=3.0, neighbors=4):
    """Computes DarkRank as `HardDarkRank` of lenscloth/RKD."""
    # The first image of each ranking is the image itself.
    order = torch.cdist(teacher, teacher).argsort(1)[:, 1 : neighbors + 1]
    scores = -alpha * torch.cdist(student, student).pow(beta).gather(1, order)
    remaining = [torch.logsumexp(scores[:, i:], 1) for i in range(order.shape[1])]
    return (torch.stack(remaining, 1) - scores).sum(1).mean()


def distance_matrix_gap(student, teacher):
    """Computes MKD's relative teacher as in `train_distillation.py` of EmbeddingDistillation."""
    student, teacher = (F.normalize(x) for x in (student, teacher))
    return torch.norm(torch.cdist(student, student) - torch.cdist(teacher, teacher), p=2)


def _pairs(labels):
    """Returns the masks `[N, N]` of the positive and of the negative pairs."""
    same = labels[:, None] == labels[None]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def _batch_hard(embeddings, labels):
    """Returns distances `[N]` of positives and of negatives, and the mask of the triplets."""
    distances = torch.cdist(embeddings, embeddings)
    positive, negative = _pairs(labels)
    near = distances.masked_fill(~positive, -torch.inf).max(1).values
    far = distances.masked_fill(~negative, torch.inf).min(1).values
    return near, far, positive.any(1) & negative.any(1)
