import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_stage import IMAGES, LABELS, ORDER, init, make_stage, start, train

from kd_jax.data import Augmentation, batch_of
from kd_jax.devices import data_mesh
from kd_jax.methods import Evolutionary, Method, SoftTargets, Supervised
from kd_jax.training import train_step


def test_one_step_is_sgd_on_the_methods_gradient():
    """Against a plain PyTorch-style update, written out."""
    stage = make_stage(method=SoftTargets())
    stage = dataclasses.replace(
        stage, views=dataclasses.replace(stage.views, augmentation=Augmentation())
    )
    _, frozen, state = start(stage, data_mesh(1))
    index = jnp.asarray(ORDER(0))
    batch = {"image": jnp.asarray(IMAGES)[index], "label": jnp.asarray(LABELS)[index]}
    batch["index"] = index
    views = stage.views.evaluation(batch["image"])
    teacher = stage.networks["teacher"].apply(frozen["teacher"], views["teacher"], train=False)

    def loss_fn(params):
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
    new, metrics = jax.jit(lambda s: train_step(stage, s, frozen, batch))(state)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        new.params["student"],
        expected,
    )


def test_every_part_learns_and_every_term_is_logged(one_device):
    state, metrics = one_device
    _, _, first = start(make_stage(), data_mesh(1))
    for group in ("student", "adapters"):
        moved = jax.tree.map(
            lambda a, b: bool(np.any(a != np.asarray(b))), state.params[group], first.params[group]
        )
        assert all(jax.tree.leaves(moved)), group
    assert set(metrics) == {
        "loss",
        "cross_entropy",
        "feature_l1",
        "pair_relation",
        "triplet_relation",
        "center_relation",
        "accuracy/teacher",
        "accuracy/student",
    }
    weights = {"cross_entropy": 1, "feature_l1": 0.1, "pair_relation": 1}
    weights |= {"triplet_relation": 1, "center_relation": 1}
    total = sum(weight * metrics[name] for name, weight in weights.items())
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


def test_training_lowers_the_loss():
    _, metrics = train("jit", 1, 60, method=SoftTargets(hard_weight=0.0, soft_weight=1.0))
    assert metrics["loss"][-3:].mean() < 0.5 * metrics["loss"][:3].mean()


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
    state, metrics = train("jit", 2, 2, method=Mutual(), trained=("teacher", "student"))
    _, _, first = start(make_stage(method=Mutual(), trained=("teacher", "student")), data_mesh(1))
    assert set(state.model_state) == {"teacher", "student"}
    for role in ("teacher", "student"):
        before = np.asarray(first.params[role]["LinearMap_0"]["kernel"])
        assert np.any(state.params[role]["LinearMap_0"]["kernel"] != before)
    assert np.isfinite(metrics["match"]).all()


def test_ekd_without_what_it_adds_is_a_step_of_kd_to_the_last_bit():
    ekd = Evolutionary(
        evolving=False, teacher_modules=0, student_modules=0, hard_weight=0.1, cross_weight=0.9
    )
    (ours, found), (theirs, expected) = (
        train("jit", 1, 2, method=method) for method in (ekd, SoftTargets())
    )
    assert ours.params["adapters"] == {}
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(found["loss"], expected["loss"])


def test_equal_roles_of_two_stages_start_alike():
    one, other = (jax.jit(lambda m=m: init(make_stage(method=m)))() for m in (None, Supervised()))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_step_compiles_once_and_keeps_the_frozen_network():
    stage = make_stage(method=SoftTargets())
    feed, frozen, state = start(stage, data_mesh(1))
    before = jax.device_get(frozen)
    traces = 0

    @jax.jit
    def step(state, index):
        nonlocal traces
        traces += 1
        batch = batch_of(feed.images, {"index": index})
        return train_step(stage, state, frozen, batch)

    for i in range(4):
        state, _ = step(state, jnp.asarray(ORDER(i)))
    assert traces == 1
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(frozen))


def test_low_precision_computes_but_keeps_float32_state():
    state, metrics = train("jit", 1, 1, dtype=jnp.bfloat16)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))
    assert all(np.isfinite(value).all() for value in metrics.values())
