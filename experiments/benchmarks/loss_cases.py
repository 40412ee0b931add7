"""The losses that `loss_speed` measures: their inputs and the matrix products that they need."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses

Normal = Callable[..., np.ndarray]
"""Draws normal numbers of a shape, float32."""
Arrays = tuple[Any, ...]

SIZES: dict[str, tuple[str, list[tuple[int, ...]], str]] = {
    "rows": ("NxD", [(512, 2048)], "embeddings"),
    "angles": ("NxD", [(64, 512), (256, 512)], "embeddings for losses of triplets"),
    "logits": ("NxC", [(512, 1000)], "logits"),
    "maps": ("NxHxCxC'", [(64, 8, 256, 512)], "maps; the teacher's C' is C where it must be"),
    "memory": ("NxDxnxK", [(64, 128, 50_000, 16_384)], "embeddings, memory and negatives of CRD"),
}
"""Form, default and meaning of each kind of input."""


class Case(NamedTuple):
    """A loss and its inputs.

    Attributes:
        loss: function of the inputs that returns a scalar or one value per image. Gradients are
            with respect to the first input, or to its leaves.
        sizes: names in SIZES.
        inputs: makes the inputs from a function that draws normal numbers, and one of the sizes.
        products: the matrix products that the loss needs, of the same inputs.
        angles: True for a loss of all triplets.
    """

    loss: Callable[..., jax.Array]
    sizes: Sequence[str]
    inputs: Callable[..., Arrays]
    products: Callable[..., Any] | None = None
    angles: bool = False


# ------------------------------------------------------------------------------------ inputs


def _pair(normal, *size):
    return normal(*size), normal(*size)


def _centered(normal, n, width):
    return *_pair(normal, n, width), normal(100, width)


def _labels(n, classes):
    return (np.arange(n) % classes).astype(np.int32)


def _cosines(normal, n, classes):
    return np.tanh(normal(n, classes)), _labels(n, classes)


def _cosines_and_norms(normal, n, classes):
    return np.tanh(normal(n, classes)), 10 + normal(n), _labels(n, classes)


def _maps(normal, n, side, channels, wider):
    return normal(n, side, side, channels), normal(n, side, side, wider)


def _equal_maps(normal, n, side, channels, _):
    return _maps(normal, n, side, channels, channels)


def _successive_maps(normal, *size):
    return _maps(normal, *size), _maps(normal, *size)


def _means_and_scales(normal, *size):
    mean, teacher = _equal_maps(normal, *size)
    return (mean, np.full(mean.shape[-1], 4.99323, np.float32)), teacher


def _remembered(normal, n, width, images, negatives):
    def rows(count):
        return _unit(normal(count, width))

    index = np.arange(n, dtype=np.int32)
    shifts = 1 + np.arange(negatives) * 7919 % (images - 1)  # everywhere in the memory, never 0
    others = ((index[:, None] + shifts) % images).astype(np.int32)
    # The value of Z for independent rows.
    partition = np.full(2, images * np.exp(0.5 / (width * 0.07**2)), np.float32)
    memory = losses.ContrastMemory(rows(images), rows(images), partition)
    return (rows(n), rows(n)), memory, index, others


def _shared(normal, n, width, images, negatives):
    trained, memory, index, others = _remembered(normal, n, width, images, negatives)
    return trained, memory, index, others[0], others[0][None] % 3 != index[:, None] % 3


def _attended(normal, *size):
    student, teacher = _maps(normal, *size)
    return (student,), (teacher,), np.ones((size[0], 1, 1), np.float32)


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _unit_pair(normal, n, width):
    return _unit(normal(n, width)), _unit(normal(n, width))


def _classes(normal, n, width):
    """Draws unit vectors around the centers of classes of about four images.

    A positive is nearer than most negatives, by less than the margins of the losses.
    """
    labels = _labels(n, max(2, n // 4))
    centers = normal(int(labels.max()) + 1, width)
    return _unit(centers[labels] + 2 * normal(n, width)), labels


def _classes_and_boundaries(normal, n, width):
    embeddings, labels = _classes(normal, n, width)
    # With one common boundary, the slopes of positives and negatives would cancel to 0.
    return (embeddings, np.linspace(1, 1.3, labels.max() + 1, dtype=np.float32)), labels


# ---------------------------------------------------------------------------- matrix products


def _product(x, y):
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _grams(x, y, *_):
    gram = _product(x, x.T)
    return _product(gram, x), _product(y, y.T)


def _gram(x, *_):
    return _product(_product(x, x.T), x)


def _gram_of_trained(trained, *_):
    return _gram(trained[0])


def _cross(x, y, *_):
    cross = _product(x, y.T)
    return _product(cross, y)


def _grams_and_cross(x, y):
    return _grams(x, y), _cross(x, y)


def _center_products(x, y, centers):
    return _cross(x, centers), _product(y, centers.T)


# ------------------------------------------------------------------------------------ losses


def _variational_information(trained, teacher):
    return losses.variational_information(trained[0], teacher, trained[1])


def _contrastive_representation(trained, memory, index, negatives):
    loss, _ = losses.contrastive_representation(*trained, memory, index=index, negatives=negatives)
    return loss  # without the new memory, as in PyTorch


def _contrastive_representation_shared(trained, memory, index, negatives, valid):
    loss, _ = losses.contrastive_representation(
        *trained, memory, index=index, negatives=negatives, valid=valid
    )
    return loss


def _correlation_congruence_paper(student, teacher):
    return losses.correlation_congruence(student, teacher, variant="paper")


def _triplet_margin_batch_hard(embeddings, labels):
    return losses.triplet_margin(embeddings, labels, mining="batch_hard")


def _distance_margin(trained, labels):
    return losses.distance_margin(trained[0], labels, trained[1], mining="batch_hard")


CASES = {
    "cross_entropy": Case(
        losses.cross_entropy, ["logits"], lambda normal, n, c: (normal(n, c), _labels(n, c))
    ),
    "soft_target_kl": Case(losses.soft_target_kl, ["logits"], _pair),
    "soft_target_cross_entropy": Case(losses.soft_target_cross_entropy, ["logits"], _pair),
    "decoupled_kd": Case(
        losses.decoupled_kd, ["logits"], lambda normal, n, c: (*_pair(normal, n, c), _labels(n, c))
    ),
    "inter_class_relation": Case(losses.inter_class_relation, ["logits"], _pair),
    "intra_class_relation": Case(losses.intra_class_relation, ["logits"], _pair),
    "normalized_softmax": Case(losses.normalized_softmax, ["logits"], _cosines),
    "cosface": Case(losses.cosface, ["logits"], _cosines),
    "arcface": Case(losses.arcface, ["logits"], _cosines),
    "sphereface_r": Case(losses.sphereface_r, ["logits"], _cosines),
    "a_softmax": Case(losses.a_softmax, ["logits"], _cosines_and_norms),
    "feature_l1": Case(losses.feature_l1, ["rows"], _pair),
    "feature_mse": Case(losses.feature_mse, ["maps"], _equal_maps),
    "normalized_feature_l2": Case(losses.normalized_feature_l2, ["rows"], _pair),
    "attention_transfer": Case(losses.attention_transfer, ["maps"], _maps),
    "factor_transfer": Case(losses.factor_transfer, ["maps"], _maps),
    "activation_boundary": Case(losses.activation_boundary, ["maps"], _equal_maps),
    "neuron_selectivity": Case(losses.neuron_selectivity, ["maps"], _maps),
    "flow_of_solution": Case(losses.flow_of_solution, ["maps"], _successive_maps),
    "variational_information": Case(_variational_information, ["maps"], _means_and_scales),
    "attended_layers": Case(losses.attended_layers, ["maps"], _attended),
    "hierarchical_context": Case(losses.hierarchical_context, ["maps"], _equal_maps),
    "similarity_preserving": Case(losses.similarity_preserving, ["rows"], _pair, _grams),
    "probabilistic_transfer": Case(losses.probabilistic_transfer, ["rows"], _pair, _grams),
    "correlation_congruence": Case(losses.correlation_congruence, ["rows"], _pair),
    "correlation_congruence_paper": Case(_correlation_congruence_paper, ["rows"], _pair, _grams),
    "mk_mmd": Case(losses.mk_mmd, ["rows"], _pair, _grams_and_cross),
    "info_nce": Case(losses.info_nce, ["rows"], _pair, _cross),
    "contrastive_representation": Case(_contrastive_representation, ["memory"], _remembered),
    "contrastive_representation_shared": Case(
        _contrastive_representation_shared, ["memory"], _shared
    ),
    "center_relation": Case(losses.center_relation, ["rows"], _centered, _center_products),
    "rkd_distance": Case(losses.rkd_distance, ["rows"], _pair, _grams),
    "pair_relation": Case(losses.pair_relation, ["rows"], _pair, _grams),
    "rkd_angle": Case(losses.rkd_angle, ["angles"], _pair, _grams, angles=True),
    "triplet_relation": Case(losses.triplet_relation, ["angles"], _pair, _grams, angles=True),
    "hybrid_order": Case(losses.hybrid_order, ["angles", "rows"], _centered, _grams, angles=True),
    "contrastive_pairs": Case(losses.contrastive_pairs, ["rows"], _classes, _gram),
    "n_pair": Case(losses.n_pair, ["rows"], _classes),
    "multi_similarity": Case(losses.multi_similarity, ["rows"], _classes, _gram),
    "proxy_nca": Case(losses.proxy_nca, ["logits"], _cosines),
    "triplet_margin": Case(losses.triplet_margin, ["rows"], _classes, _gram),  # semihard
    "triplet_margin_batch_hard": Case(_triplet_margin_batch_hard, ["rows"], _classes, _gram),
    "distance_margin": Case(_distance_margin, ["rows"], _classes_and_boundaries, _gram_of_trained),
    "neighbor_ranking": Case(losses.neighbor_ranking, ["rows"], _unit_pair, _grams),
    "distance_matrix_gap": Case(losses.distance_matrix_gap, ["rows"], _pair, _grams),
}
"""The losses of `kd_jax.losses`. `torch_losses`, `torch_maps` and `torch_metrics` have the same
names."""
