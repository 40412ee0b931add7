"""HORKD on faces, for several processes; also a config file whose argument is the folder of faces.

Each process decodes the images of its own devices.
"""

import pathlib
from typing import Any

import small_config
import small_faces
from ml_collections import ConfigDict


def get_config(faces: str) -> ConfigDict:
    values: dict[str, Any] = small_faces.get_config(pathlib.Path(faces), stream=True)
    values["stages"]["student"]["method"] = (
        small_config.get_config().stages.student.method.to_dict()
    )
    values["num_devices"] = None
    values["checkpoint_minutes"] = 0.001  # also between evaluations
    for stage, epochs in (("teacher", 1.0), ("student", 6.0)):
        values["stages"][stage] |= {"epochs": epochs, "evaluate_every": epochs / 2}
    return ConfigDict(values)
