"""EKD: a teacher that learns together with its student, and guided modules on both."""

import dataclasses
import zlib
from typing import ClassVar

import jax
from jax import lax

from kd_jax import losses
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.methods.base import (
    Adapters,
    Method,
    Weight,
    check_temperature,
    check_weights,
    is_used,
    register,
    weighted_sum,
)
from kd_jax.methods.label_losses import label_loss
from kd_jax.methods.modules import GuidedModule, guided_modules
from kd_jax.models import LinearMap, Outputs


@register("ekd")
@dataclasses.dataclass(frozen=True)
class EKD(Method):
    """EKD, Zhang et al., IEEE TCSVT 2021: two streams of classifiers that learn together.

    The paper is "Student Network Learning via Evolutionary Knowledge Distillation".

    A stream is a network with its guided modules: C classifiers, one after each block. The deepest
    classifier is the network's own. Each stream learns
    `hard_weight * L_L + soft_weight * L_D + feature_weight * L_F` (eq. 9, 3, 4), and across the
    streams there is `cross_weight * L_G1 + cross_feature_weight * L_G2` (eq. 6, 7). L_L is the sum
    of the cross-entropies of all classifiers. L_D is the divergence of each module from the deepest
    classifier; L_F is the squared distance of their pooled features. L_G1 and L_G2 are the same
    between classifiers at one depth in the two streams. Targets carry no gradient.

    Blocks are paired from the deepest, so that networks of different depth fit. L_G2 and the pairs
    of L_G1 stop where a stream has no more modules. Where pooled features differ in width, a
    learned linear map brings the student's to the width of the teacher's.

    Without modules this is KD with an evolving teacher; with `evolving=False` as well, it is KD.

    Attributes:
        temperature: temperature of the divergences, which are multiplied by its square.
        evolving: train the teacher too. If false, the teacher must be frozen, and only its modules
            learn.
        teacher_modules: number of guided modules of the teacher, on its deepest blocks except the
            last. None is one for each.
        student_modules: number of guided modules of the student, likewise.
        stem: count the stem of the networks as their first block. VGGs have their first group
            there.
        hard_weight: weight of L_L.
        soft_weight: weight of L_D.
        feature_weight: weight of L_F.
        cross_weight: weight of L_G1.
        cross_feature_weight: weight of L_G2.
        feature_reduction: `mean` of the squared differences over the width, or their `sum`. The sum
            is the paper's formula; it is much larger than the cross-entropies.
        targets: targets of a module within its stream: the `deepest` classifier, as in the
            equations, or all `deeper` ones, as in the text before eq. 2.
        cross_stream: stream that learns from L_G: `student` (Algorithm 1 and the text), `teacher`
            (the formula of eq. 11) or `both`.
    """

    temperature: float = 4.0
    evolving: bool = True
    teacher_modules: int | None = None
    student_modules: int | None = None
    stem: bool = False
    hard_weight: Weight = 1.0
    soft_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    cross_weight: Weight = 1.0
    cross_feature_weight: Weight = 1.0
    feature_reduction: str = "mean"
    targets: str = "deepest"
    cross_stream: str = "student"

    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")

    def __post_init__(self):
        check_choice(self.feature_reduction, ("mean", "sum"), "feature_reduction")
        check_choice(self.targets, ("deepest", "deeper"), "targets")
        check_choice(self.cross_stream, ("student", "teacher", "both"), "cross_stream")
        check_weights(self)
        for name, count in (
            ("teacher_modules", self.teacher_modules),
            ("student_modules", self.student_modules),
        ):
            if count is not None and count < 0:
                raise ValueError(f"{name} must be 0 or more, or None for all, not {count}")
        check_temperature(self.temperature)
        if self.cross_stream != "student" and not self.evolving:
            raise ValueError("cross_stream must be 'student' where the teacher is not evolving")

    @property
    def frozen_roles(self) -> tuple[str, ...]:
        """Returns the teacher, unless it evolves."""
        return () if self.evolving else ("teacher",)

    @property
    def adapter_groups(self) -> tuple[str, ...]:
        """Returns the streams with modules; maps between features belong to the student."""
        return tuple(role for role in self.roles if getattr(self, f"{role}_modules") != 0)

    def init(self, key, outputs, batch, statistics, info):
        """Makes guided modules and maps between features of different widths, by stream."""
        del batch, statistics, info
        parts = {
            (role, name): part
            for role in self.roles
            for name, part in self._modules(role, outputs[role]).items()
        }
        teacher, student = (outputs[role].embedding for role in self.roles)
        if teacher.shape != student.shape and is_used(self.cross_feature_weight):
            pairs = [
                name for role, name in parts if ("student", name) in parts and role != "student"
            ]
            for name in pairs:
                parts["student", f"{name}_map"] = LinearMap(teacher.shape[-1]), student
        params = {}
        for (role, name), (module, x) in parts.items():
            # The first values of a module do not depend on the other modules.
            own = jax.random.fold_in(key, zlib.crc32(f"{role}/{name}".encode()))
            params.setdefault(role, {})[name] = module.init(own, x)["params"]
        return Adapters(params)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        """See `Method`."""
        streams = {
            role: self._classifiers(adapters, role, outputs[role], axis_name) for role in self.roles
        }
        parts = [
            *self._within("student", streams["student"], batch),
            *self._across(adapters, streams),
            *self._within("teacher", streams["teacher"], batch),
        ]
        used = [(name, weight, sum(v)) for name, weight, v in parts if is_used(weight) and v]
        if not used:
            raise UsageError(
                "method has nothing to learn from: add guided modules, or give hard_weight or"
                " cross_weight."
            )
        terms = {name: value for name, _, value in used}
        weights = {name: weight for name, weight, _ in used}
        return weighted_sum(terms, weights, batch), terms, adapters.state

    def _within(self, role, classifiers, batch):
        """Yields name, weight and values of L_L, L_D and L_F of a stream."""
        own, *modules = classifiers
        # Nothing here would change the cross-entropy of a frozen network.
        learners = modules if role in self.frozen_roles else classifiers
        pairs = [
            (module, lax.stop_gradient(target))
            for depth, module in enumerate(modules, start=1)
            for target in (classifiers[:depth] if self.targets == "deeper" else [own])
        ]
        hard = [label_loss()(x, batch).mean() for x in learners]
        yield f"cross_entropy/{role}", self.hard_weight, hard
        soft = [self._divergence(*pair) for pair in pairs]
        yield f"within_kl/{role}", self.soft_weight, soft
        near = [self._distance(x.embedding, target.embedding) for x, target in pairs]
        yield f"within_l2/{role}", self.feature_weight, near

    def _across(self, adapters, streams):
        """Yields name, weight and values of L_G1 and L_G2."""
        pairs = list(zip(streams["student"], streams["teacher"], strict=False))
        if self.cross_stream == "student":
            pairs = [(student, lax.stop_gradient(teacher)) for student, teacher in pairs]
        elif self.cross_stream == "teacher":
            pairs = [(lax.stop_gradient(student), teacher) for student, teacher in pairs]
        yield "cross_kl", self.cross_weight, [self._divergence(*pair) for pair in pairs]
        near = []
        for i, (student, teacher) in enumerate(pairs[1:], start=1):
            features = student.embedding
            if features.shape != teacher.embedding.shape and is_used(self.cross_feature_weight):
                params = adapters.params["student"][f"module{i}_map"]
                features = LinearMap(teacher.embedding.shape[-1]).apply(
                    {"params": params}, features
                )
            if is_used(self.cross_feature_weight):
                near.append(self._distance(features, teacher.embedding))
        yield "cross_l2", self.cross_feature_weight, near

    def _divergence(self, classifier: Outputs, target: Outputs) -> jax.Array:
        temperature = self.temperature
        return losses.soft_target_kl(
            classifier.logits, target.logits, temperature=temperature
        ).mean()

    def _distance(self, features: jax.Array, target: jax.Array) -> jax.Array:
        mean = losses.feature_mse(features, target).mean()
        return mean if self.feature_reduction == "mean" else mean * target.shape[-1]

    def _classifiers(self, adapters, role, outputs, axis_name) -> list[Outputs]:
        """Returns the deepest classifier and those of the modules, from deep to shallow."""
        found = [outputs]
        for name, (module, x) in self._modules(role, outputs, axis_name).items():
            params = adapters.params[role][name]
            # The running statistics are not kept: modules are dropped after training.
            found.append(module.apply({"params": params}, x, mutable=["batch_stats"])[0])
        return found

    def _modules(
        self, role: str, outputs: Outputs, axis_name: str | None = None
    ) -> dict[str, tuple[GuidedModule, jax.Array]]:
        """Returns guided modules and their inputs; `module1` is just before the last block."""
        return guided_modules(
            outputs,
            getattr(self, f"{role}_modules"),
            role=role,
            key=f"method.{role}_modules",
            stem=self.stem,
            axis_name=axis_name,
        )
