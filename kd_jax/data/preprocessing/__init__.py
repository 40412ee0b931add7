"""Preprocessing inside the compiled step: augmentation, mixup, resolution and degradation.

These modules need only jax and numpy. Pillow, OpenCV and SciPy are imported when a resampling
filter or a blur is used.
"""

from kd_jax.data.preprocessing.augmentation import Augmentation as Augmentation
from kd_jax.data.preprocessing.augmentation import MixedLabels as MixedLabels
from kd_jax.data.preprocessing.augmentation import mixup as mixup
from kd_jax.data.preprocessing.augmentation import random_flip as random_flip
from kd_jax.data.preprocessing.crops import random_crop as random_crop
from kd_jax.data.preprocessing.degradation import Degradation as Degradation
from kd_jax.data.preprocessing.resolution import FILTERS as FILTERS
from kd_jax.data.preprocessing.resolution import check_filter as check_filter
from kd_jax.data.preprocessing.resolution import resampling_matrix as resampling_matrix
from kd_jax.data.preprocessing.resolution import resize as resize
from kd_jax.data.preprocessing.views import Normalization as Normalization
from kd_jax.data.preprocessing.views import View as View
from kd_jax.data.preprocessing.views import Views as Views
from kd_jax.data.preprocessing.views import check_aspect as check_aspect
from kd_jax.data.preprocessing.views import view_size as view_size
