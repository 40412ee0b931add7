"""Weights of PyTorch networks, read without PyTorch: files, tables of names, stages."""

from kd_jax.pretrained.pytorch.importing import Imported as Imported
from kd_jax.pretrained.pytorch.importing import import_weights as import_weights
from kd_jax.pretrained.pytorch.importing import match_file as match_file
from kd_jax.pretrained.pytorch.importing import read_network as read_network
from kd_jax.pretrained.pytorch.stage import check_folder as check_folder
from kd_jax.pretrained.pytorch.stage import write_stage as write_stage
