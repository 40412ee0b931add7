import pytest
from small_stage import train


@pytest.fixture(scope="session")
def one_device():
    """Five steps by jit on one device."""
    return train("jit", 1, 5)
