import os
import signal
import threading

import pytest

from kd_jax.core.stop import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_requested_and_a_second_ctrl_c_ends_the_process(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.number == number
        assert (signal.getsignal(number) is before) == (number == signal.SIGINT)
    assert signal.getsignal(number) is before


def test_other_threads_leave_the_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def work():
        with StopSignal() as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(before, False)]
