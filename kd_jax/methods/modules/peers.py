"""Modules that combine the logits of branches and peers: ONE's gate and OKDDip's attention."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models import LinearMap, layers, norms


class Gate(nn.Module):
    """One weight per branch for each image, from the map that the branches share.

    Global pooling, a linear map, batch norm, ReLU and softmax, as in the code of ONE (Lan, Zhu &
    Gong, NeurIPS 2018).

    Attributes:
        branches: number of branches.
        train: normalize by the statistics of the batch, and update the running ones.
        axis_name: axis over which batch norm averages, inside `pmap`.
    """

    branches: int
    train: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to weights `[N, branches]` with a sum of 1 per image."""
        x = LinearMap(self.branches, name="linear")(layers.global_average(x))
        norm = norms.batch_norm(train=self.train, axis_name=self.axis_name)
        x = norm(name="norm")(x[:, None, None])[:, 0, 0]
        return nn.softmax(nn.relu(x))


class PeerAttention(nn.Module):
    """Weights of all peers for each peer and image, from their embeddings.

    The weights of peer a are softmax_b(Q(e_a) . K(e_b)). The linear maps Q and K have no bias and
    are shared by the peers. The products are not divided by a root of the width (Chen et al., AAAI
    2020, and their code).

    Attributes:
        width: width of Q and K.
    """

    width: int

    @nn.compact
    def __call__(self, embeddings: jax.Array) -> jax.Array:
        """Maps `[N, peers, D]` to `[N, peers, peers]`; the last axis has a sum of 1."""
        depth = embeddings.shape[-1]
        init = functools.partial(layers.uniform, bound=1.0 / math.sqrt(depth))
        product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
        query, key = (
            product("npd,dw->npw", embeddings, self.param(name, init, (depth, self.width)))
            for name in ("query", "key")
        )
        return nn.softmax(product("naw,nbw->nab", query, key))
