"""Images on the host: their sources, splits, order, and loaders that bring them to the devices.

`kd_jax.data.preprocessing` changes images inside the compiled step.
"""

from kd_jax.data.base import SOURCES as SOURCES
from kd_jax.data.base import Source as Source
from kd_jax.data.base import names as names
from kd_jax.data.base import register as register
from kd_jax.data.base import slices as slices
from kd_jax.data.fitting import Fit as Fit
from kd_jax.data.images import ImageSet as ImageSet
from kd_jax.data.images import StoredImages as StoredImages
from kd_jax.data.loaders import Loader as Loader
from kd_jax.data.loaders import ResidentLoader as ResidentLoader
from kd_jax.data.loaders import Rows as Rows
from kd_jax.data.loaders import StreamedLoader as StreamedLoader
from kd_jax.data.loaders import batch_of as batch_of
from kd_jax.data.order import BatchOrder as BatchOrder
from kd_jax.data.order import ClassOrder as ClassOrder
from kd_jax.data.order import sequential_batches as sequential_batches
from kd_jax.data.splits import class_fraction as class_fraction
from kd_jax.data.splits import has_new_classes as has_new_classes
from kd_jax.data.splits import hold_out as hold_out
from kd_jax.data.splits import load_splits as load_splits
