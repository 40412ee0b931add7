"""Runs HORKD, EKD and KDim on streamed faces, and prints the results of their stages.

    python streamed_runs.py PROCESS NUMBER PORT FACES WORKDIR

This is one of NUMBER processes, which share eight devices.
"""

import json
import pathlib
import sys

import jax
import small_config
import small_faces

from kd_jax.experiment.run import Run

DEVICES = 8


def configs(faces):
    """Returns a config for each paper; each process decodes the images of its own devices."""
    kdim = small_faces.get_config(faces, stream=True) | {"num_devices": None}
    horkd = json.loads(json.dumps(kdim))
    horkd["stages"]["student"]["method"] = small_config.get_config().stages.student.method.to_dict()
    online = small_config.online_config().to_dict()
    ekd = json.loads(json.dumps(kdim)) | {"stages": online["stages"]}
    ekd["stages"]["ekd"] |= {"accumulate": 1}
    return {"horkd": horkd, "ekd": ekd, "kdim": kdim}


def main(process, processes, port, faces, workdir):
    """Joins the other processes, and prints one line of JSON per paper."""
    jax.config.update("jax_num_cpu_devices", DEVICES // processes)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    for name, config in configs(pathlib.Path(faces)).items():
        stages = Run(config, pathlib.Path(workdir) / name).run()["stages"]
        print(json.dumps({name: {stage["name"]: stage["last"] for stage in stages}}), flush=True)


if __name__ == "__main__":
    number, count, free, *places = sys.argv[1:]
    main(int(number), int(count), int(free), *places)
