"""Distillation losses: pure functions of arrays.

`loss(student, teacher, *, ...)` computes in float32, or in float64 if an input is float64, and
returns that dtype. Gradients flow to the student and to the teacher. Use `jax.lax.stop_gradient` on
the outputs of a fixed teacher.
"""

from kd_jax.losses.centers import center_relation as center_relation
from kd_jax.losses.centers import class_centers as class_centers
from kd_jax.losses.contrast import contrastive_representation as contrastive_representation
from kd_jax.losses.contrast import info_nce as info_nce
from kd_jax.losses.correlations import inter_class_relation as inter_class_relation
from kd_jax.losses.correlations import intra_class_relation as intra_class_relation
from kd_jax.losses.correlations import standardized_logits as standardized_logits
from kd_jax.losses.distributions import mk_mmd as mk_mmd
from kd_jax.losses.features import feature_l1 as feature_l1
from kd_jax.losses.features import feature_mse as feature_mse
from kd_jax.losses.features import normalized_feature_l2 as normalized_feature_l2
from kd_jax.losses.hybrid import hybrid_order as hybrid_order
from kd_jax.losses.hybrid import hybrid_order_and_terms as hybrid_order_and_terms
from kd_jax.losses.layers import attended_layers as attended_layers
from kd_jax.losses.layers import hierarchical_context as hierarchical_context
from kd_jax.losses.maps import activation_boundary as activation_boundary
from kd_jax.losses.maps import attention_transfer as attention_transfer
from kd_jax.losses.maps import factor_transfer as factor_transfer
from kd_jax.losses.maps import flow_of_solution as flow_of_solution
from kd_jax.losses.maps import neuron_selectivity as neuron_selectivity
from kd_jax.losses.maps import variational_information as variational_information
from kd_jax.losses.margins import a_softmax as a_softmax
from kd_jax.losses.margins import a_softmax_blend as a_softmax_blend
from kd_jax.losses.margins import arcface as arcface
from kd_jax.losses.margins import cosface as cosface
from kd_jax.losses.margins import normalized_softmax as normalized_softmax
from kd_jax.losses.margins import sphereface_r as sphereface_r
from kd_jax.losses.memory import ContrastMemory as ContrastMemory
from kd_jax.losses.memory import contrast_memory as contrast_memory
from kd_jax.losses.memory import contrast_negatives as contrast_negatives
from kd_jax.losses.memory import shared_contrast_negatives as shared_contrast_negatives
from kd_jax.losses.metric_pairs import contrastive_pairs as contrastive_pairs
from kd_jax.losses.metric_pairs import multi_similarity as multi_similarity
from kd_jax.losses.metric_pairs import n_pair as n_pair
from kd_jax.losses.metric_transfer import distance_matrix_gap as distance_matrix_gap
from kd_jax.losses.metric_transfer import neighbor_ranking as neighbor_ranking
from kd_jax.losses.proxies import proxy_nca as proxy_nca
from kd_jax.losses.relations import pair_relation as pair_relation
from kd_jax.losses.relations import rkd_angle as rkd_angle
from kd_jax.losses.relations import rkd_distance as rkd_distance
from kd_jax.losses.relations import triplet_relation as triplet_relation
from kd_jax.losses.similarities import correlation_congruence as correlation_congruence
from kd_jax.losses.similarities import probabilistic_transfer as probabilistic_transfer
from kd_jax.losses.similarities import similarity_preserving as similarity_preserving
from kd_jax.losses.targets import cross_entropy as cross_entropy
from kd_jax.losses.targets import decoupled_kd as decoupled_kd
from kd_jax.losses.targets import soft_target_cross_entropy as soft_target_cross_entropy
from kd_jax.losses.targets import soft_target_kl as soft_target_kl
from kd_jax.losses.triplet_margins import distance_margin as distance_margin
from kd_jax.losses.triplet_margins import triplet_margin as triplet_margin

__all__ = [
    "ContrastMemory",
    "a_softmax",
    "a_softmax_blend",
    "activation_boundary",
    "arcface",
    "attended_layers",
    "attention_transfer",
    "center_relation",
    "class_centers",
    "contrast_memory",
    "contrast_negatives",
    "contrastive_pairs",
    "contrastive_representation",
    "correlation_congruence",
    "cosface",
    "cross_entropy",
    "decoupled_kd",
    "distance_margin",
    "distance_matrix_gap",
    "factor_transfer",
    "feature_l1",
    "feature_mse",
    "flow_of_solution",
    "hierarchical_context",
    "hybrid_order",
    "hybrid_order_and_terms",
    "info_nce",
    "inter_class_relation",
    "intra_class_relation",
    "mk_mmd",
    "multi_similarity",
    "n_pair",
    "neighbor_ranking",
    "neuron_selectivity",
    "normalized_feature_l2",
    "normalized_softmax",
    "pair_relation",
    "probabilistic_transfer",
    "proxy_nca",
    "rkd_angle",
    "rkd_distance",
    "shared_contrast_negatives",
    "similarity_preserving",
    "soft_target_cross_entropy",
    "soft_target_kl",
    "sphereface_r",
    "standardized_logits",
    "triplet_margin",
    "triplet_relation",
    "variational_information",
]
