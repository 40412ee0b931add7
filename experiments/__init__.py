"""Scripts that reproduce the tables and figures of the papers, and benchmarks.

The scripts of the tables run as files, `python experiments/horkd_table1.py`. The benchmarks run as
modules in the root of the repository, `python -m experiments.benchmarks.training_step`.
"""
