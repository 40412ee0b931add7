"""Trains every registered method for two steps on eight devices, and prints what came out.

    python every_method.py PROCESS NUMBER PORT

This is one of NUMBER processes, which share the devices.
"""

import json
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from small_stage import train

from kd_jax.methods import METHODS

DEVICES = 8
OPTIONS = {"byot": {"modules": 1}}
"""Options of methods whose defaults do not fit the networks of `small_stage`."""
TEACHERS = {"fsp": {"width": 1.0}}
"""Options of the teacher's network, by method."""


def numbers(name):
    """Returns the metrics of both steps, and a norm of each array of the state afterwards."""
    method = METHODS.get(name)(**OPTIONS.get(name, {}))
    state, metrics = train("jit", DEVICES, 2, method=method, **TEACHERS.get(name, {}))
    found = {metric: np.asarray(values).tolist() for metric, values in metrics.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if np.issubdtype(np.asarray(leaf).dtype, np.floating):
            found[jax.tree_util.keystr(path)] = float(np.linalg.norm(leaf))
    return found


def main(process, processes, port):
    """Joins the other processes, and prints one line of JSON per method."""
    jax.config.update("jax_num_cpu_devices", DEVICES // processes)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    for name in METHODS.names():
        print(json.dumps({name: numbers(name)}), flush=True)
    if processes > 1:
        multihost_utils.sync_global_devices("end")  # the coordinator ends last


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
