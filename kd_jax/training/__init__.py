"""Training: stages, states, steps, optimizers.

A whole run also uses the modules `loop`, `execution`, `checkpoints` and `log`.
"""

from kd_jax.training.optimizers import OPTIMIZERS as OPTIMIZERS
from kd_jax.training.optimizers import SCHEDULES as SCHEDULES
from kd_jax.training.optimizers import Optimizer as Optimizer
from kd_jax.training.optimizers import optimizer_groups as optimizer_groups
from kd_jax.training.stage import Stage as Stage
from kd_jax.training.state import TrainState as TrainState
from kd_jax.training.state import init_network as init_network
from kd_jax.training.state import init_state as init_state
from kd_jax.training.statistics import dataset_statistics as dataset_statistics
from kd_jax.training.statistics import statistics_shapes as statistics_shapes
from kd_jax.training.step import train_step as train_step
