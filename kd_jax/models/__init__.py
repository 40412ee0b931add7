"""Networks: images to logits, embedding and feature maps.

`create(name, num_classes=...)` makes a network, `names()` lists all names, and `register` adds a
network of your own.
"""

from kd_jax.models.convolution import Conv as Conv
from kd_jax.models.heads import AngularMap as AngularMap
from kd_jax.models.layers import LinearMap as LinearMap
from kd_jax.models.outputs import Outputs as Outputs
from kd_jax.models.registry import NETWORKS as NETWORKS
from kd_jax.models.registry import create as create
from kd_jax.models.registry import names as names
from kd_jax.models.registry import register as register
