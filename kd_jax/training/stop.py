"""Stopping on request: SIGTERM and Ctrl-C save before the process ends."""

import signal
import threading

import jax


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to end
    """Training was asked to stop and has saved where it stands."""


class StopSignal:
    """While it is entered, SIGTERM and the first Ctrl-C only set `requested`.

    With several processes the signals are left to JAX' preemption service, which makes all
    processes agree on the step at which they save (`Checkpoints.stop_requested`).
    """

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __enter__(self):
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        del frame
        self.requested = True
        signal.signal(number, self._previous[number])  # a second Ctrl-C ends it at once
