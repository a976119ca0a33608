"""What every test shares: one thread, and globals that are left as they were found."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch


def pytest_sessionstart() -> None:
    # On a machine whose cores are shared, two threads can be ten times slower than one.
    torch.set_num_threads(1)
    # A shell that starts the tests in the background lets them, and every process they
    # start, ignore Ctrl-C; what Ctrl-C does is among the things tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def untouched_globals() -> Iterator[None]:
    """Fail a test that leaves another default dtype or grad mode behind.

    Seeds are put back: no test's numbers depend on the tests that ran before it.
    """
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    dtype, grad_enabled = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    assert dtype == torch.float32, f"the test left the default dtype at {dtype}"
    assert grad_enabled, "the test left gradients disabled"
