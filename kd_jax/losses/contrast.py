"""Contrastive losses: compare an image's teacher embedding with those of other images."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _numerics

# RepDistiller adds it to avoid the logarithm of 0.
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
    """Computes InfoNCE: finds each image's teacher embedding among those of the batch.

    The loss is the mean over i of -log(exp(s_ii) / sum_j exp(s_ij)) with s_ij = cos(g_i, f_j) / T,
    where g are the student's embeddings and f the teacher's. A row of zeros has cosine 0 with
    gradient 0.

    Args:
        student: embeddings [N, D].
        teacher: embeddings [N, D].
        temperature: T > 0, a scalar; may be traced.
        symmetric: whether to average with the loss of the opposite direction, as CLIP does: each
            image's student embedding among those of the batch.
        where: boolean [N]; rows with False are left out.
        axis_name: name of the mapped axis that splits the batch over devices. Every device returns
            the value of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, 0 for a batch of one image.

    Raises:
        ValueError: If the shapes differ or are not [N, D], or the mask is not boolean.

    References:
        Van den Oord et al., `Representation learning with contrastive predictive coding
        <https://arxiv.org/abs/1807.03748>`_, 2018, eq. 4; Radford et al., `CLIP
        <https://arxiv.org/abs/2103.00020>`_, ICML 2021, for the symmetric form.

    Example:
        >>> import numpy as np
        >>> from kd_jax import losses
        >>> loss = losses.info_nce(np.eye(2), 3 * np.eye(2), temperature=1.0)
        >>> round(float(loss), 4)  # log(1 + exp(-1))
        0.3133
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
        # A masked row keeps its own score, so its loss is finite and its gradient 0.
        among = mask[None] | jnp.eye(len(mask), dtype=bool)
        scores = jax.nn.log_softmax(jnp.where(among, scores, -jnp.inf))
        total = jnp.where(mask, -jnp.diagonal(scores), 0).sum()
        return _numerics.reduce_tuples(total, mask.sum(), "mean", axis_name)

    return (loss(scores) + loss(scores.T)) / 2 if symmetric else loss(scores)


class ContrastMemory(NamedTuple):
    """Explicit state of `contrastive_representation`, to be passed on and saved in checkpoints.

    Attributes:
        student: the student's embedding of each training image, [n, D].
        teacher: the teacher's embedding of each training image, [n, D].
        partition: the constants Z of the student's and the teacher's scores, [2]. They are 0 until
            the first batch sets them.
    """

    student: jax.Array
    teacher: jax.Array
    partition: jax.Array


def contrast_memory(key: jax.Array, num_images: int, width: int) -> ContrastMemory:
    """Creates a memory of random rows, uniform in +-1 / sqrt(width / 3), as RepDistiller does.

    Args:
        key: a key of `jax.random`.
        num_images: number of training images, n.
        width: width of the embeddings, D. RepDistiller and the paper use 128.
    """
    bound = (width / 3) ** -0.5
    banks = jax.random.uniform(key, (2, num_images * width), minval=-bound, maxval=bound)
    student, teacher = banks.reshape(2, num_images, width)
    return ContrastMemory(student, teacher, jnp.zeros(2, banks.dtype))


def contrast_negatives(
    key: jax.Array, labels: ArrayLike, all_labels: ArrayLike, count: int
) -> jax.Array:
    """Draws training images of other classes, uniformly and with replacement.

    RepDistiller draws without replacement. For n >> K the difference is small.

    Args:
        key: a key of `jax.random`.
        labels: classes of the images in the batch, [N].
        all_labels: classes of all training images, [n], with at least two classes.
        count: number of images to draw per row, K.

    Returns:
        Indices into `all_labels`, int32 [N, K].

    Example:
        >>> import jax, numpy as np
        >>> from kd_jax import losses
        >>> losses.contrast_negatives(jax.random.key(0), [4, 7], np.array([7, 4]), 3).tolist()
        [[0, 0, 0], [1, 1, 1]]
    """
    labels, all_labels = (jnp.asarray(x).astype(jnp.int32) for x in (labels, all_labels))
    order = jnp.argsort(all_labels).astype(jnp.int32)
    ordered = all_labels[order]
    first = jnp.searchsorted(ordered, labels, side="left").astype(jnp.int32)[:, None]
    past = jnp.searchsorted(ordered, labels, side="right").astype(jnp.int32)[:, None]
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
    """Computes CRD: separates an image's row in the other network's memory from K other rows.

    Let P = exp(v . m / T) / Z for an embedding v and a row m of the memory, and c = K / n. The loss
    of one side is the mean over the images of
    -log(P_0 / (P_0 + c + 1e-7)) - sum_k log(c / (P_k + c + 1e-7)),
    where P_0 is that of the image's own row and P_1 to P_K are those of the other rows. One side
    compares the student's embeddings with the teacher's memory, the other side compares the
    teacher's embeddings with the student's memory. The two sides are added.

    Z is n times the mean of exp(v . m / T) over the first batch, and is constant afterwards. After
    the loss is computed, the row m of each image becomes normalize(momentum m + (1 - momentum) v).
    No gradient flows into the memory.

    The scores come from one product with the whole memory, N n numbers. The reference code gathers
    rows [N, K + 1, D] instead.

    Args:
        student: embeddings [N, D] of unit length: a trained linear map, then normalized.
        teacher: embeddings [N, D] of unit length; the teacher's linear map is trained too.
        memory: the result of `contrast_memory`, or of the previous call.
        index: integers [N], the images' own rows in the memory. If an image is in the batch twice,
            its first embedding is stored.
        negatives: integers [N, K], rows of other images, see `contrast_negatives`.
        temperature: T > 0, a scalar; may be traced.
        momentum: weight of the old row, a scalar; may be traced.
        where: boolean [N]; rows with False are left out and not stored.
        axis_name: name of the mapped axis that splits the batch over devices. The memory must be
            the same on all devices. Every device returns the value and the memory of the global
            batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, to which RepDistiller gives the weight 0.8, and the new memory.

    Raises:
        ValueError: If the shapes do not match, index or negatives are not integers, or the mask is
            not boolean.

    References:
        Tian et al., `Contrastive representation distillation <https://arxiv.org/abs/1910.10699>`_,
        ICLR 2020, eq. 17 to 19; RepDistiller, `crd/memory.py` and `crd/criterion.py`.

    Example:
        >>> import jax, numpy as np
        >>> from kd_jax import losses
        >>> memory = losses.contrast_memory(jax.random.key(0), num_images=3, width=2)
        >>> student, teacher = np.eye(2), np.eye(2)
        >>> index, negatives = np.array([0, 1]), np.array([[1, 2], [0, 2]])
        >>> loss, memory = losses.contrastive_representation(
        ...     student, teacher, memory, index=index, negatives=negatives
        ... )
        >>> loss.shape, memory.student.shape, memory.partition.shape
        ((), (3, 2), (2,))
    """
    student, teacher = _numerics.as_rows(student, teacher)
    student_bank, teacher_bank, partition = map(jnp.asarray, memory)
    memory = ContrastMemory(student_bank, teacher_bank, partition)
    index, negatives = _in_memory(index, negatives, memory, student)
    temperature = _numerics.as_scalar(temperature, student, "temperature")
    momentum = _numerics.as_scalar(momentum, student, "momentum")
    mask = _numerics.as_mask(where, student)
    student, teacher = (_numerics.keep_rows(x, mask) for x in (student, teacher))
    columns = jnp.concatenate([index[:, None], negatives], axis=1)
    columns = jnp.where(mask[:, None], columns, 0)

    # Each network is scored against the memory of the other.
    sides = (student, memory.teacher), (teacher, memory.student)
    scores = [_scores(x, bank, columns, temperature) for x, bank in sides]
    fresh = jnp.stack([_partition(x, len(memory.student), mask, axis_name) for x in scores])
    partition = jnp.where(partition <= 0, fresh.astype(partition.dtype), partition)
    share = negatives.shape[1] / len(memory.student)
    by_student, by_teacher = (
        _against_noise(x, jnp.log(z.astype(x.dtype)), share)
        for x, z in zip(scores, partition, strict=True)
    )
    loss = _numerics.reduce_images(by_student + by_teacher, mask, axis_name)

    # Rows past the end are dropped: masked rows, and all but the first row of an image.
    rows = _numerics.gather_rows(jnp.where(mask, index, len(memory.student)), axis_name)
    again = jnp.tril(rows[:, None] == rows[None], -1).any(1)
    rows = jnp.where(again, len(memory.student), rows)
    rows = rows if axis_name is None else jax.lax.pmax(rows, axis_name)
    student_bank, teacher_bank = (
        _store(bank, rows, _numerics.gather_rows(x, axis_name), momentum, axis_name)
        for bank, x in [(memory.student, student), (memory.teacher, teacher)]
    )
    return loss, ContrastMemory(student_bank, teacher_bank, partition)


def _in_memory(
    index: ArrayLike, negatives: ArrayLike, memory: ContrastMemory, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Checks the shapes and returns both index arrays as int32."""
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


def _scores(x: jax.Array, bank: jax.Array, columns: jax.Array, temperature: jax.Array) -> jax.Array:
    """Computes x . m / T [N, 1 + K] with the rows m of the bank that `columns` names."""
    bank = jax.lax.stop_gradient(bank).astype(x.dtype)
    x += _numerics.nan_unless_finite(x)  # an infinite score may have the loss 0
    every = jnp.matmul(x, bank.T, precision=_numerics.HIGHEST)
    return jnp.take_along_axis(every, columns, axis=1) / temperature


def _partition(scores: jax.Array, images: int, mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Computes the Z for which the mean of exp(score) / Z over the global batch is 1 / n."""
    means = jnp.exp(jax.lax.stop_gradient(scores)).mean(1)
    return images * _numerics.reduce_images(means, mask, axis_name)


def _against_noise(scores: jax.Array, log_partition: jax.Array, share: float) -> jax.Array:
    """Computes -log P(own row is own) - sum log P(other rows are not), noise of density `share`."""
    log_share, guarded = math.log(share), math.log(share + _EPSILON)
    excess = scores - log_partition - guarded
    own, others = jax.nn.softplus(-excess[:, 0]), jax.nn.softplus(excess[:, 1:])
    return own + (others + (guarded - log_share)).sum(1)


def _store(
    bank: jax.Array,
    rows: jax.Array,
    x: jax.Array,
    momentum: jax.Array,
    axis_name: str | None,
) -> jax.Array:
    """Updates the rows of the bank with the embeddings x."""
    x = jax.lax.stop_gradient(_numerics.replicated(x, axis_name))
    old = bank[jnp.minimum(rows, len(bank) - 1)].astype(x.dtype)
    new = _numerics.unit_rows(momentum * old + (1 - momentum) * x)
    return bank.at[rows].set(new.astype(bank.dtype), mode="drop")
