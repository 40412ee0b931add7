"""The losses of feature maps in plain PyTorch, as in `torch_losses`; maps are `[N, C, H, W]`.

Each operation is that of the official code, with its temporary arrays, such as the products
`[N, C, C', H W]` of NST and FSP.
"""

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's convention


def attention_transfer(student, teacher):
    """Computes AT as in `AT.py`."""
    return (_attention(student) - _attention(teacher)).pow(2).mean()


def factor_transfer(student, teacher):
    """Computes FT as in `FT.py`."""
    return (_attention(student) - _attention(teacher)).abs().mean()


def _attention(maps):
    return F.normalize(maps.pow(2).mean(1).view(len(maps), -1))


def activation_boundary(student, teacher, margin=1.0):
    """Computes AB of one layer as in `AB.py`."""
    below = (student + margin).pow(2) * ((student > -margin) & (teacher <= 0)).float()
    above = (student - margin).pow(2) * ((student <= margin) & (teacher > 0)).float()
    return (below + above).abs().sum() / len(student) / 1000 * 3


def neuron_selectivity(student, teacher):
    """Computes NST of one layer as in `NST.py`."""
    student, teacher = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))

    def kernel(a, b):
        return (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1).pow(2).mean()

    own = kernel(teacher, teacher).detach() + kernel(student, student)
    return own - 2 * kernel(student, teacher)


def flow_of_solution(student, teacher):
    """Computes FSP of two maps of the same height and width as in `FSP.py`."""

    def flow(shallow, deep):
        return (shallow.flatten(2).unsqueeze(1) * deep.flatten(2).unsqueeze(2)).mean(-1)

    return (flow(*student) - flow(*teacher)).pow(2).mean()


def variational_information(trained, teacher, epsilon=1e-5):
    """Computes VID from means and logarithmic scales as in `VID.py`."""
    mean, log_scale = trained
    variance = (torch.log(1 + torch.exp(log_scale)) + epsilon).view(1, -1, 1, 1)
    return (0.5 * ((mean - teacher).pow(2) / variance + torch.log(variance))).mean()


def attended_layers(student, teacher, attention):
    """Computes AFD as in `distill/AFD.py`, for weights `[N, T, S]` of the pairs."""
    loss = 0
    for i, deep in enumerate(teacher):
        target = _attention(deep)
        for j, x in enumerate(student):
            pooled = F.adaptive_avg_pool2d(x.pow(2).mean(1, keepdim=True), deep.shape[2:])
            distance = (F.normalize(pooled.flatten(1)) - target).pow(2).mean(1)
            loss = loss + (attention[:, i, j] * distance).mean()
    return loss


def hierarchical_context(student, teacher):
    """Computes the loss of ReviewKD of one map as in `ReviewKD.py` of mdistiller."""
    loss, share, shares = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student.shape[2]:
            share /= 2
            pooled = (F.adaptive_avg_pool2d(x, (size, size)) for x in (student, teacher))
            loss = loss + share * F.mse_loss(*pooled)
            shares += share
    return loss / shares
