"""Contrastive losses: compare an image's teacher embedding with those of other images."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kd_jax.losses import _batch, _noise_contrast, _numerics
from kd_jax.losses.memory import ContrastMemory


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
        _numerics.unit_rows(_numerics.keep_rows(x, mask)) for x in (student, teacher)
    )
    candidates = _batch.gather_rows(teacher, axis_name)
    cosines = jnp.matmul(student, candidates.T, precision=_numerics.HIGHEST)
    scores = cosines / _numerics.as_scalar(temperature, cosines, "temperature")

    def loss(scores: jax.Array) -> jax.Array:
        # A masked row keeps its own score, so its loss is finite and its gradient 0.
        among = _batch.gather_rows(mask, axis_name)[None] | _batch.same_image(mask, axis_name)
        scores = jax.nn.log_softmax(jnp.where(among, scores, -jnp.inf))
        return _batch.reduce_images(-_batch.diagonal(scores, axis_name), mask, axis_name)

    if not symmetric:
        return loss(scores)
    return (loss(scores) + loss(_batch.transposed(scores, axis_name))) / 2


def contrastive_representation(
    student: ArrayLike,
    teacher: ArrayLike,
    memory: ContrastMemory,
    *,
    index: ArrayLike,
    negatives: ArrayLike,
    valid: ArrayLike | None = None,
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

    Z is n times the mean of exp(v . m / T) over the first batch, and is constant afterwards: the
    mean over the images of the means over their 1 + K rows. After the loss is computed, the row m
    of each image becomes normalize(momentum m + (1 - momentum) v). No gradient flows into the
    memory.

    Negatives that are not `valid` are left out: K is then the number of valid negatives of the
    image, in c, in both sums and in Z. The loss of an image without negatives is that of its own
    row with c = 0.

    The scores come from one product with the whole memory, N n numbers, weighted by the number of
    times that an image has drawn each row. The reference code gathers rows [N, K + 1, D] instead.
    Negatives that the batch shares need a product with K rows only.

    Args:
        student: embeddings [N, D] of unit length: a trained linear map, then normalized.
        teacher: embeddings [N, D] of unit length; the teacher's linear map is trained too.
        memory: the result of `contrast_memory`, or of the previous call.
        index: integers [N], the images' own rows in the memory. If an image is in the batch twice,
            its first embedding is stored.
        negatives: integers, rows of other images: [N, K], see `contrast_negatives`, or [K] for one
            set that the batch shares, see `shared_contrast_negatives`.
        valid: boolean [N, K]; negatives with False are left out. A shared set needs it, because it
            has images of the same class.
        temperature: T > 0, a scalar; may be traced.
        momentum: weight of the old row, a scalar; may be traced.
        where: boolean [N]; rows with False are left out and not stored.
        axis_name: name of the mapped axis that splits the batch over devices. The memory must be
            the same on all devices; a shared set may differ. Every device returns the value and the
            memory of the global batch; average the gradient with `pmean` over this axis.

    Returns:
        A scalar, to which RepDistiller gives the weight 0.8, and the new memory.

    Raises:
        ValueError: If the shapes do not match, index or negatives are not integers, or a mask is
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
    index, negatives, valid = _in_memory(index, negatives, valid, memory, student)
    temperature = _numerics.as_scalar(temperature, student, "temperature")
    momentum = _numerics.as_scalar(momentum, student, "momentum")
    mask = _numerics.as_mask(where, student)
    student, teacher = (_numerics.keep_rows(x, mask) for x in (student, teacher))
    images = memory.student.shape[0]
    others = _noise_contrast.noise(negatives, valid, mask, images, student.dtype)

    # Each network is scored against the memory of the other.
    sides = (student, memory.teacher), (teacher, memory.student)
    own = jnp.where(mask, index, 0)
    scores = [_noise_contrast.scores(x, bank, own, others, temperature) for x, bank in sides]
    partition = _partition(scores, others, memory, mask, axis_name)
    by_student, by_teacher = (
        _noise_contrast.negative_log_likelihood(x, others, jnp.log(z.astype(student.dtype)), images)
        for x, z in zip(scores, partition, strict=True)
    )
    loss = _batch.reduce_images(by_student + by_teacher, mask, axis_name)

    # Rows past the end are dropped: masked rows, and all but the first row of an image.
    rows = _batch.gather_rows(jnp.where(mask, index, images), axis_name)
    again = jnp.tril(rows[:, None] == rows[None], -1).any(1)
    rows = jnp.where(again, images, rows)
    rows = rows if axis_name is None else jax.lax.pmax(rows, axis_name)
    student_bank, teacher_bank = (
        _store(bank, rows, _batch.gather_rows(x, axis_name), momentum, axis_name)
        for bank, x in [(memory.student, student), (memory.teacher, teacher)]
    )
    return loss, ContrastMemory(student_bank, teacher_bank, partition)


def _in_memory(
    index: ArrayLike,
    negatives: ArrayLike,
    valid: ArrayLike | None,
    memory: ContrastMemory,
    rows: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Checks the shapes and the dtypes, and returns both index arrays as int32."""
    index, negatives = jnp.asarray(index), jnp.asarray(negatives)
    shape = memory.student.shape
    fits = memory.teacher.shape == shape and rows.shape[1:] == shape[1:]
    rule = "embeddings [N, D] need memories [n, D]"
    _numerics.expect(fits, rule, embeddings=rows, student=memory.student, teacher=memory.teacher)
    number = rows.shape[0]
    fits = index.shape == (number,) and negatives.ndim in (1, 2)
    fits = fits and negatives.shape[:-1] in ((), (number,)) and negatives.shape[-1] > 0
    rule = "embeddings [N, D] need index [N] and negatives [N, K] or [K], K > 0"
    _numerics.expect(fits, rule, embeddings=rows, index=index, negatives=negatives)
    for name, places in (("index", index), ("negatives", negatives)):
        if not jnp.issubdtype(places.dtype, jnp.integer):
            raise ValueError(f"{name} must be integers; got {places.dtype}")
    if valid is None and negatives.ndim == 1:
        raise ValueError(
            "negatives [K] of the whole batch need valid: see shared_contrast_negatives"
        )
    if valid is not None:
        valid = jnp.asarray(valid)
        if valid.dtype != bool:
            raise ValueError(f"valid must be boolean; got {valid.dtype}")
        fits = valid.shape == (number, negatives.shape[-1])
        rule = "valid must hold one flag per image and negative"
        _numerics.expect(fits, rule, valid=valid, embeddings=rows, negatives=negatives)
    return index.astype(jnp.int32), negatives.astype(jnp.int32), valid


def _partition(
    scores: list[_noise_contrast.Scores],
    others: _noise_contrast.Noise,
    memory: ContrastMemory,
    mask: jax.Array,
    axis_name: str | None,
) -> jax.Array:
    """Sets a Z that is 0, so that the mean of exp(score) / Z over the global batch is 1 / n."""
    scores = [jax.lax.stop_gradient(x) for x in scores]
    unset = memory.partition <= 0
    # Constants that are known need no exponentials.
    means = jax.lax.cond(
        unset.any(),
        lambda: jnp.stack([_noise_contrast.mean_exponential(x, others) for x in scores]),
        lambda: jnp.stack([0 * x.own for x in scores]),
    )
    fresh = jnp.stack([_batch.reduce_images(x, mask, axis_name) for x in means])
    fresh = (memory.student.shape[0] * fresh).astype(memory.partition.dtype)
    return jnp.where(unset, fresh, memory.partition)


def _store(
    bank: jax.Array,
    rows: jax.Array,
    x: jax.Array,
    momentum: jax.Array,
    axis_name: str | None,
) -> jax.Array:
    """Updates the rows of the bank with the embeddings x."""
    x = jax.lax.stop_gradient(_batch.replicated(x, axis_name))
    old = bank[jnp.minimum(rows, bank.shape[0] - 1)].astype(x.dtype)
    new = _numerics.unit_rows(momentum * old + (1 - momentum) * x)
    return bank.at[rows].set(new.astype(bank.dtype), mode="drop")
