"""A gallery whose rows are shared by all devices: counts of high scores, and nearest images.

No device holds more than its part of the gallery and one block of scores. All products are float32.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from kd_jax.core.devices import AXIS, place, platform, replicated, split
from kd_jax.evaluation._embeddings import Directions

_SCORES = {"cpu": 2**20}
"""Number of scores per device at once. On a CPU they stay in its cache."""
_SCORES_OF_ACCELERATORS = 2**25
_ROWS = 2**13
"""Number of rows that the host normalizes at once."""
_MOST = 2**14
"""Greatest number of rows in a block; two counts of a block then fit into one int32."""
PADDING = -1
"""Class of the rows that fill up a block of the gallery, and of images without a class."""
_SHARED, _WHOLE = PartitionSpec(AXIS), PartitionSpec()


class DeviceGallery:
    """Unit rows on the devices, in float32.

    Attributes:
        step: number of queries per call.
        error: greatest rounding error of a score.
    """

    def __init__(
        self,
        directions: Directions,
        classes: np.ndarray,
        num_queries: int,
        mesh: Mesh,
        block_size: int | None = None,
    ):
        """Puts a part of the gallery on each device.

        Args:
            directions: the gallery, `[G, D]`.
            classes: class of each image, int `[G]`, 0 or more.
            num_queries: number of queries in all.
            mesh: the devices.
            block_size: number of scores on each device at once; None depends on the device.
        """
        self._mesh = mesh
        scores = block_size or _SCORES.get(platform(mesh), _SCORES_OF_ACCELERATORS)
        # Powers of two, so that many small sets share one program.
        local = -(-len(directions) // mesh.size)
        self._block = min(_power_of_two(local), _power_of_two(math.isqrt(scores)), _MOST)
        self.step = max(1, min(_power_of_two(num_queries), scores // self._block))
        shape = (-(-local // self._block) * self._block * mesh.size, directions.width)

        def rows(index: tuple[slice, ...] | None) -> np.ndarray:
            start, stop, _ = (index or (slice(None),))[0].indices(shape[0])
            part = _aligned_zeros((stop - start, shape[1]))
            for first in range(start, min(stop, len(directions)), _ROWS):
                last = min(first + _ROWS, stop, len(directions))
                part[first - start : last - start] = directions.unit(slice(first, last))
            return part

        self._rows = jax.make_array_from_callback(shape, split(mesh), rows)
        padded = np.full(shape[0], PADDING, np.int32)
        padded[: len(directions)] = classes
        self._classes = place(padded, split(mesh))
        # An input has an error of 2**-24 of its size, and so has each addition and each product.
        # The sizes of all products of two unit rows sum to at most 1.
        self.error = (shape[1] + 16) * 2.0**-24

    def count_others(
        self, queries: np.ndarray, classes: np.ndarray, limits: np.ndarray
    ) -> jax.Array:
        """Starts to count the images of other classes whose scores are at least some limits.

        Args:
            queries: up to `step` unit rows `[K, D]`.
            classes: their classes, int `[K]`.
            limits: pairs of limits of each query, float32 `[2, L, K]`; the first is not the lower
                one.

        Returns:
            Counts, int32 `[2, L, step]`, on each device; the first K columns are those of the
            queries.
        """
        filled = np.full((*limits.shape[:2], self.step), np.inf, np.float32)
        filled[..., : len(queries)] = limits
        inputs = (self._whole(queries), self._whole(classes, PADDING), filled)
        whole = replicated(self._mesh)
        counts: jax.Array = _count_others(
            self._rows,
            self._classes,
            *(place(array, whole) for array in inputs),
            mesh=self._mesh,
            block=self._block,
        )
        return counts

    def nearest(
        self, queries: np.ndarray, left_out: np.ndarray, number: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest images; of equal scores the first row of the gallery comes first.

        Args:
            queries: up to `step` unit rows `[K, D]`.
            left_out: row of the gallery that a query cannot find, int `[K]`; -1 is none.
            number: number of images per query, at most that of the gallery.

        Returns:
            Rows of the gallery, int32 `[K, number]`, and their scores, float32 `[K, number]`, which
            are `-inf` for images that do not exist.
        """
        whole = replicated(self._mesh)
        inputs = (place(x, whole) for x in (self._whole(queries), self._whole(left_out, -1)))
        found = _nearest(
            self._rows,
            self._classes,
            *inputs,
            mesh=self._mesh,
            block=self._block,
            number=number,
        )
        rows, scores = (np.asarray(array)[: len(queries)] for array in found)
        return rows, scores

    def _whole(self, array: np.ndarray, value: int = 0) -> np.ndarray:
        """Returns an array `[step, ...]`, filled up, as float32 or int32."""
        dtype = np.float32 if array.dtype.kind == "f" else np.int32
        filled = np.full((self.step, *array.shape[1:]), value, dtype)
        filled[: len(array)] = array
        return filled


def _scores(queries: jax.Array, gallery: jax.Array) -> jax.Array:
    """Returns the products of rows `[Q, D]` and `[G, D]`, `[Q, G]`, without TF32 or bfloat16."""
    dimensions = (((1,), (1,)), ((), ()))
    return lax.dot_general(queries, gallery, dimensions, precision=lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames=("mesh", "block"))
def _count_others(
    gallery: jax.Array,
    classes: jax.Array,
    queries: jax.Array,
    query_classes: jax.Array,
    limits: jax.Array,
    *,
    mesh: Mesh,
    block: int,
) -> jax.Array:
    """Counts block by block; see `DeviceGallery.count_others`.

    Args:
        gallery: unit rows `[G, D]`, split over the devices.
        classes: their classes, int32 `[G]`.
        queries: unit rows `[Q, D]`.
        query_classes: their classes, int32 `[Q]`.
        limits: limits of each query, float32 `[2, L, Q]`.
        mesh: the devices.
        block: number of rows per device at once, up to `_MOST`; it divides those of a device.

    Returns:
        Counts, int32 `[2, L, Q]`.
    """

    def on_device(
        gallery: jax.Array,
        classes: jax.Array,
        queries: jax.Array,
        own: jax.Array,
        limits: jax.Array,
    ) -> jax.Array:
        def add(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            scores, labels = _scores(queries, part[0]), part[1][np.newaxis]
            is_other = (labels != own[:, np.newaxis]) & (labels != PADDING)
            others = jnp.where(is_other, scores, -jnp.inf)

            def at_least(pair: jax.Array) -> jax.Array:
                # Both counts in one pass over the scores: the first in the high bits.
                high, low = ((others >= limit[:, np.newaxis]).astype(jnp.int32) for limit in pair)
                both = jnp.sum((high << 16) + low, axis=1, dtype=jnp.int32)
                return jnp.stack([both >> 16, both & 0xFFFF])

            if limits.shape[1] == 1:  # the scores are then never stored
                return total + at_least(limits[:, 0])[:, np.newaxis], None
            return total + lax.map(at_least, limits.swapaxes(0, 1)).swapaxes(0, 1), None

        parts = gallery.reshape(-1, block, gallery.shape[1]), classes.reshape(-1, block)
        zeros = lax.pcast(jnp.zeros(limits.shape, jnp.int32), AXIS, to="varying")
        return lax.psum(lax.scan(add, zeros, parts)[0], AXIS)

    specs = (_SHARED, _SHARED, _WHOLE, _WHOLE, _WHOLE)
    run = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=_WHOLE)
    return run(gallery, classes, queries, query_classes, limits)


@functools.partial(jax.jit, static_argnames=("mesh", "block", "number"))
def _nearest(
    gallery: jax.Array,
    classes: jax.Array,
    queries: jax.Array,
    left_out: jax.Array,
    *,
    mesh: Mesh,
    block: int,
    number: int,
) -> tuple[jax.Array, jax.Array]:
    """Finds the nearest images block by block, then among those of all devices.

    Args:
        gallery: unit rows `[G, D]`, split over the devices.
        classes: their classes, int32 `[G]`, which mark the rows that fill up.
        queries: unit rows `[Q, D]`.
        left_out: row of the gallery that each query cannot find, int32 `[Q]`.
        mesh: the devices.
        block: number of rows per device at once; it divides those of a device.
        number: number of images per query.

    Returns:
        Rows, int32 `[Q, number]`, and scores, float32 `[Q, number]`.
    """
    local = gallery.shape[0] // mesh.size

    def best(rows: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores, columns = lax.top_k(scores, number)  # of equal ones, the first
        return jnp.take_along_axis(rows, columns, axis=1), scores

    def on_device(
        gallery: jax.Array, classes: jax.Array, queries: jax.Array, left_out: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        first = lax.axis_index(AXIS) * local

        def add(
            found: tuple[jax.Array, jax.Array], part: tuple[jax.Array, ...]
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            start, units, labels = part
            rows = (start + lax.iota(jnp.int32, block))[np.newaxis]
            exists = (labels[np.newaxis] != PADDING) & (rows != left_out[:, np.newaxis])
            scores = jnp.where(exists, _scores(queries, units), -jnp.inf)
            rows = jnp.broadcast_to(rows, scores.shape)
            pairs = zip(found, (rows, scores), strict=True)
            rows, scores = (jnp.concatenate(pair, axis=1) for pair in pairs)
            return best(rows, scores), None

        parts = (
            first + block * lax.iota(jnp.int32, local // block),
            gallery.reshape(-1, block, gallery.shape[1]),
            classes.reshape(-1, block),
        )
        shape = (queries.shape[0], number)
        nothing = jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf, jnp.float32)
        start = jax.tree.map(lambda x: lax.pcast(x, AXIS, to="varying"), nothing)
        return lax.scan(add, start, parts)[0]

    rows, scores = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(_SHARED, _SHARED, _WHOLE, _WHOLE),
        out_specs=(PartitionSpec(None, AXIS), PartitionSpec(None, AXIS)),
    )(gallery, classes, queries, left_out)
    return best(rows, scores)


def _aligned_zeros(shape: tuple[int, int]) -> np.ndarray:
    """Returns zeros, float32, at an address from which JAX makes no copy on a CPU."""
    size = 4 * shape[0] * shape[1]
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(np.float32).reshape(shape)


def _power_of_two(number: int) -> int:
    """Returns the least power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()
