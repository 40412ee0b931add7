"""Experiments: specifications, config files, plans, runs and reports."""

from kd_jax.experiment.config_files import face_source as face_source
from kd_jax.experiment.config_files import from_stage as from_stage
from kd_jax.experiment.config_files import parse_argument as parse_argument
from kd_jax.experiment.config_files import sibling as sibling
from kd_jax.experiment.config_files import stage as stage
from kd_jax.experiment.recipes import RECIPES as RECIPES
