"""Trained networks as files for other programs: StableHLO, ONNX, SavedModel and safetensors.

StableHLO and ONNX files, and the folders of TensorFlow's SavedModel, hold the whole computation,
with the preprocessing and the weights: their input is uint8 images `[N, H, W, C]` of any number N,
and their outputs are `logits`, `probabilities` and `embedding`. A safetensors file holds the
weights only.
"""

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from kd_jax.core.errors import UsageError, reason
from kd_jax.pretrained import network_files, saved_model
from kd_jax.pretrained.weights import Trained

OUTPUTS = ("logits", "probabilities", "embedding")
"""Names of the outputs; shapes `[N, num_classes]`, the same, and `[N, D]`, all float32."""
PLATFORMS = ("cpu", "cuda", "tpu")
"""Devices of a StableHLO file."""
_BATCH = "N"

Arrays = Mapping[str, np.ndarray]
Program = Callable[[np.ndarray], Arrays]
"""Computes `OUTPUTS` from uint8 images `[N, H, W, C]`."""


def forward(trained: Trained) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Returns the function from uint8 images `[N, H, W, C]` to `OUTPUTS`."""

    def outputs(images: jax.Array) -> dict[str, jax.Array]:
        found = trained.outputs(images)
        logits = found.logits.astype(jnp.float32)
        probabilities = jax.nn.softmax(logits)
        return dict(zip(OUTPUTS, (logits, probabilities, found.embedding), strict=True))

    return outputs


def on_cpu(trained: Trained) -> Program:
    """Returns the compiled network itself on the CPU, with which files are compared."""
    sharding = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    variables = jax.device_put(trained.variables, sharding)

    def outputs(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        return forward(dataclasses.replace(trained, variables=variables))(images)

    compiled = jax.jit(outputs)
    return lambda images: jax.device_get(compiled(variables, jax.device_put(images, sharding)))


def in_float32(trained: Trained) -> Trained:
    """Returns the network with computation in float32; its weights are float32 already."""
    if trained.info.options.get("dtype", "float32") in ("float32", jnp.float32):
        return trained
    info = dataclasses.replace(trained.info, options={**trained.info.options, "dtype": "float32"})
    return dataclasses.replace(trained, network=info.module(), info=info)


def _stablehlo(trained: Trained, size: tuple[int, int]) -> bytes:
    from jax import export

    (batch,) = export.symbolic_shape(_BATCH)
    shape = (batch, *size, len(trained.info.mean))
    variables = jax.device_get(trained.variables)  # constants of the program, of no device
    program = jax.jit(forward(dataclasses.replace(trained, variables=variables)))
    try:
        exported = export.export(program, platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, jnp.uint8)
        )
        return bytes(exported.serialize())
    except ImportError as error:
        raise _missing("stablehlo", error, "train") from error


def _run_stablehlo(content: bytes) -> Program:
    from jax import export

    exported = export.deserialize(bytearray(content))
    device = jax.local_devices(backend="cpu")[0]
    return lambda images: jax.device_get(exported.call(jax.device_put(images, device)))


def _onnx(trained: Trained, size: tuple[int, int]) -> bytes:
    trained = in_float32(trained)
    with _quiet():
        try:
            import jax2onnx
            import onnxruntime  # noqa: F401 - for the check, before the work
        except ImportError as error:
            raise _missing("onnx", error, "onnx") from error
        shape = jax.ShapeDtypeStruct((_BATCH, *size, len(trained.info.mean)), jnp.uint8)
        function = forward(trained)

        def outputs(images: jax.Array) -> tuple[jax.Array, ...]:
            with mock.patch.object(jax.lax, "platform_dependent", _on_any_platform):
                found = function(images)
            return tuple(found[name] for name in OUTPUTS)

        try:
            model = jax2onnx.to_onnx(
                outputs,
                [shape],
                model_name=trained.info.name,
                input_names=["images"],
                output_names=list(OUTPUTS),
            )
        except Exception as error:  # operations that jax2onnx does not know raise any exception
            raise UsageError(
                f"jax2onnx cannot convert the network {trained.info.name!r} ({reason(error)}):"
                " export --format=stablehlo."
            ) from error
    return bytes(model.SerializeToString())


def _on_any_platform(
    *args: Any, default: Callable[..., Any], **of_platforms: Callable[..., Any]
) -> Any:
    """Replaces `lax.platform_dependent`: ONNX is of no platform, and needs the default."""
    del of_platforms
    return default(*args)


def _run_onnx(content: bytes) -> Program:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> Arrays:
        return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images}), strict=True))

    return run


def _tf(trained: Trained, size: tuple[int, int]) -> bytes:
    variables = jax.device_get(trained.variables)  # constants of the program, of no device
    function = forward(dataclasses.replace(trained, variables=variables))
    try:
        return saved_model.archived(function, (*size, len(trained.info.mean)), PLATFORMS)
    except ImportError as error:
        raise _missing("tf", error, "tf") from error


def _safetensors(trained: Trained, size: tuple[int, int]) -> bytes:
    del size  # weights have none
    return network_files.content(trained.info, trained.variables)


def _run_safetensors(content: bytes) -> Program:
    return on_cpu(Trained.of(*network_files.parse(content, "the file")))


class Format(NamedTuple):
    """A format of exported files.

    Attributes:
        write: returns the content of a file, of a network and the height and width of its images.
        run: returns the program in a content, by the package that the users of the file need.
        load: code that loads the file FILE and computes probabilities of `images`.
        computes: True if a file holds the computation, from uint8 images; false if weights only.
        float32: True if the computation is in float32 whatever the dtype of the network is.
        folder: True if the content is an archive, to be unpacked into a folder.
    """

    write: Callable[[Trained, tuple[int, int]], bytes]
    run: Callable[[bytes], Program]
    load: str
    computes: bool = True
    float32: bool = False
    folder: bool = False


FORMATS = {
    "stablehlo": Format(
        _stablehlo,
        _run_stablehlo,
        'from jax import export; program = export.deserialize(open(FILE, "rb").read());'
        ' probabilities = program.call(images)["probabilities"]',
    ),
    "onnx": Format(
        _onnx,
        _run_onnx,
        "import onnxruntime; session = onnxruntime.InferenceSession(FILE);"
        ' (probabilities,) = session.run(["probabilities"], {"images": images})',
        float32=True,
    ),
    "tf": Format(
        _tf,
        saved_model.program,
        "import tensorflow as tf; network = tf.saved_model.load(FILE);"
        ' probabilities = network.predict(tf.constant(images))["probabilities"]',
        folder=True,
    ),
    "safetensors": Format(
        _safetensors,
        _run_safetensors,
        "import kd_jax, jax; network = kd_jax.load(FILE);"
        " probabilities = jax.nn.softmax(network(images).logits)",
        computes=False,
    ),
}
"""All formats, by the value of `--format`."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the notes of jax2onnx and of the packages that it uses."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _missing(format: str, error: ImportError, extra: str) -> UsageError:
    name = error.name or "a package"
    return UsageError(
        f"--format={format} needs {name}, which is not installed: run `pip install"
        f" 'kd_jax[{extra}]'`."
    )
