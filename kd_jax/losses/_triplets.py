"""Sum over all triplets of images, with memory proportional to the square of the batch size."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd_jax.losses import _numerics

_MOST_ANGLES = 2**26  # computed at once on a GPU, where each array of them is in its memory
_TPU_CHUNK = 32  # images k at once on a TPU: enough to keep its vector units busy
_SPLIT = 128  # from this batch size on, the images k are split over the devices

_Squares = tuple[jax.Array, jax.Array]  # one array [N, N] per network
_Sides = tuple[jax.Array, jax.Array]  # squared distances / 2, and 1 / distance (0 for distance 0)
_Parts = tuple[jax.Array, list[jax.Array], list[jax.Array]]  # the result of `_loop`


# Compiled here, because each eager call would compile the loops again.
@functools.partial(jax.jit, static_argnums=(3, 4))
def triplet_sum(
    student_squares: jax.Array,
    teacher_squares: jax.Array,
    delta: jax.Array,
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Sums Huber(cos f_ijk - cos g_ijk) over the distinct triplets, from squared distances.

    By the law of cosines, the angle at j needs only the three sides:
    cos_ijk = (d_ij^2 + d_kj^2 - d_ik^2) / (2 d_ij d_kj).
    The number of operations per triplet does not depend on the width of the features.

    Args:
        student_squares: squared distances [N, N]; all distances of an image that is left out are 0.
        teacher_squares: squared distances [N, N] of the same images in the teacher.
        delta: bound of the Huber loss; gets no gradient.
        chunk_size: number of images k to process at once. The default is the fastest number on a
            CPU; on other devices it keeps the device busy.
        axis_name: name of the mapped axis whose devices share the images k. All of them have the
            same squared distances, and get the sum over all triplets. Without it, the devices of
            the mesh that is set (`jax.set_mesh`) share them.

    Raises:
        ValueError: If the chunk size is not positive.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be positive; got {chunk_size}")
    return _total(student_squares, teacher_squares, delta, chunk_size, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _total(
    student_squares: jax.Array,
    teacher_squares: jax.Array,
    delta: jax.Array,
    chunk_size: int | None,
    axis_name: str | None,
) -> jax.Array:
    return _value_and_gradients(student_squares, teacher_squares, delta, chunk_size, axis_name)[0]


def _backward(
    chunk_size: int | None, axis_name: str | None, gradients: _Squares, scale: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    del chunk_size, axis_name
    student, teacher = gradients
    return scale * student, scale * teacher, None


def _value_and_gradients(
    student_squares: jax.Array,
    teacher_squares: jax.Array,
    delta: jax.Array,
    chunk_size: int | None,
    axis_name: str | None,
) -> tuple[jax.Array, _Squares]:
    """Returns the sum and its gradients with respect to both arrays of squared distances."""
    sides = [_sides(student_squares), _sides(teacher_squares)]
    loss, first, last = _over_devices(sides, delta, chunk_size, axis_name)
    gradients = [
        inverse * a / 2 - b / 4 for a, b, (_, inverse) in zip(first, last, sides, strict=True)
    ]
    return loss / 2, (gradients[0], -gradients[1])


def _over_devices(
    sides: list[_Sides], delta: jax.Array, chunk_size: int | None, axis_name: str | None
) -> _Parts:
    """Returns what `_loop` returns for all images k; the devices share them."""
    n = sides[0][0].shape[0]
    mesh = jax.sharding.get_abstract_mesh()
    automatic = tuple(mesh.auto_axes) if mesh.shape else ()
    large = _is_number(n) and n >= _SPLIT
    if large and axis_name is not None:
        return _share(sides, delta, chunk_size, axis_name)
    if large and automatic and mesh.size > 1:
        share = functools.partial(_share, chunk_size=chunk_size, axis_name=automatic)
        whole = jax.sharding.PartitionSpec()
        parts: _Parts = jax.shard_map(
            share, in_specs=whole, out_specs=whole, axis_names={*automatic}, check_vma=False
        )(sides, delta)
        return parts
    return _on_platform(sides, sides, jnp.arange(n), delta, chunk_size)


def _share(
    sides: list[_Sides],
    delta: jax.Array,
    chunk_size: int | None,
    axis_name: str | tuple[str, ...],
) -> _Parts:
    """Processes the images k of this device, and joins the results of all devices."""
    n, devices = sides[0][0].shape[0], jax.lax.axis_size(axis_name)
    length = -(-n // devices)
    start = jax.lax.axis_index(axis_name) * length
    padding = ((0, length * devices - n), (0, 0))  # rows of zeros add nothing
    rows = jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(jnp.pad(x, padding), start, length), sides
    )
    third = start + jnp.arange(length)
    loss, first, last = _on_platform(sides, rows, third, delta, chunk_size)
    # Gathered rather than summed: `shard_map` then knows that each device has its own copy, as from
    # gathered rows, and `_batch.replicated` gives the right gradient.
    loss = jax.lax.all_gather(loss, axis_name).sum()
    first = jax.lax.psum(first, axis_name)
    return loss, first, [jax.lax.all_gather(x, axis_name, tiled=True)[:n] for x in last]


def _on_platform(
    sides: list[_Sides],
    rows: list[_Sides],
    third: jax.Array,
    delta: jax.Array,
    chunk_size: int | None,
) -> _Parts:
    """Runs `_loop` in the fastest way of the platform for which the program is lowered."""
    n = sides[0][0].shape[0]
    most = _MOST_ANGLES // max(n, 1) ** 2 if _is_number(n) else 0
    ways = {
        "cpu": (_cpu_chunk(n) if _is_number(n) else 1, _product),
        "tpu": (max(_TPU_CHUNK, most // 16), _reduction),
        "default": (max(1, most), _reduction),
    }
    parts: _Parts = jax.lax.platform_dependent(
        sides,
        rows,
        third,
        delta,
        **{
            name: functools.partial(_loop, chunk_size=chunk_size or size, contract=contract)
            for name, (size, contract) in ways.items()
        },
    )
    return parts


def _sides(squares: jax.Array) -> _Sides:
    inverse = _numerics.safe_reciprocal(_numerics.safe_root(squares))
    # The product of the inverses of two huge distances would underflow to 0.
    huge = squares > jnp.finfo(squares.dtype).max / 4
    return squares / 2, jnp.where(huge, jnp.nan, inverse)


def _cpu_chunk(n: int) -> int:
    """Returns the fastest size by measurement: triplets that fit the cache, else single images."""
    return n if n <= 64 else 8 if n <= 128 else 1


def _is_number(size: int) -> bool:
    """Returns False for a size of `jax.export.symbolic_shape`, which has no value yet."""
    return isinstance(size, int)


def _product(weights: jax.Array, terms: jax.Array) -> jax.Array:
    return jnp.matmul(weights, terms, precision=_numerics.HIGHEST)


def _reduction(weights: jax.Array, terms: jax.Array) -> jax.Array:
    # A product would write its terms to memory. A reduction is fused with their computation.
    return (weights[:, None] * terms).sum(0)


def _loop(
    sides: list[_Sides],
    rows: list[_Sides],
    third: jax.Array,
    delta: jax.Array,
    *,
    chunk_size: int,
    contract: Callable[[jax.Array, jax.Array], jax.Array],
) -> _Parts:
    """Loops over chunks of images k and processes the triplets of a chunk at once.

    Args:
        sides: sides between all images, [N, N].
        rows: sides between K images k and all images, [K, N].
        third: positions of the images k, int32 [K].
        delta: bound of the Huber loss.
        chunk_size: number of images k to process at once.
        contract: function that computes w^T x for w [N] and x [N, N].

    Returns:
        Twice the loss, and for each network the derivatives that `_triplets_to` describes: those by
        d_ij summed over k, [N, N], and those by d_ik, [K, N].
    """
    n, number = sides[0][0].shape[0], third.shape[0]
    if _is_number(number):
        chunk_size = max(1, min(chunk_size, number))
    chunks = -(-number // chunk_size)
    missing = chunks * chunk_size - number
    rows = jax.tree.map(
        lambda x: jnp.pad(x, ((0, missing), (0, 0))).reshape(chunks, chunk_size, n), rows
    )
    third = jnp.pad(third, (0, missing)).reshape(chunks, chunk_size)

    def step(at_first, xs):
        loss, first, last = jax.vmap(lambda *k: _triplets_to(*k, sides, delta, contract))(*xs)
        return [a + b.sum(0) for a, b in zip(at_first, first, strict=True)], (loss, last)

    # Under `shard_map` the sums differ between devices from the start, like `third`.
    zero = (third.ravel()[:1].sum() * 0).astype(delta.dtype)
    zeros = [jnp.zeros_like(half) + zero for half, _ in sides]
    first, (loss, last) = jax.lax.scan(step, zeros, (third, rows))
    return loss.sum(), first, [x.reshape(-1, n)[:number] for x in last]


def _triplets_to(
    k: jax.Array,
    rows: list[_Sides],
    sides: list[_Sides],
    delta: jax.Array,
    contract: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """Processes the triplets (i, j, k) of one k, as arrays over [j, i].

    Returns:
        The loss, its derivatives by d_ij^2 (times 2 d_ij) for each network, and its derivatives by
        d_ik^2 (times -4). The derivatives by d_kj^2 are the first ones with i and k exchanged.
    """
    cosines = [
        inverse_k[:, None] * inverse * (half + (half_k[:, None] - half_k[None]))
        for (half, inverse), (half_k, inverse_k) in zip(sides, rows, strict=True)
    ]
    gap = cosines[0] - cosines[1]
    # i = k is not a triplet. A bound of 0 makes its slope 0, and the slope makes its loss 0.
    bound = jnp.where(jnp.arange(gap.shape[0]) == k, 0, delta)[None]
    slope = jnp.clip(gap, -bound, bound)
    loss = (slope * (gap - slope / 2)).sum()
    by_first, by_last = [], []
    for cosine, (_, inverse), (_, inverse_k) in zip(cosines, sides, rows, strict=True):
        by_first.append(slope * (inverse_k[:, None] - inverse * cosine))
        by_last.append(contract(inverse_k, slope * inverse))
    return loss, by_first, by_last


# One pass computes the value and the gradients. The compiler drops the gradients if unused.
_total.defvjp(_value_and_gradients, _backward)
