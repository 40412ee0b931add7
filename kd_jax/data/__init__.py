"""Images: where they come from, their order, augmentation, and resolution."""

from kd_jax.data.augmentation import Augmentation as Augmentation
from kd_jax.data.augmentation import random_crop as random_crop
from kd_jax.data.augmentation import random_flip as random_flip
from kd_jax.data.degradation import Degradation as Degradation
from kd_jax.data.feeds import Feed as Feed
from kd_jax.data.feeds import Resident as Resident
from kd_jax.data.feeds import Rows as Rows
from kd_jax.data.feeds import Streamed as Streamed
from kd_jax.data.feeds import batch_of as batch_of
from kd_jax.data.images import ImageSet as ImageSet
from kd_jax.data.images import Source as Source
from kd_jax.data.images import StoredImages as StoredImages
from kd_jax.data.order import BatchOrder as BatchOrder
from kd_jax.data.order import sequential_batches as sequential_batches
from kd_jax.data.resolution import FILTERS as FILTERS
from kd_jax.data.resolution import check_filter as check_filter
from kd_jax.data.resolution import resampling_matrix as resampling_matrix
from kd_jax.data.resolution import resize as resize
from kd_jax.data.sources import SOURCES as SOURCES
from kd_jax.data.sources import load_splits as load_splits
from kd_jax.data.subsets import class_fraction as class_fraction
from kd_jax.data.views import Normalisation as Normalisation
from kd_jax.data.views import View as View
from kd_jax.data.views import Views as Views
from kd_jax.data.views import check_aspect as check_aspect
from kd_jax.data.views import view_size as view_size
