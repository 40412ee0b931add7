"""Peak speeds of devices, from the data of their makers."""

from collections.abc import Mapping

BFLOAT16 = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
    "TPU v4": 275e12,
    "TPU v5": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}
"""Dense bfloat16 operations per second, by the beginning of JAX' `device_kind`."""

FLOAT32 = {
    "NVIDIA A100": 19.5e12,
    "NVIDIA H100": 67e12,
    "NVIDIA H100 NVL": 60e12,
    "NVIDIA H100 PCIe": 51e12,
    "NVIDIA H200": 67e12,
    "NVIDIA H200 NVL": 60e12,
}
"""Float32 operations per second outside tensor cores, by the beginning of JAX' `device_kind`."""


def peak(kind: str, peaks: Mapping[str, float]) -> float | None:
    """Returns the peak of a device kind, by the longest name that fits; None if it is unknown."""
    fits = [name for name in peaks if kind.startswith(name)]
    return peaks[max(fits, key=len)] if fits else None
