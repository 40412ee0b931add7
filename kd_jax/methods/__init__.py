"""Methods: what a stage minimises."""

from kd_jax.methods.base import Adapters as Adapters
from kd_jax.methods.base import Method as Method
from kd_jax.methods.evolutionary import Evolutionary as Evolutionary
from kd_jax.methods.hybrid_order import HybridOrder as HybridOrder
from kd_jax.methods.improved_distillation import ImprovedDistillation as ImprovedDistillation
from kd_jax.methods.labels import LABEL_LOSSES as LABEL_LOSSES
from kd_jax.methods.labels import default_options as default_options
from kd_jax.methods.soft_targets import SoftTargets as SoftTargets
from kd_jax.methods.supervised import Supervised as Supervised
from kd_jax.methods.transfer import Transfer as Transfer

METHODS: dict[str, type[Method]] = {
    "evolutionary": Evolutionary,
    "hybrid_order": HybridOrder,
    "improved_distillation": ImprovedDistillation,
    "soft_targets": SoftTargets,
    "supervised": Supervised,
    "transfer": Transfer,
}
