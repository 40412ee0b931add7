"""Compiled programs that later processes use again."""

import hashlib
import os
import pathlib
import platform
import zlib

import jax
import jaxlib
from etils import epath

from kd_jax.core.devices import keep_programs

_MOST_BYTES = 512 * 2**20
"""Maximum size of all programs of a machine; the oldest are removed."""
_MIN_SECONDS = 0.3
"""Programs that compile faster are not kept: to read them takes as long."""
_STAMP = "checked"
"""File whose time is that of the last check."""


def keep_compiled(workdir: epath.Path) -> None:
    """Lets JAX keep compiled programs, and use those of earlier runs.

    The programs of accelerators are in the folder `programs` of the working directory. Those of a
    CPU are in the user's cache, in one folder per kind of CPU, since another CPU may not have all
    of their instructions. A folder that the user has chosen (`JAX_COMPILATION_CACHE_DIR`) stays.
    A damaged program is removed here, or compiled again by JAX: it never fails a run.

    Args:
        workdir: folder of the run.
    """
    option = "jax_compilation_cache_dir"
    if getattr(jax.config, option) is not None:
        return
    if jax.default_backend() != "cpu":
        keep_programs(workdir / "programs")
        return
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(base, "kd_jax", "programs", _cpu())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean(folder)
    except OSError:  # no home directory, or a full disk: the run compiles all programs
        return
    jax.config.update(option, str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)


def _cpu() -> str:
    """Returns a name for the instructions of this CPU and the version of the compiler."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        kinds = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    except OSError:  # not Linux
        kinds = [platform.processor()]
    words = "\n".join([platform.machine(), jaxlib.__version__, *sorted(set(kinds))])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def clean(folder: pathlib.Path) -> None:
    """Removes damaged programs, and the oldest ones beyond the maximum size.

    A program that was checked before is not read again.

    Args:
        folder: folder of the programs.

    Raises:
        OSError: if the folder cannot be read or written.
    """
    stamp = folder / _STAMP
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    total = 0
    entries = [(path.stat(), path) for path in folder.glob("*-cache")]
    for status, path in sorted(entries, key=lambda entry: -entry[0].st_mtime_ns):
        total += status.st_size
        if total > _MOST_BYTES or (status.st_mtime_ns >= since and not _is_whole(path)):
            path.unlink(missing_ok=True)
    stamp.touch()


def _is_whole(path: pathlib.Path) -> bool:
    """Returns whether a program can be decompressed. Other formats than zlib are not examined."""
    content = path.read_bytes()
    if content and content[0] != 0x78:  # the first byte of zlib
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
