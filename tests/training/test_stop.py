import os
import signal

import pytest

from kd_jax.training import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_a_second_ctrl_c_acts(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.number == number
        assert (signal.getsignal(number) is before) == (number == signal.SIGINT)
    assert signal.getsignal(number) is before
