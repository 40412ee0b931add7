"""The programs of single operations are shared by all tests: nothing is compiled as a whole."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.methods import EKD, KD, Adapters, Ramp
from kd_jax.models import Outputs

N, C = 6, 5
BATCH = {"label": jnp.arange(N) % C, "index": jnp.arange(N)}


def network(seed, width, sizes=(8, 4, 2)):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape).astype(np.float32))

    maps = tuple(normal(N, s, s, width) for s in sizes)
    return Outputs(normal(N, C), normal(N, width), maps, maps, normal(N, 16, 16, 3))


def both(teacher=8, student=8, **options):
    return {"teacher": network(0, teacher, **options), "student": network(1, student, **options)}


def start(method, outputs):
    return method.init(jax.random.key(2), outputs, BATCH, {}, None)


def evaluate(method, outputs, adapters=None):
    return method(adapters or start(method, outputs), outputs, BATCH)


def classifiers(method, outputs, adapters):
    """Returns the classifiers by stream, the deepest first."""
    return {role: method._classifiers(adapters, role, outputs[role], None) for role in method.roles}


def kl(student, teacher):
    return losses.soft_target_kl(student.logits, teacher.logits, temperature=4.0).mean()


def l2(student, teacher):
    return jnp.square(student.embedding - teacher.embedding).mean()


def test_the_terms_are_the_papers_equations():
    method, outputs = EKD(), both()
    adapters = start(method, outputs)
    streams = classifiers(method, outputs, adapters)
    loss, terms, _ = evaluate(method, outputs, adapters)
    expected = {}
    for role, (own, *modules) in streams.items():
        assert len(modules) == 2  # one after each block except the last
        each = [losses.cross_entropy(c.logits, BATCH["label"]).mean() for c in (own, *modules)]
        expected[f"cross_entropy/{role}"] = sum(each)  # eq. 9
        expected[f"within_kl/{role}"] = sum(kl(module, own) for module in modules)  # eq. 3
        expected[f"within_l2/{role}"] = sum(l2(module, own) for module in modules)  # eq. 4
    pairs = list(zip(streams["student"], streams["teacher"], strict=True))
    expected["cross_kl"] = sum(kl(*pair) for pair in pairs)  # eq. 6
    expected["cross_l2"] = sum(l2(*pair) for pair in pairs[1:])  # eq. 7
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-5)


def test_weights_multiply_terms_and_a_weight_of_zero_leaves_a_term_out():
    outputs, weights = both(), {"hard_weight": 0.5, "soft_weight": 2.0, "cross_weight": 3.0}
    method = EKD(**weights, feature_weight=0.0, cross_feature_weight=0.25)
    loss, terms, _ = evaluate(method, outputs)
    expected = 0.25 * terms["cross_l2"] + 3 * terms["cross_kl"]
    for role in method.roles:
        expected += 0.5 * terms[f"cross_entropy/{role}"] + 2 * terms[f"within_kl/{role}"]
        assert f"within_l2/{role}" not in terms
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    ramp = dataclasses.replace(method, cross_weight=Ramp(end=6.0, epochs=2.0))
    adapters = start(ramp, outputs)
    found, _, _ = ramp(adapters, outputs, {**BATCH, "epoch": 1.0})
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_deeper_targets_are_all_deeper_classifiers():
    method, outputs = EKD(targets="deeper"), both()
    adapters = start(method, outputs)
    own, last, first = classifiers(method, outputs, adapters)["student"]
    _, terms, _ = evaluate(method, outputs, adapters)
    expected = kl(last, own) + kl(first, own) + kl(first, last)
    np.testing.assert_allclose(terms["within_kl/student"], expected, rtol=1e-5)


def test_sums_over_the_width_are_the_formula_of_the_paper():
    outputs = both()
    mean, total = (evaluate(EKD(feature_reduction=way), outputs)[1] for way in ("mean", "sum"))
    for name in ("within_l2/student", "cross_l2"):
        np.testing.assert_allclose(total[name], 8 * mean[name], rtol=1e-5)


def slopes(method, only):
    """Returns, by role, if one term has a gradient for the logits and for the modules."""
    weights = {f"{name}_weight": 0.0 for name in ("hard", "soft", "feature", "cross")}
    weights |= {"cross_feature_weight": 0.0, only: 1.0}
    method, outputs = dataclasses.replace(method, **weights), both()
    adapters = start(method, outputs)

    def loss(outputs, params):
        return method(adapters.replace(params=params), outputs, BATCH)[0]

    found, modules = jax.grad(loss, (0, 1))(outputs, adapters.params)
    size = lambda tree: sum(jnp.abs(x).sum() for x in jax.tree.leaves(tree))  # noqa: E731
    return {
        role: (bool(size(found[role].logits)), bool(size(modules[role]))) for role in method.roles
    }


@pytest.mark.parametrize(
    ("only", "options", "teacher", "student"),
    [
        # the deepest classifier is a target only, so that nothing reaches its logits
        ("soft_weight", {}, (False, True), (False, True)),
        ("cross_weight", {}, (False, False), (True, True)),
        ("cross_weight", {"cross_stream": "teacher"}, (True, True), (False, False)),
        ("cross_weight", {"cross_stream": "both"}, (True, True), (True, True)),
        ("cross_feature_weight", {}, (False, False), (False, True)),
    ],
)
def test_targets_carry_no_gradient(only, options, teacher, student):
    assert slopes(EKD(**options), only) == {"teacher": teacher, "student": student}


def test_features_of_different_widths_are_compared_through_a_learned_map():
    method, outputs = EKD(), both(teacher=12, student=8)
    adapters = start(method, outputs)
    assert adapters.params["student"]["module1_map"]["kernel"].shape == (8, 12)
    loss, terms, _ = evaluate(method, outputs, adapters)
    assert np.isfinite(loss) and terms["cross_l2"] > 0
    without = start(dataclasses.replace(method, cross_feature_weight=0.0), outputs)
    assert set(without.params["student"]) == {"module1", "module2"}


@pytest.mark.parametrize(
    ("teacher", "student", "pairs"), [(None, None, 3), (0, None, 1), (1, 2, 2), (0, 0, 1)]
)
def test_modules_are_paired_from_the_deepest(teacher, student, pairs):
    method = EKD(teacher_modules=teacher, student_modules=student)
    outputs = both()
    adapters = start(method, outputs)
    for role, count in (("teacher", teacher), ("student", student)):
        names = {f"module{i}" for i in range(1, 1 + (2 if count is None else count))}
        assert set(adapters.params.get(role, ())) == names
    streams = classifiers(method, outputs, adapters)
    _, terms, _ = evaluate(method, outputs, adapters)
    met = zip(streams["student"], streams["teacher"], strict=False)
    np.testing.assert_allclose(
        terms["cross_kl"], sum(kl(*pair) for pair in list(met)[:pairs]), rtol=1e-5
    )
    assert ("cross_l2" in terms) == (pairs > 1)


def test_the_stem_can_be_a_block():
    adapters = start(EKD(stem=True), both())
    assert set(adapters.params["teacher"]) == {"module1", "module2", "module3"}
    assert adapters.params["teacher"]["module3"]["conv1"]["kernel"].shape[2] == 3


def test_a_frozen_teacher_without_modules_is_kd_to_the_last_bit():
    outputs = both()
    method = EKD(evolving=False, teacher_modules=0, student_modules=0)
    kd = KD(hard_weight=1.0, soft_weight=1.0)
    assert method.frozen_roles == kd.frozen_roles
    assert start(method, outputs).params == {}

    def loss(method, student):
        return method(start(method, outputs), {**outputs, "student": student}, BATCH)[0]

    for found, expected in zip(
        *(jax.value_and_grad(functools.partial(loss, m))(outputs["student"]) for m in (method, kd)),
        strict=True,
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_without_modules_the_teacher_learns_from_its_labels_only():
    method = EKD(teacher_modules=0, student_modules=0)
    assert method.frozen_roles == ()
    _, terms, _ = evaluate(method, both())
    assert set(terms) == {"cross_entropy/teacher", "cross_entropy/student", "cross_kl"}


def test_a_frozen_teacher_learns_its_modules_only():
    _, terms, _ = evaluate(EKD(evolving=False), both())
    everything = evaluate(EKD(), both())[1]
    assert terms["cross_entropy/teacher"] < everything["cross_entropy/teacher"]
    np.testing.assert_array_equal(
        terms["cross_entropy/student"], everything["cross_entropy/student"]
    )


def test_without_modules_the_loss_is_both_cross_entropies_and_kd():
    outputs = both()
    method = EKD(teacher_modules=0, student_modules=0)

    def expected(outputs):
        teacher, student = outputs["teacher"], outputs["student"]
        hard = [losses.cross_entropy(x.logits, BATCH["label"]).mean() for x in (student, teacher)]
        return hard[0] + kl(student, jax.lax.stop_gradient(teacher)) + hard[1]

    def loss(outputs):
        return method(Adapters(), outputs, BATCH)[0]

    ours, theirs = (jax.value_and_grad(f)(outputs) for f in (loss, expected))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), ours, theirs)


@pytest.mark.parametrize("sizes", [(16, 8, 4), (4, 2, 1), (8, 4), (32, 16, 8, 4), (7, 3, 2)])
def test_maps_of_the_two_streams_can_have_different_sizes(sizes):
    """Each module has a map of its own network; the streams are compared after pooling."""
    outputs = {"teacher": network(0, 8), "student": network(1, 8, sizes)}
    loss, terms, _ = evaluate(EKD(), outputs)
    assert np.isfinite(loss) and terms["cross_l2"] > 0


@pytest.mark.parametrize("maps", [(), (jnp.ones((N, 5, 8)), jnp.ones((N, 5, 8)))])
def test_a_network_without_maps_can_have_no_modules(maps):
    outputs = both()
    outputs["student"] = outputs["student"].replace(feature_maps=maps, stem=None)
    says = r"student_modules = None.*maps \[N, H, W, C\] and the student returns .*: set it to 0"
    with pytest.raises(UsageError, match=says):
        start(EKD(), outputs)
    _, terms, _ = evaluate(EKD(student_modules=0), outputs)
    assert {"cross_kl", "within_kl/teacher"} < set(terms)


def test_a_map_that_is_smaller_than_the_last_is_refused():
    outputs = {"teacher": network(0, 8), "student": network(1, 8, (4, 2, 8))}
    with pytest.raises(
        UsageError, match="cannot enlarge a feature map of 2x2 to the last one's 8x8: take"
    ):
        start(EKD(), outputs)


def test_impossible_options_are_refused():
    with pytest.raises(UsageError, match="nothing to learn from: add guided modules"):
        evaluate(
            EKD(teacher_modules=0, student_modules=0, hard_weight=0, cross_weight=0),
            both(),
        )
    with pytest.raises(UsageError, match="stem = True, but the teacher returns no stem"):
        start(
            EKD(stem=True),
            {role: out.replace(stem=None) for role, out in both().items()},
        )
    with pytest.raises(UsageError, match=r"student_modules = 3 .* it has 3 blocks.*choose 0 to 2"):
        start(EKD(student_modules=3), both())
    for options, message in [
        ({"teacher_modules": -1}, "teacher_modules must be 0 or more"),
        ({"temperature": 0.0}, "temperature"),
        ({"cross_stream": "peer"}, "cross_stream = 'peer' is unknown: choose one of both"),
        ({"cross_stream": "both", "evolving": False}, "not evolving"),
        ({"soft_weight": -1.0}, "soft_weight must be 0 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            EKD(**options)
