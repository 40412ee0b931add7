"""What every network returns."""

import flax.struct
import jax


@flax.struct.dataclass
class Outputs:
    """A network's answer to a batch, with everything that a method may distil from.

    Attributes:
      logits: `[N, C]` float32, the class scores.
      embedding: `[N, D]` float32, the globally pooled last map (which ShuffleNetV2 and MobileNetV2
        widen before, and SphereFace maps linearly instead of pooling): the papers' f_i, and what
        the classifier sees.
      maps: one `[N, H, W, C]` a stage, shallow to deep, after the activation; the stem is no stage.
      preactivations: the same maps before their activation.
      stem: the map before the first stage, `[N, H, W, C]`, RepDistiller's `feat[0]`; None where a
        network does not tell it.
      cosines: of the angles between embedding and class directions, `[N, C]` float32; None where
        the classifier is linear.
    """

    logits: jax.Array
    embedding: jax.Array
    maps: tuple[jax.Array, ...]
    preactivations: tuple[jax.Array, ...]
    stem: jax.Array | None = None
    cosines: jax.Array | None = None
