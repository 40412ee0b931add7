"""The memory of contrastive losses: embeddings of all training images, and draws from them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


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
    same, shape = past - first, (labels.shape[0], count)
    drawn = jax.random.randint(key, shape, 0, len(all_labels) - same, jnp.int32)
    return order[drawn + jnp.where(drawn >= first, same, 0)]


def shared_contrast_negatives(
    key: jax.Array, labels: ArrayLike, all_labels: ArrayLike, count: int
) -> tuple[jax.Array, jax.Array]:
    """Draws one set of training images for the whole batch, uniformly and with replacement.

    Args:
        key: a key of `jax.random`.
        labels: classes of the images in the batch, [N].
        all_labels: classes of all training images, [n].
        count: number of images to draw, K.

    Returns:
        Indices into `all_labels`, int32 [K], and a boolean [N, K] that is False where the drawn
        image has the class of the image in the batch: `negatives` and `valid` of
        `contrastive_representation`.

    Example:
        >>> import jax, numpy as np
        >>> from kd_jax import losses
        >>> key, classes = jax.random.key(0), np.array([7, 4])
        >>> negatives, valid = losses.shared_contrast_negatives(key, [4, 7], classes, 3)
        >>> np.array_equal(valid, classes[negatives] != np.array([[4], [7]]))
        True
    """
    labels, all_labels = (jnp.asarray(x).astype(jnp.int32) for x in (labels, all_labels))
    negatives = jax.random.randint(key, (count,), 0, len(all_labels), jnp.int32)
    return negatives, all_labels[negatives][None] != labels[:, None]
