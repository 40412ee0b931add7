"""Distillation losses: pure kernels, arrays in and arrays out.

`loss(student, teacher, *, ...)` computes in float32, or float64 if given it, and returns that
dtype. Gradients flow to the student and to the teacher: stop the teacher's where it is fixed.
"""

from kd_jax.losses.features import feature_l1 as feature_l1
from kd_jax.losses.relations import center_relation as center_relation
from kd_jax.losses.relations import class_centers as class_centers
from kd_jax.losses.relations import pair_relation as pair_relation
from kd_jax.losses.relations import triplet_relation as triplet_relation
from kd_jax.losses.targets import cross_entropy as cross_entropy
from kd_jax.losses.targets import soft_target_kl as soft_target_kl

__all__ = [
    "center_relation",
    "class_centers",
    "cross_entropy",
    "feature_l1",
    "pair_relation",
    "soft_target_kl",
    "triplet_relation",
]
