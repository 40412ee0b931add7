"""Evaluators that a config can name: one module per evaluator, found without a list."""
