"""Float32 gradients of the kernels of convolutions that compute in bfloat16."""

from collections.abc import Callable

import jax
from jax import lax


def with_wide_gradient(
    conv: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Computes a convolution in the dtype of `x`, with the gradient of the kernel in its own dtype.

    The products are the same. But a gradient that is rounded to bfloat16 loses 16 of 24 binary
    digits before the devices and the parts of a batch add it up. GPUs still round it: XLA might
    find no fast convolution from bfloat16 to float32 in their libraries.

    Args:
        conv: the convolution of two arrays of one dtype.
        x: feature maps.
        kernel: kernel of a wider dtype.
    """

    @jax.custom_vjp
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(x, kernel.astype(x.dtype))

    def forward(x, kernel):
        return product(x, kernel), (x, kernel)

    def backward(saved, gradient):
        x, kernel = saved
        low = kernel.astype(x.dtype)
        (of_x,) = jax.linear_transpose(lambda x: conv(x, low), x)(gradient)

        def wide(x, gradient):
            x, gradient = x.astype(kernel.dtype), gradient.astype(kernel.dtype)
            return jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(gradient)[0]

        def narrow(x, gradient):
            found = jax.linear_transpose(lambda kernel: conv(x, kernel), low)(gradient)[0]
            return found.astype(kernel.dtype)

        of_kernel = lax.platform_dependent(x, gradient, cuda=narrow, rocm=narrow, default=wide)
        return _joined(of_x, x), _joined(of_kernel, kernel)

    product.defvjp(forward, backward)
    return product(x, kernel)


def _joined(gradient: jax.Array, of: jax.Array) -> jax.Array:
    """Sums a gradient over the axes of `shard_map` along which its array does not vary."""
    varying = [jax.typeof(each).manual_axis_type.varying for each in (gradient, of)]
    axes = varying[0] - varying[1]
    return lax.psum(gradient, tuple(axes)) if axes else gradient
