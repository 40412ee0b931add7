"""Trained networks: their description, their weights, and embeddings by them."""

from kd_jax.pretrained.embedder import Embedder as Embedder
from kd_jax.pretrained.file_weights import FileWeights as FileWeights
from kd_jax.pretrained.info import NetworkInfo as NetworkInfo
from kd_jax.pretrained.pytorch import import_weights as import_weights
from kd_jax.pretrained.weights import Trained as Trained
from kd_jax.pretrained.weights import Weights as Weights
from kd_jax.pretrained.weights import load as load
