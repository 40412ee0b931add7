"""The contract of a stage with its parts. Nothing is compiled here."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_stage import BATCH, INPUTS, NORMALIZATION, Dense, dense_frozen, dense_stage

from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import View, Views
from kd_jax.methods import HORKD, KD, Adapters, Method, Supervised
from kd_jax.training import (
    OPTIMIZERS,
    Stage,
    dataset_statistics,
    init_network,
    init_state,
    train_step,
)

BOTH = {"teacher": Dense(width=8), "student": Dense()}


def views(*roles):
    return Views({role: View((4, 4), NORMALIZATION) for role in roles})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"networks": {"student": Dense()}},
            r"networks has no 'teacher', which KD needs: add it\.",
        ),
        (
            {"networks": {**BOTH, "peer": Dense()}},
            r"networks has 'peer', which KD would never use: leave it out; its roles are teacher, ",
        ),
        ({"networks": {**BOTH, "student": lambda x: x}}, r"networks\['student'\] must be a flax"),
        ({"method": KD}, r"method is <class .*KD'>, but must be a Method such as .*KD\(\)\."),
        ({"method": "kd"}, r"method is 'kd', but must be a Method"),
        ({"optimizer": optax.sgd}, r"optimizer must be an optax\.GradientTransformation, such as"),
        ({"optimizer": OPTIMIZERS.get("sgd")(learning_rate=0.1)}, "optimizer must be an optax"),
        ({"views": views("student")}, "views are of student, but the roles are teacher, student"),
        ({"views": views("teacher", "student", "peer")}, "views are of teacher, student, peer"),
    ],
)
def test_parts_that_do_not_fit_are_one_sentence(options, says):
    parts = {"networks": BOTH, "method": KD(), "optimizer": optax.sgd(0.1)}
    with pytest.raises(UsageError, match=f"^Stage: {says}") as error:
        Stage(**{**parts, **options})
    assert "\n" not in str(error.value)


def test_roles_are_trained_or_frozen():
    stage = dense_stage(KD(), views=views("teacher", "student"))
    assert (stage.trained, stage.frozen) == (("student",), ("teacher",))
    assert dense_stage(Supervised()).frozen == ()


@pytest.fixture(scope="module")
def parts():
    """A stage of KD, its frozen variables and its first state."""
    stage = dense_stage(KD())
    frozen = dense_frozen(stage)
    return stage, frozen, init_state(stage, BATCH, frozen)


def shapes(stage, state, frozen, batch=BATCH):
    """Traces a step without compilation."""
    return jax.eval_shape(functools.partial(train_step, stage), state, frozen, batch)


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ((), "frozen has no variables for the role 'teacher', which KD does not train: add them"),
        (
            ("teacher", "student"),
            r"variables for the role 'student', but KD trains this network: .*trained=\.\.\.",
        ),
        (("teacher", "peer"), "for 'peer', but the roles of KD are teacher, student: leave them"),
    ],
)
def test_frozen_variables_are_those_of_the_frozen_roles(parts, roles, says):
    stage, frozen, state = parts
    frozen = dict.fromkeys(roles, frozen["teacher"])
    with pytest.raises(UsageError, match=says):
        init_state(stage, BATCH, frozen)
    with pytest.raises(UsageError, match=says):
        shapes(stage, state, frozen)


def test_inputs_are_one_array_or_one_per_role(parts):
    stage, frozen, state = parts
    assert stage.inputs(INPUTS)["teacher"] is stage.inputs(INPUTS)["student"]
    each = {"teacher": INPUTS[:16, :2], "student": INPUTS[:16], "other": None}
    assert set(stage.inputs(each)) == {"teacher", "student"}
    with pytest.raises(UsageError, match=r"batch\['image'\] has no input for the role 'teacher'"):
        shapes(stage, state, frozen, {**BATCH, "image": {"student": INPUTS[:16]}})


class Logits(nn.Module):
    """Returns an array."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(5, name="classifier")(images)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_network_must_return_outputs(parts, role):
    good, frozen, state = parts
    stage = dataclasses.replace(
        good, networks={**BOTH, role: Logits()}, method=HORKD(centers="dataset")
    )
    variables = init_network(stage, role, INPUTS)
    says = rf"The network of the role '{role}' returns \w+: return kd_jax\.models\.Outputs\(logits"
    if role == "teacher":
        frozen = {"teacher": variables}
        with pytest.raises(UsageError, match=says):
            dataset_statistics(stage, frozen, [BATCH])
    else:
        state = state.replace(params={**state.params, "student": variables["params"]})
    with pytest.raises(UsageError, match=says):
        init_state(stage, BATCH, frozen)
    with pytest.raises(UsageError, match=says):
        shapes(stage, state, frozen)
    with pytest.raises(UsageError, match=says):
        stage.predict({**frozen, "student": state.variables("student")}, Adapters(), INPUTS)


@dataclasses.dataclass(frozen=True)
class Returns(Method):
    """A method whose result is that of a function of the loss and the state."""

    result: object

    roles = ("student",)

    def init(self, key, outputs, batch, statistics, info):
        return Adapters(state={"count": jnp.zeros(())})

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            outputs["student"].logits, batch["label"]
        )
        return self.result(losses, adapters.state)


TUPLE = r"Returns must return \(loss, terms, state\), where terms is a dictionary\."
SCALAR = r"Returns returns {} of shape \(16,\): it must be a scalar, such as the mean over the"
STATE = "Returns returns a state of another structure than its init made: return adapters.state"


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (lambda losses, state: losses.mean(), TUPLE),
        (lambda losses, state: (losses.mean(), {}), TUPLE),
        (lambda losses, state: (losses.mean(), losses.mean(), state), TUPLE),
        (lambda losses, state: (losses, {}, state), SCALAR.format("loss")),
        (lambda losses, state: (losses.mean(), {"hard": losses}, state), SCALAR.format("hard")),
        (lambda losses, state: (losses.mean(), {}, {}), STATE),
        (lambda losses, state: (losses.mean(), {}, {**state, "new": losses}), STATE),
        (lambda losses, state: (losses.mean(), {}, None), STATE),
    ],
)
def test_a_method_must_return_a_scalar_its_terms_and_its_state(result, says):
    stage = dense_stage(Returns(result))
    with pytest.raises(UsageError, match=says):
        shapes(stage, init_state(stage, BATCH), {})


def test_terms_are_any_mapping_and_a_state_may_change():
    stage = dense_stage(
        Returns(lambda x, state: (x.mean(), {"hard": x.mean()}, {"count": x.sum()}))
    )
    state, metrics = shapes(stage, init_state(stage, BATCH), {})
    assert set(metrics) == {"loss", "hard", "accuracy/student"}
    assert state.method_state["count"].shape == ()


class Unlabeled(Method):
    """Uses no labels."""

    roles = ("student",)

    def __call__(self, adapters, outputs, batch, *, axis_name=None):
        return jnp.square(outputs["student"].embedding).mean(), {}, adapters.state


def test_a_batch_without_labels_has_no_accuracies():
    stage, batch = dense_stage(Unlabeled()), {"image": BATCH["image"]}
    assert set(shapes(stage, init_state(stage, batch), {}, batch)[1]) == {"loss"}


def test_equal_roles_of_two_stages_start_alike():
    one, other = (init_network(dense_stage(m), "student", INPUTS) for m in (KD(), Supervised()))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    another = init_network(dense_stage(KD(), seed=1), "student", INPUTS)
    assert (another["params"]["hidden"]["kernel"] != one["params"]["hidden"]["kernel"]).any()
