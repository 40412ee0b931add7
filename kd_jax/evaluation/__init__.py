"""Evaluation: what a trained network is worth."""

from kd_jax.evaluation.classification import accuracy_evaluator as accuracy_evaluator
