"""Every loss is exported for any batch size: `jax.export` with a symbolic number of images."""

import jax
import numpy as np
import pytest
from compiling import FAST
from losses.table import IMAGES, SHAPES, TABLE, example, scalar

from kd_jax import losses

COSINES = {
    "normalized_softmax": losses.normalized_softmax,
    "cosface": losses.cosface,
    "arcface": losses.arcface,
    "sphereface_r": losses.sphereface_r,
    "proxy_nca": losses.proxy_nca,
    "a_softmax": lambda x, labels: losses.a_softmax(x, 10 + x.sum(1), labels),
}


def gradients_of(kind):
    """Returns a function for the values and the gradients of all losses of a kind."""
    if kind == "cosines":
        named = {
            name: lambda student, _, given, loss=loss: loss(student, given["labels"]).mean()
            for name, loss in COSINES.items()
        }
    else:
        # Variants share most of their code with another loss.
        named = {name: scalar(name) for name in TABLE[kind] if ":" not in name}

    def compute(*arguments):
        return {name: jax.value_and_grad(loss)(*arguments) for name, loss in named.items()}

    return compute


def arguments_of(kind):
    student, teacher, given = example("logits" if kind == "cosines" else kind)
    if kind == "cosines":
        student, teacher = np.tanh(student), np.tanh(teacher)
    given["where"][1] = False
    return student, teacher, given


@pytest.mark.parametrize("kind", [*SHAPES, "cosines"])
def test_symbolic_batch_sizes(kind):
    function, arguments = gradients_of(kind), arguments_of(kind)
    (images,) = jax.export.symbolic_shape("images")

    def symbolic(x):
        shape = (images, *x.shape[1:]) if x.shape[:1] == (IMAGES,) else x.shape
        return jax.ShapeDtypeStruct(shape, x.dtype)

    shapes = jax.tree.map(symbolic, arguments)
    exported = jax.export.export(jax.jit(function), platforms=("cpu", "tpu", "cuda"))(*shapes)
    batch = jax.tree.map(lambda x: x[:5] if np.ndim(x) else x, arguments)
    got, expected = (jax.jit(f, compiler_options=FAST)(*batch) for f in (exported.call, function))

    def close(path, x, y):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * abs(y).max(), err_msg=name)

    jax.tree_util.tree_map_with_path(close, got, expected)
