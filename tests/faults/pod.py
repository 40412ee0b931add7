"""One of the two processes of a pod, in a child of `warm`."""

import jax
from faults.runs import train

from kd_jax import commands


def work(process: str, port: str, workdir: str, heartbeat: str) -> int:
    """Joins the other process, as `--multihost` does on a pod, and trains.

    Args:
        process: number of this process.
        port: port of the coordinator on this machine.
        workdir: folder of the run.
        heartbeat: seconds without a sign of life after which a process counts as dead.
    """
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        num_processes=2,
        process_id=int(process),
        heartbeat_timeout_seconds=int(heartbeat),
    )
    return commands.main([str(word) for word in train(workdir)])
