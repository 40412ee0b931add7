"""Single steps of stages with and without views, compiled."""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_stage import (
    BATCH,
    IMAGES,
    INFO,
    LABELS,
    ORDER,
    dense_frozen,
    dense_stage,
    make_stage,
    start,
    train,
)

from kd_jax import losses
from kd_jax.core.devices import data_mesh
from kd_jax.data import batch_of
from kd_jax.data.preprocessing import Augmentation, mixup
from kd_jax.methods import EKD, KD, Adapters, Method, Ramp, Supervised
from kd_jax.models import Outputs
from kd_jax.training import init_state, train_step
from kd_jax.training.state import named_key


def compiled(stage):
    return jax.jit(functools.partial(train_step, stage))


def close(found, expected, **tolerances):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerances), found, expected)


def test_one_step_is_sgd_on_the_methods_gradient():
    """Compares with an update in the style of PyTorch, written out."""
    stage = make_stage(method=KD())
    stage = dataclasses.replace(
        stage, views=dataclasses.replace(stage.views, augmentation=Augmentation())
    )
    _, frozen, state = start(stage, data_mesh(1))
    index = jnp.asarray(ORDER(0))
    batch = {"image": jnp.asarray(IMAGES)[index], "label": jnp.asarray(LABELS)[index]}
    batch["index"] = index
    views = stage.views.evaluation(batch["image"])

    def loss_fn(params):
        teacher = stage.networks["teacher"].apply(frozen["teacher"], views["teacher"], train=False)
        variables = {"params": params, **state.model_state["student"]}
        student, _ = stage.networks["student"].apply(
            variables, views["student"], train=True, mutable=["batch_stats"]
        )
        soft = jax.nn.softmax(teacher.logits / 4)
        divergence = soft * (jnp.log(soft) - jax.nn.log_softmax(student.logits / 4))
        hard = -jax.nn.log_softmax(student.logits)[jnp.arange(16), batch["label"]].mean()
        return 0.1 * hard + 0.9 * 16 * divergence.sum(-1).mean()

    params = state.params["student"]
    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params)
    expected = jax.tree.map(lambda p, g: p - 0.05 * (g + 5e-4 * p), params, grads)
    new, metrics = compiled(stage)(state, frozen, batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    close(new.params["student"], expected, rtol=1e-4, atol=1e-6)


def test_every_part_learns_and_every_term_is_logged(one_device):
    state, metrics = one_device
    _, _, first = start(make_stage(), data_mesh(1))
    for group in ("student", "adapters"):
        moved = jax.tree.map(
            lambda a, b: bool(np.any(a != np.asarray(b))), state.params[group], first.params[group]
        )
        assert all(jax.tree.leaves(moved)), group
    weights = {"cross_entropy": 1, "feature_l1": 0.1, "pair_relation": 1, "center_relation": 1}
    assert set(metrics) == {"loss", *weights, "accuracy/teacher", "accuracy/student"}
    total = sum(weight * metrics[name] for name, weight in weights.items())
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Mutual(Method):
    """Both networks learn from the labels, and the student from the teacher."""

    roles = ("teacher", "student")

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        hard = [
            optax.softmax_cross_entropy_with_integer_labels(out.logits, batch["label"]).mean()
            for out in outputs.values()
        ]
        target = jax.lax.stop_gradient(outputs["teacher"].logits)
        match = jnp.mean((outputs["student"].logits - target) ** 2)
        return sum(hard) + match, {"match": match}, adapters.state


def test_an_online_method_trains_two_roles_in_one_gradient_tree():
    state, metrics = train("jit", 2, 2, method=Mutual())
    _, _, first = start(make_stage(method=Mutual()), data_mesh(1))
    assert set(state.model_state) == {"teacher", "student"}
    for role in ("teacher", "student"):
        before = np.asarray(first.params[role]["classifier"]["kernel"])
        assert np.any(state.params[role]["classifier"]["kernel"] != before)
    assert np.isfinite(metrics["match"]).all()


def test_ekd_without_its_modules_is_a_step_of_kd_to_the_last_bit():
    ekd = EKD(
        evolving=False, teacher_modules=0, student_modules=0, hard_weight=0.1, cross_weight=0.9
    )
    (ours, found), (theirs, expected) = (train("jit", 1, 2, method=m) for m in (ekd, KD()))
    assert ours.params["adapters"] == {}
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(found["loss"], expected["loss"])


def test_training_lowers_the_loss_in_one_compilation_and_keeps_the_frozen_network():
    stage = make_stage(method=KD(hard_weight=0.0, soft_weight=1.0))
    loader, frozen, state = start(stage, data_mesh(1))
    before = jax.device_get(frozen)
    traces, found = 0, []

    @jax.jit
    def step(state, index):
        nonlocal traces
        traces += 1
        return train_step(stage, state, frozen, batch_of(loader.images, {"index": index}))

    for i in range(60):
        state, metrics = step(state, jnp.asarray(ORDER(i)))
        found.append(metrics["loss"])
    assert traces == 1
    assert np.mean(found[-3:]) < 0.5 * np.mean(found[:3])
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(frozen))


def test_low_precision_computes_but_keeps_float32_state():
    state, metrics = train("jit", 1, 1, dtype=jnp.bfloat16)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))
    assert all(np.isfinite(value).all() for value in metrics.values())


@pytest.fixture(scope="module")
def mixed():
    """One step of cross-entropy with mixup, by jit on one device."""
    return train("jit", 1, 1, method=Supervised(), mixup=1.0)


def test_mixup_weighs_the_loss_of_both_labels(mixed):
    stage = make_stage(method=Supervised(), mixup=1.0)
    _, _, state = start(stage, data_mesh(1))

    @jax.jit
    def expected(state, index):
        images, labels = jnp.asarray(IMAGES)[index], jnp.asarray(LABELS)[index]
        key = jax.random.fold_in(named_key(0, "step"), 0)
        own = jax.random.fold_in(key, zlib.crc32(b"mixup"))
        images, partners = mixup(own, images, labels, alpha=1.0)
        seen = stage.views.training(key, images, jnp.arange(16, dtype=jnp.int32))["student"]
        outputs, _ = stage.networks["student"].apply(
            state.variables("student"), seen, train=True, mutable=["batch_stats"]
        )
        first, second = (
            losses.cross_entropy(outputs.logits, x).mean() for x in (labels, partners.labels)
        )
        accuracy = (outputs.logits.argmax(-1) == labels).mean(dtype=jnp.float32)
        return partners.weight, first, second, accuracy

    weight, first, second, accuracy = expected(state, jnp.asarray(ORDER(0)))
    assert 0.01 < weight < 0.99
    assert abs(first - second) > 1e-3
    _, metrics = mixed
    np.testing.assert_allclose(metrics["loss"], [weight * first + (1 - weight) * second], rtol=1e-5)
    np.testing.assert_allclose(metrics["cross_entropy"], metrics["loss"])
    np.testing.assert_allclose(metrics["accuracy/student"], [accuracy], rtol=1e-6)


@pytest.mark.parametrize(
    ("execution", "devices"),
    [
        ("jit", 8),
        ("pmap", 8),
        *(pytest.param(*x, marks=pytest.mark.long) for x in (("jit", 2), ("pmap", 1), ("pmap", 2))),
    ],
)
def test_mixup_is_the_same_everywhere(mixed, execution, devices):
    found = train(execution, devices, 1, method=Supervised(), mixup=1.0)
    close(found[1], mixed[1], rtol=1e-5)
    close(found[0].params, mixed[0].params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [KD(), Supervised()])
def test_soft_labels_that_are_one_hot_are_hard_labels(method):
    stage = dense_stage(method)
    frozen = dense_frozen(stage)
    state, step = init_state(stage, BATCH, frozen), compiled(stage)
    soft = np.eye(5, dtype=np.float32)[BATCH["label"]]
    found, expected = (step(state, frozen, {**BATCH, "label": x}) for x in (soft, BATCH["label"]))
    assert "accuracy/student" in expected[1]
    close(found, expected, rtol=1e-6, atol=1e-7)


def test_soft_labels_weigh_the_classes():
    stage = dense_stage(Supervised())
    state, step = init_state(stage, BATCH), compiled(stage)
    other = (BATCH["label"] + 1) % 5
    one, two = (step(state, {}, {**BATCH, "label": x})[1]["loss"] for x in (BATCH["label"], other))
    rows = np.eye(5, dtype=np.float32)
    soft = 0.75 * rows[BATCH["label"]] + 0.25 * rows[other]
    loss = step(state, {}, {**BATCH, "label": soft})[1]["loss"]
    np.testing.assert_allclose(loss, 0.75 * one + 0.25 * two, rtol=1e-6)


def test_a_ramp_follows_the_epochs_of_the_stage():
    method = KD(hard_weight=1.0, soft_weight=Ramp(end=2.0, epochs=1.0, start=0.5))
    stage = dense_stage(method, info=INFO)
    frozen = dense_frozen(stage)
    state, step = init_state(stage, BATCH, frozen), compiled(stage)
    for weight in (0.5, 1.0, 1.5, 2.0, 2.0):  # three steps per epoch
        state, metrics = step(state, frozen, BATCH)
        expected = metrics["cross_entropy"] + weight * metrics["soft_target_kl"]
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def test_a_ramp_without_info_takes_the_epoch_of_the_batch_or_asks_for_it():
    stage = dense_stage(KD(hard_weight=1.0, soft_weight=Ramp(end=2.0, epochs=4.0)))
    frozen = dense_frozen(stage)
    state, step = init_state(stage, BATCH, frozen), compiled(stage)
    with pytest.raises(ValueError, match=r"pass info=StageInfo\(\.\.\.\) to the Stage, or batch"):
        step(state, frozen, BATCH)
    _, metrics = step(state, frozen, {**BATCH, "epoch": 3.0})
    expected = metrics["cross_entropy"] + 1.5 * metrics["soft_target_kl"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Peers(Method):
    """Three networks learn from the labels and from their mean, which is what they predict."""

    roles = ("one", "two", "three")

    @property
    def predictions(self):
        return ("ensemble", "two")

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        mean = jax.lax.stop_gradient(self.predict(adapters, outputs)["ensemble"].logits)
        terms = {
            f"cross_entropy/{role}": losses.cross_entropy(out.logits, batch["label"]).mean()
            for role, out in outputs.items()
        }
        logits = (out.logits for out in outputs.values())
        terms["match"] = sum(jnp.square(x - mean).mean() for x in logits)
        return sum(terms.values()), terms, adapters.state

    def predict(self, adapters, outputs):
        logits, embedding = (
            sum(getattr(out, name) for out in outputs.values()) / 3
            for name in ("logits", "embedding")
        )
        return {"ensemble": Outputs(logits, embedding), "two": outputs["two"]}


def test_three_peers_without_a_student_train_and_predict_an_ensemble():
    stage = dense_stage(Peers())
    assert stage.trained == stage.method.trained_roles == Peers.roles
    first, step = init_state(stage, BATCH), compiled(stage)
    kernels = [first.params[role]["classifier"]["kernel"] for role in Peers.roles]
    assert not np.allclose(kernels[0], kernels[1])
    state, before = step(first, {}, BATCH)
    for _ in range(20):
        state, after = step(state, {}, BATCH)
    for role in Peers.roles:
        name = f"cross_entropy/{role}"
        assert after[name] < before[name]
        assert f"accuracy/{role}" in after
    variables = {role: state.variables(role) for role in Peers.roles}
    found = stage.predict(variables, Adapters(), BATCH["image"])
    assert tuple(found) == stage.method.predictions
    each = stage.outputs(variables, BATCH["image"])
    expected = np.mean([each[role].logits for role in Peers.roles], axis=0)
    np.testing.assert_allclose(found["ensemble"].logits, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["two"].logits, each["two"].logits)
