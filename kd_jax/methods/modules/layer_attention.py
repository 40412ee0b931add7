"""Attention of the teacher's layers over the student's layers, for AFD.

Ji et al., "Show, attend and distill", AAAI 2021, eq. 1 to 3. The layers are those of the official
code, `distill/AFD.py` of clovaai/attention-feature-distillation.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models import LinearMap, norms

Maps = tuple[jax.Array, ...]


class LayerAttention(nn.Module):
    """Weights of all pairs of layers: softmax((q_t W_t k_s + p_t p_s) / sqrt(d)) over s.

    The queries q_t and the keys k_s are linear maps, with batch norm, of the channels' means. The
    keys have a ReLU. The positions p_t and p_s are parameters.

    Attributes:
        width: width d of queries and keys.
        axis_name: axis over which batch norm averages, inside `pmap`.
    """

    width: int = 128
    axis_name: str | None = None

    @nn.compact
    def __call__(self, maps: tuple[Maps, Maps]) -> jax.Array:
        """Computes weights `[N, T, S]` for S maps of the student and T of the teacher.

        Batch norm always uses the statistics of the batch.
        """
        student, teacher = (tuple(_channel_means(x) for x in each) for each in maps)
        count, images = (len(teacher), len(student)), len(student[0])
        keys = jnp.stack([nn.relu(self._map(f"key{s}", x)) for s, x in enumerate(student)], 1)
        keys = self._map("bilinear", keys.reshape(images * count[1], self.width), count[0])
        keys = keys.reshape(images, count[1], count[0], self.width)
        queries = jnp.stack([self._map(f"query{t}", x) for t, x in enumerate(teacher)], 1)
        # The initial values of PyTorch's `xavier_normal_`, which does not truncate.
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
        positions = [
            self.param(f"{role}_positions", init, (n, self.width))
            for role, n in zip(("teacher", "student"), count, strict=True)
        ]
        exact = jax.lax.Precision.HIGHEST
        scores = jnp.einsum("nstd,ntd->nts", keys, queries, precision=exact)
        places = jnp.einsum("td,sd->ts", *positions, precision=exact)
        return jax.nn.softmax((scores + places[None]) / math.sqrt(self.width))

    def _map(self, name: str, x: jax.Array, times: int = 1) -> jax.Array:
        """Returns a linear map of rows `[N, D]`, with batch norm: `[N, times * width]`."""
        x = LinearMap(times * self.width, name=name)(x)
        norm = norms.batch_norm(train=True, axis_name=self.axis_name)(name=f"{name}_norm")
        return norm(x[:, None, None])[:, 0, 0]


def _channel_means(maps: jax.Array) -> jax.Array:
    """Returns the mean `[N, C]` of maps `[N, H, W, C]` over the positions, in float32."""
    return maps.astype(jnp.float32).mean((1, 2))
