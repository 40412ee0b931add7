"""BYOT, or Self-KD: the deepest classifier of a network teaches classifiers in its middle."""

import dataclasses
import zlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax import losses
from kd_jax.core.errors import check_choice
from kd_jax.methods.base import (
    Adapters,
    Method,
    Weight,
    batch_sum,
    check_temperature,
    check_weights,
    is_used,
    register,
    weighted_sum,
)
from kd_jax.methods.group import ENSEMBLE, ensemble
from kd_jax.methods.label_losses import label_loss
from kd_jax.methods.modules import guided_modules
from kd_jax.models import LinearMap, Outputs


@register("byot")
@dataclasses.dataclass(frozen=True)
class BYOT(Method):
    """BYOT, Zhang et al., ICCV 2019 ("Be your own teacher"), the Self-KD of EKD's Table III.

    The network learns from the labels. Each module learns `module_weight * CE + soft_weight *
    KL(deepest || module) + feature_weight * L2` from the labels, the class probabilities of the
    network at T, and its embedding. The divergence has no factor T^2. The targets have no gradient.

    The paper gives no weights. The defaults are those of the authors' code of a later version,
    whose L2 is `variant="code"`. The modules are those of EKD: bottlenecks instead of the separable
    convolutions and attention of that code.

    Attributes:
        modules: number of modules, on the deepest blocks except the last. The paper has one after
            every block except the last.
        stem: count the stem of the network as its first block.
        temperature: temperature of the divergence.
        hard_weight: weight of the cross-entropy of the network.
        module_weight: weight of the cross-entropies of the modules.
        soft_weight: weight of the divergences.
        feature_weight: weight of the distances of the embeddings.
        variant: `code`: ||F(f_i) - f|| over the whole batch, not squared, with a learned linear map
            F per module, and without the deepest module. `paper`: ||f_i - f||^2, a sum over the
            width and a mean over the images, for all modules.
    """

    modules: int = 2
    stem: bool = False
    temperature: float = 3.0
    hard_weight: Weight = 1.0
    module_weight: Weight = 0.7
    soft_weight: Weight = 0.3
    feature_weight: Weight = 0.03
    variant: str = "code"

    roles: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self):
        check_weights(self)
        check_temperature(self.temperature)
        check_choice(self.variant, ("code", "paper"), "variant")
        if self.modules < 1:
            raise ValueError(f"modules must be 1 or more, not {self.modules}")

    @property
    def predictions(self) -> tuple[str, ...]:
        """Returns the network, its modules and the mean of all."""
        return ("student", *(f"module{i}" for i in range(1, self.modules + 1)), ENSEMBLE)

    def init(self, key, outputs, batch, statistics, info):
        """Makes the modules and the maps of their embeddings."""
        del batch, statistics, info
        student, params, state = outputs["student"], {}, {}
        parts: dict[str, tuple[Any, jax.Array]] = dict(self._modules(student))
        parts |= {name: (module, student.embedding) for name, module in self._maps(student).items()}
        for name, (module, x) in parts.items():
            # The first values of a module do not depend on the other modules.
            made = module.init(jax.random.fold_in(key, zlib.crc32(name.encode())), x)
            params[name] = made["params"]
            if "batch_stats" in made:
                state[name] = made["batch_stats"]
        return Adapters(params, state)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        student, modules, state = outputs["student"], {}, {}
        for name, (module, x) in self._modules(student, axis_name=axis_name).items():
            variables = {"params": adapters.params[name], "batch_stats": adapters.state[name]}
            modules[name], new = module.apply(variables, x, mutable=["batch_stats"])
            state[name] = new["batch_stats"]
        loss, terms = self.total(adapters, student, modules, batch, axis_name)
        return loss, terms, state

    def total(
        self,
        adapters: Adapters,
        student: Outputs,
        modules: dict[str, Outputs],
        batch: Any,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the loss and its terms for the outputs of the network and of its modules."""
        terms = {"cross_entropy/student": label_loss()(student, batch).mean()}
        weights = {"cross_entropy/student": self.hard_weight}
        logits, embedding = map(lax.stop_gradient, (student.logits, student.embedding))
        maps = self._maps(student)
        for name, module in modules.items():
            terms[f"cross_entropy/{name}"] = label_loss()(module, batch).mean()
            weights[f"cross_entropy/{name}"] = self.module_weight
            soft = losses.soft_target_kl(module.logits, logits, temperature=self.temperature)
            terms[f"soft_target_kl/{name}"] = soft.mean() / self.temperature**2
            weights[f"soft_target_kl/{name}"] = self.soft_weight
            features: Any = module.embedding
            own = f"{name}_map"
            if own in maps:
                features = maps[own].apply({"params": adapters.params[own]}, features)
            elif self.variant == "code":
                continue
            terms[f"feature/{name}"] = self._distance(features, embedding, axis_name)
            weights[f"feature/{name}"] = self.feature_weight
        return weighted_sum(terms, weights, batch), terms

    def predict(self, adapters, outputs):
        """Returns the network, its modules and the mean of their logits."""
        student = outputs["student"]
        found = {"student": student}
        for name, (module, x) in self._modules(student, train=False).items():
            variables = {"params": adapters.params[name], "batch_stats": adapters.state[name]}
            found[name] = module.apply(variables, x)
        return found | {ENSEMBLE: ensemble(list(found.values()))}

    def _modules(self, student: Outputs, **fields: Any) -> dict[str, tuple[Any, jax.Array]]:
        """Returns guided modules and their inputs; `module1` is before the last block."""
        key = "method.modules"
        return guided_modules(
            student, self.modules, role="student", key=key, stem=self.stem, **fields
        )

    def _maps(self, student: Outputs) -> dict[str, LinearMap]:
        """Returns the maps of the embeddings of all modules except the deepest."""
        if self.variant != "code" or not is_used(self.feature_weight):
            return {}
        width = student.embedding.shape[-1]
        return {f"module{i}_map": LinearMap(width) for i in range(2, self.modules + 1)}

    def _distance(self, ours: jax.Array, theirs: jax.Array, axis_name: str | None) -> jax.Array:
        squares = jnp.square(ours - theirs).sum(-1)
        if self.variant == "paper":
            return squares.mean()
        # The slope of the root is 0 where the features are equal.
        return jnp.sqrt(jnp.maximum(batch_sum(squares, axis_name), 1e-12))
