"""Sum over all triplets of images, in memory that grows with the square of the batch."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd_jax.losses import _numerics

_MOST_ANGLES = 2**22  # at once on an accelerator: 16 MiB an array, should the compiler keep any

_Sides = tuple[jax.Array, jax.Array]  # half the squared distances, and 1 / distance (0 if it is 0)


# Compiled, because an eager call would otherwise compile the loops anew each time.
@functools.partial(jax.jit, static_argnums=3)
def triplet_sum(
    student_squares: jax.Array,
    teacher_squares: jax.Array,
    delta: jax.Array,
    chunk_size: int | None = None,
) -> jax.Array:
    """Sum of Huber(cos f_ijk - cos g_ijk) over the distinct triplets, from squared distances.

    By the law of cosines the angle at j needs only the three sides,
    cos_ijk = (d_ij^2 + d_kj^2 - d_ik^2) / (2 d_ij d_kj):
    a few operations whatever the feature width.

    Args:
        student_squares: squared distances [N, N], 0 for images to leave out.
        teacher_squares: the same in the other network.
        delta: bound of the Huber loss, without gradient.
        chunk_size: images k taken at once. By default what is fastest on a CPU, and elsewhere
            enough to keep an accelerator busy.

    Raises:
        ValueError: the chunk holds nothing.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be positive; got {chunk_size}")
    return _total(student_squares, teacher_squares, delta, chunk_size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _total(student_squares, teacher_squares, delta, chunk_size):
    return _value_and_gradients(student_squares, teacher_squares, delta, chunk_size)[0]


def _backward(chunk_size, gradients, scale):
    student, teacher = gradients
    return scale * student, scale * teacher, None


def _value_and_gradients(student_squares, teacher_squares, delta, chunk_size):
    """The sum, and its gradients with respect to the student's and the teacher's squares."""
    n = len(student_squares)
    sides = [_sides(student_squares), _sides(teacher_squares)]
    on_cpu = functools.partial(_loop, chunk_size=chunk_size or _cpu_chunk(n), contract=_product)
    elsewhere = functools.partial(
        _loop, chunk_size=chunk_size or max(1, _MOST_ANGLES // max(n, 1) ** 2), contract=_reduction
    )
    loss, first, last = jax.lax.platform_dependent(sides, delta, cpu=on_cpu, default=elsewhere)
    gradients = [
        inverse * a / 2 - b / 4 for a, b, (_, inverse) in zip(first, last, sides, strict=True)
    ]
    return loss / 2, (gradients[0], -gradients[1])


def _sides(squares: jax.Array) -> _Sides:
    return squares / 2, _numerics.safe_reciprocal(_numerics.safe_root(squares))


def _cpu_chunk(n: int) -> int:
    """The fastest, measured: what stays in the cache, and beyond it single images."""
    return n if n <= 64 else 8 if n <= 128 else 1


def _product(weights: jax.Array, terms: jax.Array) -> jax.Array:
    return jnp.matmul(weights, terms, precision=_numerics.HIGHEST)


def _reduction(weights: jax.Array, terms: jax.Array) -> jax.Array:
    # A product would need its terms in memory; a reduction is fused with what forms them.
    return (weights[:, None] * terms).sum(0)


def _loop(
    sides: list[_Sides],
    delta: jax.Array,
    *,
    chunk_size: int,
    contract: Callable[[jax.Array, jax.Array], jax.Array],
):
    """A loop over chunks of images k, whose triplets are taken at once.

    `contract` forms w^T x of w [N] and x [N, N].
    """
    n = len(sides[0][0])
    chunk_size = max(1, min(chunk_size, n))
    chunks = -(-n // chunk_size)
    padding = ((0, chunks * chunk_size - n), (0, 0))  # rows of zeros add nothing
    rows = jax.tree.map(lambda x: jnp.pad(x, padding).reshape(chunks, chunk_size, n), sides)
    third = jnp.arange(chunks * chunk_size).reshape(chunks, chunk_size)

    def step(at_first, xs):
        loss, first, last = jax.vmap(lambda *k: _triplets_to(*k, sides, delta, contract))(*xs)
        return [a + b.sum(0) for a, b in zip(at_first, first, strict=True)], (loss, last)

    zeros = [jnp.zeros_like(half) for half, _ in sides]
    first, (loss, last) = jax.lax.scan(step, zeros, (third, rows))
    return loss.sum(), first, [x.reshape(-1, n)[:n] for x in last]


def _triplets_to(k: jax.Array, rows: list[_Sides], sides: list[_Sides], delta, contract):
    """The triplets (i, j, k) of one k, as arrays over [j, i].

    Returns their loss, its derivatives by d_ij^2 (times 2 d_ij) for each network, and those by
    d_ik^2 (times -4). Those by d_kj^2 are the first again, with i and k exchanged.
    """
    cosines = [
        inverse_k[:, None] * inverse * (half + (half_k[:, None] - half_k[None]))
        for (half, inverse), (half_k, inverse_k) in zip(sides, rows, strict=True)
    ]
    gap = cosines[0] - cosines[1]
    # i = k is no triplet: with a bound of 0 its slope is 0, and with the slope its loss.
    bound = jnp.where(jnp.arange(len(gap)) == k, 0, delta)[None]
    slope = jnp.clip(gap, -bound, bound)
    loss = (slope * (gap - slope / 2)).sum()
    by_first, by_last = [], []
    for cosine, (_, inverse), (_, inverse_k) in zip(cosines, sides, rows, strict=True):
        by_first.append(slope * (inverse_k[:, None] - inverse * cosine))
        by_last.append(contract(inverse_k, slope * inverse))
    return loss, by_first, by_last


# The gradient comes out of the sweep that makes the value; what nobody wants the compiler drops.
_total.defvjp(_value_and_gradients, _backward)
