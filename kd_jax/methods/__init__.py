"""Methods: what a stage minimises."""

from kd_jax.methods.base import Adapters as Adapters
from kd_jax.methods.base import Method as Method
from kd_jax.methods.hybrid_order import HybridOrder as HybridOrder
from kd_jax.methods.soft_targets import SoftTargets as SoftTargets
from kd_jax.methods.supervised import Supervised as Supervised

METHODS: dict[str, type[Method]] = {
    "hybrid_order": HybridOrder,
    "soft_targets": SoftTargets,
    "supervised": Supervised,
}
