"""The result of every network."""

import flax.struct
import jax


@flax.struct.dataclass
class Outputs:
    """A network's result for a batch: everything that a method may distill from.

    All fields are returned explicitly. The compiler removes those that nothing uses.

    Attributes:
        logits: `[N, C]` float32, the class scores.
        embedding: `[N, D]` float32, the features before the classifier: the papers' f_i. It is the
            globally pooled last feature map. ShuffleNetV2 and MobileNetV2 widen that map before
            pooling; SphereFace uses a linear map instead of pooling. The options `embedding_size`
            and `normalize_embedding` add a linear map and a division by the L2 norm.
        feature_maps: one `[N, H, W, C]` per stage of the network, shallow to deep, after the
            activation. The stem is not a stage.
        preactivations: the same feature maps before their activation.
        stem: the feature map before the first stage, `[N, H, W, C]`, RepDistiller's `feat[0]`; None
            where a network does not return it.
        cosines: cosines of the angles between embedding and class directions, `[N, C]` float32;
            None where the classifier is linear.
        blocks: the feature map of every residual block, `[N, H, W, C]` each, shallow to deep, after
            the activation where the network activates it; empty where a network has no such blocks.
        branches: complete outputs of the network and of further copies of its last stage, as ONE
            and OKDDip train them, the network's own first; empty where a network has no copies.
    """

    logits: jax.Array
    embedding: jax.Array
    feature_maps: tuple[jax.Array, ...] = ()
    preactivations: tuple[jax.Array, ...] = ()
    stem: jax.Array | None = None
    cosines: jax.Array | None = None
    blocks: tuple[jax.Array, ...] = ()
    branches: "tuple[Outputs, ...]" = ()
