"""What many tests of the losses compile, in half the time that it takes by default."""

import functools

import jax

FAST = {"xla_backend_optimization_level": 0}


@functools.cache
def compiled(loss, **options):
    """Value and both gradients, compiled once for all tests."""
    grad = jax.value_and_grad(functools.partial(loss, **options), argnums=(0, 1))
    return jax.jit(grad, compiler_options=FAST)


@functools.cache
def value_of(loss, **options):
    """The value alone."""
    return jax.jit(functools.partial(loss, **options), compiler_options=FAST)
