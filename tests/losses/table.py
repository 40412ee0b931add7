"""A table of all public losses, with difficult batches, for tests that concern all of them."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from compiling import FAST

from kd_jax import losses
from kd_jax.losses import _numerics

# The mean of seven equal rows has a rounding error; that of eight rows has none.
IMAGES, WIDTH, CLASSES, MEMORY = 7, 16, 4, 12


def center_relation(student, teacher, labels, where):
    """Computes eq. 7 of HORKD with the centers of the batch."""
    centers, counts = losses.class_centers(teacher, labels, CLASSES, where=where)
    student, teacher = (jnp.where(where[:, None], x, 0) for x in (student, teacher))
    values = losses.center_relation(student, teacher, centers, present=counts > 0)
    return values.sum(where=where) / jnp.maximum(where.sum(), 1).astype(values.dtype)


def hybrid_order(student, teacher, labels, where):
    centers, counts = losses.class_centers(teacher, labels, CLASSES, where=where)
    return losses.hybrid_order(student, teacher, centers, present=counts > 0, where=where)


def contrast(student, teacher, index, negatives, temperature=4, where=None):
    banks = np.random.default_rng(1).uniform(-0.4, 0.4, (2, MEMORY, WIDTH)).astype(np.float32)
    memory = losses.ContrastMemory(*banks, np.zeros(2, student.dtype))
    options = {"index": index, "negatives": negatives, "temperature": temperature, "where": where}
    return losses.contrastive_representation(student, teacher, memory, **options)[0]


def contrastive_representation(student, teacher, index, negatives, temperature, where):
    """Computes CRD with embeddings of unit length; masked rows keep their content."""

    def unit(x):
        return jnp.where(where[:, None], _numerics.unit_rows(_numerics.keep_rows(x, where)), x)

    student, teacher = map(unit, _numerics.upcast(student, teacher))
    return contrast(student, teacher, index, negatives, temperature, where)


def of_both(loss, **options):
    """Makes a loss of the embeddings of one network take those of two: side by side."""

    def joined(student, teacher, labels, where):
        rows = _numerics.as_rows(student, teacher)
        return loss(jnp.concatenate(rows, 1), labels, where=where, **options)

    return joined


def flow_of_solution(student, teacher):
    return losses.flow_of_solution(*([x, x[:, ::2, ::2, :4]] for x in (student, teacher)))


def variational_information(student, teacher):
    log_scale = np.linspace(-20, 20, student.shape[-1], dtype=np.float32)
    return losses.variational_information(student, teacher, log_scale)


variant = functools.partial
TABLE = {
    "rows": {
        "feature_l1": losses.feature_l1,
        "feature_mse": losses.feature_mse,
        "normalized_feature_l2": losses.normalized_feature_l2,
        "pair_relation": losses.pair_relation,
        "triplet_relation": losses.triplet_relation,
        "rkd_distance": losses.rkd_distance,
        "rkd_distance:paper": variant(losses.rkd_distance, variant="paper"),
        "rkd_angle": losses.rkd_angle,
        "rkd_angle:paper": variant(losses.rkd_angle, variant="paper"),
        "center_relation": center_relation,
        "hybrid_order": hybrid_order,
        "similarity_preserving": losses.similarity_preserving,
        "probabilistic_transfer": losses.probabilistic_transfer,
        "correlation_congruence": losses.correlation_congruence,
        "correlation_congruence:paper": variant(losses.correlation_congruence, variant="paper"),
        "mk_mmd": losses.mk_mmd,
        "mk_mmd:unbiased": variant(
            losses.mk_mmd, variance="all", multipliers=(1, 4), unbiased=True
        ),
        "mk_mmd:raw": variant(losses.mk_mmd, variance="cross", multipliers=(1, 4), normalize=False),
        "info_nce": losses.info_nce,
        "info_nce:symmetric": variant(losses.info_nce, symmetric=True),
        "contrastive_representation": contrastive_representation,
        "neighbor_ranking": losses.neighbor_ranking,
        "distance_matrix_gap": losses.distance_matrix_gap,
        # With these margins, both kinds of pairs have a loss.
        "triplet_margin": of_both(losses.triplet_margin, margin=3.0),
        "triplet_margin:all": of_both(losses.triplet_margin, margin=3.0, mining="all"),
        "triplet_margin:distance": of_both(
            losses.triplet_margin, margin=3.0, mining="distance", key=jax.random.key(0)
        ),
        "distance_margin": of_both(losses.distance_margin, boundary=6.0, mining="all"),
        "contrastive_pairs": of_both(losses.contrastive_pairs, negative_margin=7.0),
        "n_pair": of_both(losses.n_pair),
        "multi_similarity": of_both(losses.multi_similarity),
    },
    "logits": {
        "cross_entropy": lambda student, teacher, labels: losses.cross_entropy(student, labels),
        "soft_target_kl": losses.soft_target_kl,
        "soft_target_cross_entropy": losses.soft_target_cross_entropy,
        "decoupled_kd": losses.decoupled_kd,
    },
    "maps": {
        "feature_mse:maps": losses.feature_mse,
        "attention_transfer": losses.attention_transfer,
        "attention_transfer:paper": variant(losses.attention_transfer, variant="paper"),
        "attention_transfer:cubed": variant(losses.attention_transfer, power=3),
        "factor_transfer": losses.factor_transfer,
        "factor_transfer:paper": variant(losses.factor_transfer, variant="paper"),
        "activation_boundary": losses.activation_boundary,
        "neuron_selectivity": losses.neuron_selectivity,
        "flow_of_solution": flow_of_solution,
        "variational_information": variational_information,
        "similarity_preserving:maps": losses.similarity_preserving,
    },
}
KINDS = {name: kind for kind, named in TABLE.items() for name in named}
SHAPES = {"rows": (IMAGES, WIDTH), "logits": (IMAGES, WIDTH), "maps": (IMAGES, 4, 4, 6)}


NORMALIZED = [
    "normalized_feature_l2",
    "rkd_distance:paper",
    "rkd_angle:paper",
    "similarity_preserving",
    "similarity_preserving:maps",
    "mk_mmd",
    "mk_mmd:unbiased",
    "info_nce",
    "info_nce:symmetric",
    "neuron_selectivity",
    "distance_matrix_gap",
]
METRIC = ["triplet_margin", "triplet_margin:all", "triplet_margin:distance", "distance_margin"]
METRIC += ["contrastive_pairs", "n_pair", "multi_similarity"]
ATTENTION = ["attention_transfer", "attention_transfer:paper", "attention_transfer:cubed"]
FACTORS = ["factor_transfer", "factor_transfer:paper"]


def given(images):
    """Returns the inputs that some losses need in addition to student and teacher."""
    return {
        "labels": np.arange(images) % 3,
        "index": np.arange(images),
        "negatives": (np.arange(images)[:, None] + np.arange(1, 6)) % MEMORY,
        "where": np.ones(images, bool),
        "temperature": np.float32(4),
    }


def needs(name):
    return inspect.signature(TABLE[KINDS[name]][name]).parameters.keys() & given(1).keys()


MASKED = [name for name in KINDS if "where" in needs(name)]


def scalar(name):
    loss, wanted = TABLE[KINDS[name]][name], needs(name)

    def mean(student, teacher, given):
        return loss(student, teacher, **{k: given[k] for k in wanted}).mean()

    return mean


# The options of users, because they can change results in float32. XLA_FLAGS may have others.
DEFAULT = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}


@functools.cache
def compiled(name, fast=False):
    """Returns a function for the value and both gradients, compiled once per shape and dtype."""
    grad = jax.value_and_grad(scalar(name), argnums=(0, 1))
    # Variants share most of their code with another loss.
    return jax.jit(grad, compiler_options=FAST if fast or ":" in name else DEFAULT)


def exact(name, student, teacher, given):
    """Returns the value and both gradients in float64."""

    def double(x):
        return np.asarray(x, np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    arguments = jax.tree.map(double, (student, teacher, given))
    with jax.enable_x64(True):
        value, gradients = compiled(name, fast=True)(*arguments)
        assert value.dtype == jnp.float64
        return np.asarray(value), [np.asarray(x) for x in gradients]


def example(kind, batch="plain"):
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=SHAPES[kind]).astype(np.float32) for _ in range(2))
    others = given(IMAGES)
    match batch:
        case "duplicates":
            student[3] = student[0]
            student[5], teacher[5] = student[1], teacher[1]
        case "all equal":
            student[:] = student[0]
        case "all equal in both":
            student[:], teacher[:] = student[0], teacher[0]
        case "zero rows":
            student[2:4], teacher[3:5] = 0, 0
        case "zeros":
            student[:], teacher[:] = 0, 0
        case "zero student":
            student[:] = 0
        case "zero teacher":
            teacher[:] = 0
        case "zero channels":
            student[..., 2], teacher[..., 1:3] = 0, 0
        case "zero channels and positions":
            student[..., 2], student[:, :2] = 0, 0
        case "one class":
            others["labels"][:] = 2
        case "large mean":
            student, teacher = 1000 + student / 10, 1000 + teacher / 10
        case "tiny and huge":
            student, teacher = student * np.float32(1e-4), teacher * 10_000
        case "huge and tiny":
            student, teacher = student * 10_000, teacher * np.float32(1e-4)
        case "tiny":
            student, teacher = student * np.float32(1e-4), teacher * np.float32(1e-4)
        case "huge":
            student, teacher = student * 10_000, teacher * 10_000
        case "certain":
            student, teacher = 10_000 * np.sign(student), 10_000 * np.sign(teacher)
        case "close":
            teacher = student + teacher / 100
        case "near duplicates":
            student[3] = student[0] * np.float32(1.0001)
        case "impossible class":
            teacher[:, 3] = -np.inf
        case "impossible label":
            teacher[:, 1], others["labels"][:] = -np.inf, 1
        case "one possible class":
            teacher[:, :3], teacher[:, 4:] = -np.inf, -np.inf
        case "impossible in both":
            student[:, 3], teacher[:, 3] = -np.inf, -np.inf
        case "none left":
            others["where"][:] = False
        case "T = 0.5" | "T = 100":
            others["temperature"] = np.float32(batch[4:])
    return student, teacher, others


def rows(inputs, which):
    return jax.tree.map(lambda x: x[which] if np.ndim(x) else x, inputs)
