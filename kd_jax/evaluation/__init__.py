"""Evaluation of trained networks: evaluators that a config can name, and pure functions.

`names()` lists all evaluators, and `register` adds one of your own. `verification`,
`best_threshold`, `identification`, `retrieval` and `recall_at_k` compute metrics from any
embeddings, and `nearest_neighbors` finds the nearest images.
"""

from kd_jax.evaluation.base import EVALUATORS as EVALUATORS
from kd_jax.evaluation.base import EvaluationContext as EvaluationContext
from kd_jax.evaluation.base import Evaluator as Evaluator
from kd_jax.evaluation.classification import Classification as Classification
from kd_jax.evaluation.classification import classification as classification
from kd_jax.evaluation.identification import identification as identification
from kd_jax.evaluation.neighbors import nearest_neighbors as nearest_neighbors
from kd_jax.evaluation.retrieval import recall_at_k as recall_at_k
from kd_jax.evaluation.retrieval import retrieval as retrieval
from kd_jax.evaluation.verification import best_threshold as best_threshold
from kd_jax.evaluation.verification import verification as verification

names = EVALUATORS.names
register = EVALUATORS.register
