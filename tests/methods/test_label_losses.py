import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.core.errors import UsageError
from kd_jax.data.preprocessing import MixedLabels
from kd_jax.methods import (
    LABEL_LOSSES,
    Adapters,
    Supervised,
    default_options,
    register_label_loss,
)
from kd_jax.models import Outputs

LABELS = jnp.asarray([0, 2, 1], jnp.int32)
EMBEDDING = jax.random.normal(jax.random.key(0), (3, 4)) * jnp.asarray([[1.0], [2.0], [0.5]])
COSINES = jnp.asarray([[0.3, -0.2, 0.9], [0.1, 0.8, -0.5], [-0.9, 0.2, 0.0]])
NORMS = np.linalg.norm(EMBEDDING, axis=1)
ANGULAR = Outputs(COSINES * NORMS[:, None], EMBEDDING, (), (), cosines=COSINES)


def value(step=0, **options):
    batch = {"label": LABELS, "index": LABELS, "step": jnp.asarray(step, jnp.int32)}
    loss, terms, _ = Supervised(**options)(Adapters(), {"student": ANGULAR}, batch)
    assert list(terms) == [options["loss"]]
    assert loss == terms[options["loss"]]
    return loss


@pytest.mark.parametrize("name", ["arcface", "cosface", "normalized_softmax", "sphereface_r"])
def test_margin_losses_take_the_cosines(name):
    expected = getattr(losses, name)(COSINES, LABELS).mean()
    np.testing.assert_allclose(value(loss=name), expected, rtol=1e-6)
    scaled = getattr(losses, name)(COSINES, LABELS, scale=8.0).mean()
    np.testing.assert_allclose(value(loss=name, options={"scale": 8.0}), scaled, rtol=1e-6)


def test_the_margin_of_a_softmax_grows_with_the_steps_of_the_stage():
    for step in (0, 500, 10_000):
        blend = losses.a_softmax_blend(step, gamma=0.2)
        expected = losses.a_softmax(COSINES, NORMS, LABELS, margin=3, blend=blend).mean()
        found = value(step, loss="a_softmax", options={"margin": 3, "gamma": 0.2})
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_a_margin_a_softmax_is_cross_entropy_of_the_logits():
    np.testing.assert_allclose(
        value(loss="a_softmax", options={"margin": 1}), value(loss="cross_entropy"), rtol=1e-6
    )


ANGLES = ["a_softmax", "arcface", "cosface", "normalized_softmax", "sphereface_r"]


@pytest.mark.parametrize("name", ANGLES)
def test_angular_losses_need_an_angular_classifier(name):
    linear = Outputs(ANGULAR.logits, EMBEDDING, (), ())
    batch = {"label": LABELS, "index": LABELS, "step": jnp.zeros((), jnp.int32)}
    with pytest.raises(UsageError, match=r"set options.head = 'angular'"):
        Supervised(loss=name)(Adapters(), {"student": linear}, batch)


def test_unknown_losses_and_options():
    with pytest.raises(ValueError, match=r"loss = 'softmax' is unknown: choose one of a_softmax, "):
        Supervised(loss="softmax")
    with pytest.raises(ValueError, match=r"options.margin is not used by cross_entropy: .* none"):
        Supervised(options={"margin": 4})
    with pytest.raises(
        ValueError,
        match=r"options.scale .* a_softmax: its options are gamma, least, margin, power, start",
    ):
        Supervised(loss="a_softmax", options={"scale": 4.0})


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("a_softmax", {"margin": 17}, "options.margin = 17 must be from 1 to 16 for a_softmax"),
        ("a_softmax", {"margin": 0}, "options.margin = 0 must be from 1 to 16"),
        ("a_softmax", {"gamma": -0.1}, "options.gamma = -0.1 must be 0 or more"),
        ("arcface", {"margin": 3.2}, "options.margin = 3.2 must be from 0 to 3.142 for arcface"),
        ("arcface", {"scale": 0.0}, "options.scale = 0.0 must be greater than 0"),
        ("cosface", {"margin": -0.1}, "options.margin = -0.1 must be 0 or more"),
        ("sphereface_r", {"margin": 0.9}, "options.margin = 0.9 must be 1 or more"),
        ("normalized_softmax", {"scale": float("nan")}, "options.scale = nan must be greater"),
        ("triplet", {"margin": -1.0}, "options.margin = -1.0 must be 0 or more for triplet"),
        ("triplet", {"mining": "easy"}, "options.mining = 'easy' is unknown: choose one of all"),
        ("contrastive", {"variant": "rkd"}, "options.variant = 'rkd' is unknown"),
    ],
)
def test_options_out_of_their_range_are_named(name, options, says):
    """The ranges are those of `kd_jax.losses.margins`."""
    with pytest.raises(UsageError, match=says):
        Supervised(loss=name, options=options)
    for option, default in default_options(name).items():
        Supervised(loss=name, options={option: default})


@pytest.mark.parametrize("name", sorted(LABEL_LOSSES.built_in()))
def test_mixup_weighs_each_label_loss(name):
    partners = jnp.asarray([1, 1, 0], jnp.int32)
    step = jnp.zeros((), jnp.int32)

    method, both = Supervised(loss=name), {"student": ANGULAR}
    adapters = method.init(jax.random.key(0), both, {}, {}, None)

    def loss(**batch):
        return method(adapters, both, {"step": step, "key": jax.random.key(0), **batch})[0]

    mixed = loss(label=LABELS, mixed=MixedLabels(partners, jnp.asarray(0.7)))
    expected = 0.7 * loss(label=LABELS) + 0.3 * loss(label=partners)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_soft_labels_are_for_cross_entropy():
    soft = jnp.asarray([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5]])
    found, _, _ = Supervised()(Adapters(), {"student": ANGULAR}, {"label": soft})
    expected = -(soft * jax.nn.log_softmax(ANGULAR.logits)).sum(1).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="labels"):
        Supervised(loss="arcface")(Adapters(), {"student": ANGULAR}, {"label": soft})


def test_a_users_own_loss_has_its_keywords_as_options(monkeypatch):
    monkeypatch.setattr(LABEL_LOSSES, "_entries", dict(LABEL_LOSSES._entries))

    @register_label_loss("scaled")
    def scaled(outputs, batch, *, factor=2.0):
        return factor * losses.cross_entropy(outputs.logits, batch["label"])

    assert default_options("scaled") == {"factor": 2.0}
    own, plain = value(loss="scaled", options={"factor": 3.0}), value(loss="cross_entropy")
    np.testing.assert_allclose(own, 3 * plain, rtol=1e-6)
    with pytest.raises(UsageError, match="'arcface' is a label loss of kd_jax"):
        register_label_loss("arcface", scaled)
    with pytest.raises(UsageError, match=r"options\.scale is not used by scaled: .* are factor\."):
        Supervised(loss="scaled", options={"scale": 1.0})
