"""TensorFlow's SavedModel of a trained network, by `jax.experimental.jax2tf`.

A SavedModel is a folder. Here it is an archive in memory until it is written, as the other formats
are one file.
"""

import io
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Mapping

import jax
import numpy as np

from kd_jax.core.files import write_file

SIGNATURE = "serving_default"
"""Name of the function in the SavedModel."""


def archived(
    function: Callable[[jax.Array], Mapping[str, jax.Array]],
    shape: tuple[int, int, int],
    platforms: tuple[str, ...],
) -> bytes:
    """Returns the archive of a SavedModel.

    Args:
        function: from uint8 images `[N, H, W, C]` to arrays by name.
        shape: height, width and number of channels of the images; their number N stays open.
        platforms: devices on which it can run.

    Raises:
        ImportError: if TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notes on stderr
    import tensorflow as tf
    from jax.experimental import jax2tf

    converted = jax2tf.convert(
        function,
        polymorphic_shapes=[f"(N, {', '.join(map(str, shape))})"],
        with_gradient=False,
        native_serialization_platforms=platforms,
    )
    module = tf.Module()
    signature = tf.TensorSpec((None, *shape), tf.uint8, name="images")
    module.predict = tf.function(converted, input_signature=[signature], autograph=False)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        signatures = {SIGNATURE: module.predict.get_concrete_function()}
        tf.saved_model.save(module, name, signatures=signatures)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                # Without the time, so that the same network gives the same archive.
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                archive.writestr(entry, path.read_bytes())
    return content.getvalue()


def program(content: bytes) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    """Returns the function of an archive, run by TensorFlow on the CPU."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        unpack(content, folder)
        loaded = tf.saved_model.load(folder)
    function = loaded.signatures[SIGNATURE]

    def run(images: np.ndarray) -> Mapping[str, np.ndarray]:
        with tf.device("CPU"):
            found = function(images=tf.constant(images))
        return {name: value.numpy() for name, value in found.items()}

    return run


def unpack(content: bytes, folder: str | os.PathLike) -> None:
    """Writes the files of an archive to a folder."""
    from etils import epath

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            write_file(epath.Path(folder) / name, archive.read(name), make_folder=True)
