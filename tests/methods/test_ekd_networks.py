"""Guided modules of EKD on the networks of the library. Nothing is computed here."""

import functools

import jax
import jax.numpy as jnp
import pytest

from kd_jax import models
from kd_jax.core.errors import UsageError
from kd_jax.methods import EKD

C = 5


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet20", "vgg8", "wrn_16_1", "shufflenet_v1", "shufflenet_v2"]
)
def test_every_network_can_be_teacher_or_student(name):
    images = jnp.zeros((2, 32, 32, 3))

    def loss(teacher, student):
        outputs = {}
        for role, network in (("teacher", teacher), ("student", student)):
            module = models.create(network, num_classes=C, width=0.1)
            outputs[role], _ = module.init_with_output(jax.random.key(0), images, train=False)
        batch = {"label": jnp.zeros(2, jnp.int32), "index": jnp.arange(2)}
        method = EKD()
        return method(method.init(jax.random.key(0), outputs, batch, {}, None), outputs, batch)[0]

    for pair in ((name, "resnet8"), ("resnet8", name)):
        assert jax.eval_shape(functools.partial(loss, *pair)).shape == ()


SMALLEST = {
    **dict.fromkeys(("resnet18", "resnet50", "resnet20", "wrn_16_1", "wrn_50_2"), 1),
    **dict.fromkeys(("shufflenet_v1", "shufflenet_v2"), 1),
    **dict.fromkeys(("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"), 8),
}


@pytest.mark.parametrize(("name", "least"), SMALLEST.items())
def test_images_too_small_for_a_network_are_refused_and_others_have_modules(name, least):
    module = models.create(name, num_classes=C, width=0.1)

    def modules(size):
        images = jnp.zeros((2, size, size, 3))
        outputs, _ = module.init_with_output(jax.random.key(0), images, train=False)
        method, batch = EKD(), {"label": jnp.zeros(2, jnp.int32), "index": jnp.arange(2)}
        outputs = {"teacher": outputs, "student": outputs}
        return method.init(jax.random.key(0), outputs, batch, {}, None).params["student"]

    assert jax.eval_shape(functools.partial(modules, least))["module1"]
    says = f"cannot see images of {least - 1}x{least - 1} pixels.* at least {least}x{least}"
    with pytest.raises(UsageError, match=says):
        jax.eval_shape(functools.partial(modules, least - 1))
