"""Sum over all triplets of images, in memory that grows with the square of the batch."""

import functools

import jax
import jax.numpy as jnp

from kd_jax.losses import _numerics

_Sides = tuple[jax.Array, jax.Array]  # half the squared distances, and 1 / distance (0 if it is 0)


# Compiled, because an eager call would otherwise compile the scan anew each time.
@functools.partial(jax.jit, static_argnums=3)
def triplet_sum(
    student_squares: jax.Array, teacher_squares: jax.Array, delta: jax.Array, chunk: int
) -> jax.Array:
    """Sum of Huber(cos f_ijk - cos g_ijk) over the distinct triplets, from squared distances.

    By the law of cosines the angle at j needs only the three sides,
    cos_ijk = (d_ij^2 + d_kj^2 - d_ik^2) / (2 d_ij d_kj):
    a few operations whatever the feature width.

    Args:
        student_squares: squared distances [N, N], 0 for images to leave out.
        teacher_squares: the same in the other network.
        delta: bound of the Huber loss, without gradient.
        chunk: images k taken at once.
    """
    return _total(student_squares, teacher_squares, delta, chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _total(student_squares, teacher_squares, delta, chunk):
    return _sweep(student_squares, teacher_squares, delta, chunk)[0]


def _backward(chunk, gradients, scale):
    student, teacher = gradients
    return scale * student, scale * teacher, None


def _sweep(student_squares, teacher_squares, delta, chunk):
    """The sum, and its gradients with respect to the student's and the teacher's squares."""
    n = len(student_squares)
    sides = [_sides(student_squares), _sides(teacher_squares)]
    chunks = -(-n // chunk)
    padding = ((0, chunks * chunk - n), (0, 0))  # rows of zeros add nothing
    rows = jax.tree.map(lambda x: jnp.pad(x, padding).reshape(chunks, chunk, n), sides)
    third = jnp.arange(chunks * chunk).reshape(chunks, chunk)

    def step(at_first, xs):
        loss, first, last = jax.vmap(lambda *k: _triplets_to(*k, sides, delta))(*xs)
        return [a + b.sum(0) for a, b in zip(at_first, first, strict=True)], (loss, last)

    zeros = [jnp.zeros_like(student_squares), jnp.zeros_like(teacher_squares)]
    first, (loss, last) = jax.lax.scan(step, zeros, (third, rows))
    gradients = [
        inverse * a / 2 - b.reshape(-1, n)[:n] / 4
        for a, b, (_, inverse) in zip(first, last, sides, strict=True)
    ]
    return loss.sum() / 2, (gradients[0], -gradients[1])


def _sides(squares: jax.Array) -> _Sides:
    return squares / 2, _numerics.safe_reciprocal(_numerics.safe_root(squares))


def _triplets_to(k: jax.Array, rows: list[_Sides], sides: list[_Sides], delta: jax.Array):
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
        weighted = slope * inverse
        by_last.append(jnp.matmul(inverse_k, weighted, precision=jax.lax.Precision.HIGHEST))
    return loss, by_first, by_last


# The gradient comes out of the sweep that makes the value; what nobody wants the compiler drops.
_total.defvjp(_sweep, _backward)
