"""Evaluation: what a trained network is worth."""

from kd_jax.evaluation.classification import accuracy_evaluator as accuracy_evaluator
from kd_jax.evaluation.identification import Identification as Identification
from kd_jax.evaluation.identification import identification as identification
from kd_jax.evaluation.low_resolution import MODES as MODES
from kd_jax.evaluation.low_resolution import lr_verification as lr_verification
from kd_jax.evaluation.protocols import PROTOCOLS as PROTOCOLS
from kd_jax.evaluation.protocols import Protocol as Protocol
from kd_jax.evaluation.retrieval import recall_at_k as recall_at_k
from kd_jax.evaluation.verification import Verification as Verification
from kd_jax.evaluation.verification import verification as verification

__all__ = [
    "MODES",
    "PROTOCOLS",
    "Identification",
    "Protocol",
    "Verification",
    "accuracy_evaluator",
    "identification",
    "lr_verification",
    "recall_at_k",
    "verification",
]
