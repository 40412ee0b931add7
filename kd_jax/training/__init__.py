"""Training: stages, steps, the loop, checkpoints, devices."""

from kd_jax.training.checkpoints import Checkpoints as Checkpoints
from kd_jax.training.execution import EXECUTIONS as EXECUTIONS
from kd_jax.training.execution import jit_steps as jit_steps
from kd_jax.training.execution import pmap_steps as pmap_steps
from kd_jax.training.log import MetricsLog as MetricsLog
from kd_jax.training.log import ProgressLine as ProgressLine
from kd_jax.training.loop import Loop as Loop
from kd_jax.training.loop import Progress as Progress
from kd_jax.training.optimizers import OPTIMIZERS as OPTIMIZERS
from kd_jax.training.optimizers import SCHEDULES as SCHEDULES
from kd_jax.training.optimizers import Optimizer as Optimizer
from kd_jax.training.optimizers import optimizer_groups as optimizer_groups
from kd_jax.training.stage import Stage as Stage
from kd_jax.training.stage import TrainState as TrainState
from kd_jax.training.stage import init_network as init_network
from kd_jax.training.stage import init_state as init_state
from kd_jax.training.stage import train_step as train_step
from kd_jax.training.statistics import batch_statistics as batch_statistics
from kd_jax.training.statistics import dataset_statistics as dataset_statistics
from kd_jax.training.statistics import statistics_shapes as statistics_shapes
from kd_jax.training.stop import Stopped as Stopped
from kd_jax.training.stop import StopSignal as StopSignal
