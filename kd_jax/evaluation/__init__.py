"""Evaluation: what a trained network is worth."""

from kd_jax.evaluation.classification import classification as classification
