"""Contrastive losses: the teacher's embedding of the same image against those of others."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics

# RepDistiller's guard against the logarithm of 0.
_EPSILON = 1e-7


def info_nce(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    temperature: ArrayLike = 0.07,
    symmetric: bool = False,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """InfoNCE: each image's own teacher embedding against those of the other images.

    The mean over i of -log(exp(s_ii) / sum_j exp(s_ij)), s_ij = cos(g_i, f_j) / T, g the student's
    and f the teacher's embeddings. A row of zeros has cosine 0 with gradient 0.

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, D].
        temperature: T > 0, a scalar; may be traced.
        symmetric: average with the loss of the teacher's images among the student's, as CLIP does.
        where: [N], False for rows to leave out.
        axis_name: mapped axis over whose devices the batch is spread; the value is that of the
            global batch on each of them, and the gradient right after a `pmean` over it.

    Returns:
        A scalar; 0 where there is one image.

    Raises:
        ValueError: the shapes differ, or are not [N, D]; the mask is not boolean.

    References:
        Van den Oord et al., `Representation learning with contrastive predictive coding
        <https://arxiv.org/abs/1807.03748>`_, 2018, eq. 4; Radford et al., `CLIP
        <https://arxiv.org/abs/2103.00020>`_, ICML 2021, for the symmetric form.
    """
    student, teacher = _numerics.as_rows(student, teacher)
    mask = _numerics.as_mask(where, student)
    student, teacher = (
        _numerics.gather_rows(_numerics.unit_rows(_numerics.keep_rows(x, mask)), axis_name)
        for x in (student, teacher)
    )
    mask = _numerics.gather_rows(mask, axis_name)
    cosines = jnp.matmul(student, teacher.T, precision=_numerics.HIGHEST)
    scores = cosines / _numerics.as_scalar(temperature, cosines, "temperature")

    def loss(scores: jax.Array) -> jax.Array:
        # A masked row keeps its own score, so that it is finite and its gradient 0.
        among = mask[None] | jnp.eye(len(mask), dtype=bool)
        scores = jax.nn.log_softmax(jnp.where(among, scores, -jnp.inf))
        total = jnp.where(mask, -jnp.diagonal(scores), 0).sum()
        return _numerics.reduce_tuples(total, mask.sum(), "mean", axis_name)

    return (loss(scores) + loss(scores.T)) / 2 if symmetric else loss(scores)


class ContrastMemory(NamedTuple):
    """What `contrastive_representation` remembers: explicit state, to carry and checkpoint.

    Attributes:
        student: the student's embedding of every training image, [n, D].
        teacher: the teacher's, [n, D].
        partition: the constants Z of the student's and of the teacher's scores, [2]; 0 until the
            first batch has set them.
    """

    student: jax.Array
    teacher: jax.Array
    partition: jax.Array


def contrast_memory(key: jax.Array, num_images: int, width: int) -> ContrastMemory:
    """A memory of random rows, uniform in +-1 / sqrt(width / 3), as RepDistiller starts it.

    Args:
        key: of `jax.random`.
        num_images: n.
        width: D of the embeddings; RepDistiller and the paper take 128.
    """
    bound = (width / 3) ** -0.5
    banks = jax.random.uniform(key, (2, num_images * width), minval=-bound, maxval=bound)
    student, teacher = banks.reshape(2, num_images, width)
    return ContrastMemory(student, teacher, jnp.zeros(2, banks.dtype))


def contrast_negatives(
    key: jax.Array, labels: ArrayLike, all_labels: ArrayLike, count: int
) -> jax.Array:
    """Draws training images of other classes, uniformly and with replacement.

    RepDistiller draws them without replacement; where n >> K the difference is small.

    Args:
        key: of `jax.random`.
        labels: classes of the batch's images, [N].
        all_labels: classes of all training images, [n], with at least two classes.
        count: K.

    Returns:
        Rows of `all_labels`, [N, K], int32.
    """
    labels, all_labels = (jnp.asarray(x).astype(jnp.int32) for x in (labels, all_labels))
    order = jnp.argsort(all_labels).astype(jnp.int32)
    first, past = (
        jnp.searchsorted(all_labels[order], labels, side=side).astype(jnp.int32)[:, None]
        for side in ("left", "right")
    )
    same, shape = past - first, (len(labels), count)
    drawn = jax.random.randint(key, shape, 0, len(all_labels) - same, jnp.int32)
    return order[drawn + jnp.where(drawn >= first, same, 0)]


def contrastive_representation(
    student: ArrayLike,
    teacher: ArrayLike,
    memory: ContrastMemory,
    *,
    index: ArrayLike,
    negatives: ArrayLike,
    temperature: ArrayLike = 0.07,
    momentum: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, ContrastMemory]:
    """CRD: tells an image's own row in the other network's memory from K rows of other images.

    With P = exp(v . m / T) / Z for a row m of the memory and c = K / n, each side is the mean over
    the images of -log(P / (P + c + 1e-7)) for the own row minus the sum over the K others of
    log(c / (P + c + 1e-7)); the student's embeddings v meet the teacher's memory, the teacher's
    meet the student's, and the sides are added. Z is n times the mean of exp(v . m / T) over the
    first batch, and constant from then on. After scoring, the images' own rows m become
    normalise(momentum m + (1 - momentum) v). No gradient flows into the memory.

    The scores come from one product with the whole memory, N n numbers, instead of the reference's
    [N, K + 1, D] rows.

    Args:
        student: embeddings [N, D] of unit length: a trained linear map, then normalised.
        teacher: the same of the teacher; its map is trained too.
        memory: from `contrast_memory`, then from the call before.
        index: [N], the images' own rows in the memory. Where an image comes twice in a batch, its
            first embedding is remembered.
        negatives: [N, K], rows of other images, see `contrast_negatives`.
        temperature: T > 0, a scalar; may be traced.
        momentum: share of the old row, a scalar; may be traced.
        where: [N], False for rows to leave out; they are not remembered either.
        axis_name: mapped axis over whose devices the batch is spread and the memory is the same;
            the value and the new memory are those of the global batch on each of them, and the
            gradient right after a `pmean` over it.

    Returns:
        A scalar, which RepDistiller weighs 0.8, and the new memory.

    Raises:
        ValueError: the shapes do not fit, index or negatives are not integers, the mask is not
            boolean.

    References:
        Tian et al., `Contrastive representation distillation <https://arxiv.org/abs/1910.10699>`_,
        ICLR 2020, eq. 17 to 19; RepDistiller, `crd/memory.py` and `crd/criterion.py`.
    """
    student, teacher = _numerics.as_rows(student, teacher)
    memory = ContrastMemory(*map(jnp.asarray, memory))
    index, negatives = _in_memory(index, negatives, memory, student)
    temperature = _numerics.as_scalar(temperature, student, "temperature")
    momentum = _numerics.as_scalar(momentum, student, "momentum")
    mask = _numerics.as_mask(where, student)
    student, teacher = (_numerics.keep_rows(x, mask) for x in (student, teacher))
    columns = jnp.concatenate([index[:, None], negatives], axis=1)
    columns = jnp.where(mask[:, None], columns, 0)

    # Each side scores against the other's memory.
    sides = (student, memory.teacher), (teacher, memory.student)
    scores = [_scores(x, bank, columns, temperature) for x, bank in sides]
    fresh = [_partition(x, len(memory.student), mask, axis_name) for x in scores]
    fresh = jnp.stack(fresh).astype(memory.partition.dtype)
    partition = jnp.where(memory.partition > 0, memory.partition, fresh)
    share = negatives.shape[1] / len(memory.student)
    losses = sum(
        _against_noise(x, jnp.log(z.astype(x.dtype)), share)
        for x, z in zip(scores, partition, strict=True)
    )
    loss = _numerics.reduce_images(losses, mask, axis_name)

    # Rows past the end are dropped: those left out, and all but the first of an image.
    rows = _numerics.gather_rows(jnp.where(mask, index, len(memory.student)), axis_name)
    again = jnp.tril(rows[:, None] == rows[None], -1).any(1)
    rows = jnp.where(again, len(memory.student), rows)
    rows = rows if axis_name is None else jax.lax.pmax(rows, axis_name)
    banks = [
        _remember(bank, rows, _numerics.gather_rows(x, axis_name), momentum, axis_name)
        for bank, x in [(memory.student, student), (memory.teacher, teacher)]
    ]
    return loss, ContrastMemory(*banks, partition)


def _in_memory(index, negatives, memory, rows):
    index, negatives = jnp.asarray(index), jnp.asarray(negatives)
    shape = memory.student.shape
    fits = memory.teacher.shape == shape and rows.shape[1:] == shape[1:]
    rule = "embeddings [N, D] need memories [n, D]"
    _numerics.expect(fits, rule, embeddings=rows, student=memory.student, teacher=memory.teacher)
    fits = index.shape == rows.shape[:1] and negatives.ndim == 2 and len(negatives) == len(rows)
    rule = "embeddings [N, D] need index [N] and negatives [N, K], K > 0"
    fits = fits and negatives.shape[1] > 0
    _numerics.expect(fits, rule, embeddings=rows, index=index, negatives=negatives)
    for name, places in (("index", index), ("negatives", negatives)):
        if not jnp.issubdtype(places.dtype, jnp.integer):
            raise ValueError(f"{name} must be integers; got {places.dtype}")
    return index.astype(jnp.int32), negatives.astype(jnp.int32)


def _scores(x, bank, columns, temperature):
    """Products x . m / T with the rows m of the bank that each image looks at, [N, 1 + K]."""
    bank = jax.lax.stop_gradient(bank).astype(x.dtype)
    every = jnp.matmul(x, bank.T, precision=_numerics.HIGHEST)
    return jnp.take_along_axis(every, columns, axis=1) / temperature


def _partition(scores, images, mask, axis_name):
    """Z that makes the mean of exp(score) / Z over the global batch 1 / n."""
    means = jnp.exp(jax.lax.stop_gradient(scores)).mean(1)
    return images * _numerics.reduce_images(means, mask, axis_name)


def _against_noise(scores, log_partition, share):
    """-log P(own row is own) - sum log P(other rows are not), noise of density `share`."""
    share, guarded = math.log(share), math.log(share + _EPSILON)
    excess = scores - log_partition - guarded
    own, others = jax.nn.softplus(-excess[:, 0]), jax.nn.softplus(excess[:, 1:])
    return own + (others + (guarded - share)).sum(1)


def _remember(bank, rows, x, momentum, axis_name):
    x = jax.lax.stop_gradient(_numerics.replicated(x, axis_name))
    old = bank[jnp.minimum(rows, len(bank) - 1)].astype(x.dtype)
    new = _numerics.unit_rows(momentum * old + (1 - momentum) * x)
    return bank.at[rows].set(new.astype(bank.dtype), mode="drop")
