"""Online methods: one update of each compared with public code, and what they evaluate.

`official_online.npz` holds gradients in float32, as `official_online.py` has computed them in
PyTorch with the code of ONE, OKDDip, DML and BYOT.
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import tiny_branches
from methods import tiny_networks as tiny
from methods.test_official_updates import flat, outputs

from kd_jax.core.errors import UsageError
from kd_jax.methods import BYOT, CLILR, DML, ONE, Adapters, OKDDip
from kd_jax.models import Outputs

FOUND = np.load(pathlib.Path(__file__).with_name("official_online.npz"))
BATCH = tiny.batch() | {"epoch": np.float32(tiny_branches.EPOCH + 0.5)}
KEY = jax.random.key(0)
OF_OKDDIP = {"temperature": 3.0, "target_gradient": True}


def assert_near(found, key):
    scale = np.abs(FOUND[key]).max()
    np.testing.assert_allclose(found / scale, FOUND[key] / scale, atol=1e-5, err_msg=key)


def adapters_of(method, roles):
    adapters = method.init(KEY, roles, BATCH, {}, None)
    return adapters.replace(params=tiny.filled(adapters.params, 7))


@functools.cache
def network(count, rescale=False):
    return jax.jit(functools.partial(tiny_branches.network, rescale=rescale))(
        tiny_branches.weights(count), BATCH["image"]
    )


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("one", ONE()),
        ("one_okddip", ONE(branches=4, target_gradient=True)),
        ("okddip", OKDDip()),
        ("cl_ilr", CLILR(target_gradient=True)),
    ],
)
def test_one_update_of_branches_is_that_of_public_code(key, method):
    student = network(method.branches)
    start = adapters_of(method, {"student": student})

    @jax.jit
    def gradients(weights, params):
        def loss(weights, params):
            found = tiny_branches.network(weights, BATCH["image"], rescale=key == "cl_ilr")
            return method(Adapters(params, start.state), {"student": found}, BATCH)[0]

        return jax.grad(loss, argnums=(0, 1))(weights, params)

    of_student, of_adapters = gradients(tiny_branches.weights(method.branches), start.params)
    assert_near(flat(of_student), f"{key}/student")
    if start.params:
        assert_near(flat(of_adapters), f"{key}/adapters")
    assert bool(method.adapter_groups) == bool(start.params)


def test_peers_are_a_network_with_branches_without_shared_layers():
    """The network-based OKDDip has the loss of the branches with the same outputs."""
    student = network(4)
    leader, *peers = student.branches
    roles = {"student": leader, **{f"peer{i}": x for i, x in enumerate(peers)}}
    method = OKDDip(peers=("peer0", "peer1", "peer2"))
    assert method.roles == tuple(roles)
    assert method.predictions == (*roles, "ensemble")
    start = adapters_of(method, roles)
    losses = [
        each(start, outputs, BATCH)[0]
        for each, outputs in ((method, roles), (OKDDip(), {"student": student}))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("dml", DML(peers=("student", "teacher"))),
        ("dml_each", DML(peers=tuple(tiny.WIDTHS), **OF_OKDDIP)),
        ("dml_mean", DML(peers=tuple(tiny.WIDTHS), targets="mean", **OF_OKDDIP)),
    ],
)
def test_one_update_of_dml_is_that_of_public_code(key, method):
    weights = {role: tiny.weights(role) for role in method.peers}

    @jax.jit
    def gradients(weights):
        def loss(weights):
            networks = {x: tiny.network(w, BATCH["image"]) for x, w in weights.items()}
            return method(Adapters(), networks, BATCH)[0]

        return jax.grad(loss)(weights)

    found = gradients(weights)
    # Flat in the order of names, as in the file.
    assert_near(np.concatenate([flat(found[role]) for role in sorted(found)]), key)


def given():
    """Returns the outputs of a network and of its modules."""
    return {name: Outputs(**own) for name, own in tiny_branches.classifiers().items()}


def test_one_update_of_byot_is_that_of_the_authors():
    method = BYOT()
    params = tiny.filled({"module2_map": {"kernel": np.zeros((8, 8)), "bias": np.zeros(8)}}, 7)

    def loss(params, outputs):
        modules = {name: x for name, x in outputs.items() if name != "student"}
        return method.total(Adapters(params), outputs["student"], modules, BATCH)[0]

    of_maps, of_outputs = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, given())
    found = {x: {"embedding": y.embedding, "logits": y.logits} for x, y in of_outputs.items()}
    names = sorted(found)
    assert_near(np.concatenate([flat(found[name]) for name in names]), "byot/outputs")
    assert_near(flat({**of_maps["module2_map"]}), "byot/adapters")


def test_the_paper_of_byot_has_squared_distances_of_all_modules():
    terms = BYOT(variant="paper").total(Adapters(), *_network_and_modules(), BATCH)[1]
    outputs = tiny_branches.classifiers()
    for name in ("module1", "module2"):
        gap = outputs[name]["embedding"] - outputs["student"]["embedding"]
        np.testing.assert_allclose(terms[f"feature/{name}"], (gap**2).sum(1).mean(), rtol=1e-5)


def test_the_gate_of_one_has_the_statistics_of_the_whole_batch():
    method = ONE()
    student = network(3)
    start = adapters_of(method, {"student": student})

    def run(student, labels, axis_name=None):
        batch = {"label": labels, "epoch": BATCH["epoch"]}
        loss, _, state = method(start, {"student": student}, batch, axis_name=axis_name)
        return loss, state

    whole, state = jax.jit(run)(student, BATCH["label"])
    halves = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), (student, BATCH["label"]))
    on_device = jax.vmap(lambda o, y: run(o, y, "data"), axis_name="data")
    split, states = jax.jit(on_device)(*halves)
    np.testing.assert_allclose(split.mean(), whole, rtol=1e-6)
    for device in range(2):
        found = jax.tree.map(lambda x, i=device: x[i], states)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, state)


def _network_and_modules():
    outputs = given()
    return outputs.pop("student"), outputs


def test_distances_of_byot_are_those_of_the_whole_batch():
    """The norm over the batch is no mean over devices of their norms."""
    method = BYOT()
    params = tiny.filled({"module2_map": {"kernel": np.zeros((8, 8)), "bias": np.zeros(8)}}, 7)
    student, modules = _network_and_modules()

    def terms(outputs, labels, axis_name=None):
        student, modules = outputs
        batch = {"label": labels}
        return method.total(Adapters(params), student, modules, batch, axis_name)[0]

    whole = terms((student, modules), BATCH["label"])
    halves = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), (student, modules))
    labels = BATCH["label"].reshape(2, 3)
    split = jax.vmap(lambda o, y: terms(o, y, "data"), axis_name="data")(halves, labels)
    np.testing.assert_allclose(split.mean(), whole, rtol=1e-6)


# -------------------------------------------------------------------------------- predictions


def test_the_ensemble_of_one_has_the_gate_of_the_running_statistics():
    method, student = ONE(), network(3)
    start = adapters_of(method, {"student": student})
    _, terms, state = method(start, {"student": student}, BATCH)
    assert set(terms) == {f"cross_entropy/{name}" for name in method.predictions} | {
        f"soft_target_kl/{name}" for name in method.predictions[:-1]
    }
    pooled = np.asarray(student.feature_maps[0]).mean((1, 2))
    gate = start.params["gate"]
    x = pooled @ gate["linear"]["kernel"] + gate["linear"]["bias"]
    np.testing.assert_allclose(state["gate"]["norm"]["mean"], 0.1 * x.mean(0), rtol=1e-4)
    predicted = method.predict(start, {"student": student})
    assert tuple(predicted) == method.predictions
    # The first running statistics are 0 and 1.
    x = np.maximum(x / np.sqrt(1 + 1e-5) * gate["norm"]["scale"] + gate["norm"]["bias"], 0)
    weights = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    logits = np.stack([branch.logits for branch in student.branches], 1)
    expected = (weights[:, :, None] * logits).sum(1)
    np.testing.assert_allclose(predicted["ensemble"].logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [DML(peers=("student", "teacher")), CLILR(), OKDDip()])
def test_other_ensembles_have_the_mean_of_the_logits(method):
    roles = {"student": network(4), "teacher": outputs("teacher")}
    roles = {role: roles[role] for role in method.roles}
    predicted = method.predict(adapters_of(method, roles), roles)
    assert tuple(predicted) == method.predictions
    *members, ensemble = predicted.values()
    members = members[1:] if isinstance(method, OKDDip) else members  # without the leader
    mean = np.mean([x.logits for x in members], axis=0)
    np.testing.assert_allclose(ensemble.logits, mean, rtol=1e-5, atol=1e-6)
    assert ensemble.embedding.shape[1] == sum(x.embedding.shape[1] for x in members)


def test_the_modules_of_byot_are_evaluated_with_running_statistics():
    method, student = BYOT(), outputs("student")
    start = method.init(KEY, {"student": student}, BATCH, {}, None)
    _, _, state = method(start, {"student": student}, BATCH)
    assert jax.tree.structure(state) == jax.tree.structure(start.state)
    found = [
        method.predict(start.replace(state=each), {"student": student})
        for each in (start.state, state)
    ]
    assert tuple(found[0]) == method.predictions == ("student", "module1", "module2", "ensemble")
    assert (found[0]["module1"].logits != found[1]["module1"].logits).any()
    mean = np.mean([x.logits for x in list(found[0].values())[:3]], axis=0)
    np.testing.assert_allclose(found[0]["ensemble"].logits, mean, rtol=1e-5, atol=1e-6)


def test_no_role_of_dml_is_called_student():
    method = DML(peers=("small", "large", "student"))
    assert method.roles == method.trained_roles == ("small", "large", "student")
    assert method.predictions == ("small", "large", "student", "ensemble")
    assert method.frozen_roles == ()


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("method", [ONE(), CLILR(branches=3), OKDDip(branches=3)])
@pytest.mark.parametrize("count", [1, 4])
def test_another_number_of_branches_is_refused(method, count):
    student = network(4) if count == 4 else outputs("student")
    says = f"method.branches = 3, but the student has {count}: set networks.student.options"
    with pytest.raises(UsageError, match=re.escape(says)):
        method.predict(Adapters(), {"student": student})


def test_networks_that_do_not_fit_are_refused():
    one = Outputs(jnp.zeros((2, 5)), jnp.zeros((2, 4)), branches=(Outputs(None, None),) * 3)
    with pytest.raises(UsageError, match="method one needs the feature map before the last stage"):
        ONE().init(KEY, {"student": one}, BATCH, {}, None)
    peers = {"student": one, "a": one, "b": one.replace(embedding=jnp.zeros((2, 6)))}
    with pytest.raises(UsageError, match="but their widths are 4, 6: take networks of one width"):
        OKDDip(peers=("a", "b")).init(KEY, peers, BATCH, {}, None)
    with pytest.raises(UsageError, match=r"method\.modules = 4 is more than this network can have"):
        BYOT(modules=4).init(KEY, {"student": outputs("student")}, BATCH, {}, None)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (DML, {"peers": ("one",)}, "peers must be two names or more, each once"),
        (DML, {"peers": ("one", "ensemble")}, "without 'ensemble'"),
        (DML, {"targets": "all"}, "targets"),
        (ONE, {"branches": 1}, "branches must be 2 or more, not 1"),
        (OKDDip, {"branches": 2}, "branches must be 2 or more, not 1"),
        (OKDDip, {"peers": ("student", "a")}, "without 'student' and 'ensemble'"),
        (OKDDip, {"reduction": 0}, "reduction must be 1 or more, not 0"),
        (BYOT, {"modules": 0}, "modules must be 1 or more, not 0"),
        (BYOT, {"variant": "journal"}, "variant"),
        (CLILR, {"temperature": 0.0}, "temperature must be greater than 0"),
    ],
)
def test_impossible_options_are_refused(method, options, says):
    with pytest.raises((ValueError, UsageError), match=says):
        method(**options)
