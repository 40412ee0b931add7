"""A lock on a folder, so that two runs do not write the same files."""

import contextlib
import os
import socket
from collections.abc import Iterator

from etils import epath

from kd_jax.core.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = "run.lock"


@contextlib.contextmanager
def locked(folder: epath.Path, key: str) -> Iterator[None]:
    """Holds the lock of a folder. The operating system releases it however the process ends.

    The lock is advisory: `flock` of the file `run.lock`, which names its owner and is removed at
    the end. Buckets and file systems without locks are not guarded.

    Args:
        folder: the folder, which exists.
        key: option that names the folder, for errors.

    Raises:
        UsageError: if another process holds the lock.
    """
    if fcntl is None or "://" in os.fspath(folder):
        yield
        return
    path = os.path.join(os.fspath(folder), _NAME)
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(open(path, "a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise UsageError(
                    f"{key}={folder} is in use by {owner}: wait until it ends, or choose another"
                    " folder."
                ) from None
            except OSError:  # a file system without locks
                break
            # The owner before may have removed the file after this process opened it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.remove(path)
