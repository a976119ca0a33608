"""The operator of ranks that exchange features, and the hosts that it calls."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eqcalc.native import build as native
from eqcalc.native.exchange import exchanged_by

pytestmark = pytest.mark.usefixtures("exchange")


def mirrored(rows: np.ndarray, n_owned: int) -> None:
    """Fill ghosts: each is the owned atom as far from the end."""
    rows[n_owned:] = rows[:n_owned][::-1][: len(rows) - n_owned]


def homewards(rows: np.ndarray, n_owned: int) -> None:
    n_ghosts = len(rows) - n_owned
    rows[n_owned - n_ghosts : n_owned] += rows[n_owned:][::-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 3, 2), (4, 0)])
def test_ghosts_get_the_rows_of_their_owners(shape, dtype, exchange):
    owned = torch.arange(4 * 30).reshape(4, 30)[:, : int(np.prod(shape[1:]))].to(dtype)
    owned = owned.reshape(shape)
    kept = owned.clone()
    with exchanged_by(exchange, mirrored, homewards):
        found = torch.ops.eqcalc.exchange(owned.mT if len(shape) == 3 else owned, 6)
    expected = torch.cat([owned, owned.flip(0)[:2]])
    assert torch.equal(found, expected.mT if len(shape) == 3 else expected)
    assert torch.equal(owned, kept)


def test_exchange_and_its_reverse_are_each_other_s_derivative(exchange):
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    with exchanged_by(exchange, mirrored, homewards):
        call = functools.partial(torch.ops.eqcalc.exchange, n_all=7)
        assert torch.autograd.gradcheck(call, rows)
        assert torch.autograd.gradgradcheck(lambda x: call(x) ** 2, rows)


@pytest.mark.parametrize("name", ["exchange", "exchange_backward"])
def test_torch_finds_the_operator_well_registered(name):
    rows = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(getattr(torch.ops.eqcalc, name).default, (rows, 4))


def test_without_a_host_and_ghosts_rows_are_copied():
    rows = torch.randn(4, 3, requires_grad=True)
    found = torch.ops.eqcalc.exchange(rows, 4)
    assert torch.equal(found, rows)
    assert found.data_ptr() != rows.data_ptr()
    (slope,) = torch.autograd.grad((found * torch.arange(12).view(4, 3)).sum(), rows)
    assert torch.equal(slope, torch.arange(12.0).view(4, 3))


def reason(library: Path) -> str:
    """Return why the last exchange of this thread failed, as a host reads it."""
    functions = ctypes.CDLL(str(library))
    functions.eqcalc_exchange_error.restype = ctypes.c_char_p
    return functions.eqcalc_exchange_error().decode()


def test_ghosts_without_a_host_are_refused(exchange):
    rows = torch.zeros(4, 3)
    for call in (torch.ops.eqcalc.exchange, torch.ops.eqcalc.exchange_backward):
        sizes = (4, 5) if call is torch.ops.eqcalc.exchange else (5, 4)
        with pytest.raises(RuntimeError, match=r"1 ghost atoms, and no host .*set_exchange"):
            call(rows.new_zeros(sizes[0], 3), sizes[1])
        assert reason(exchange).startswith("there are 1 ghost atoms, and no host")
    torch.ops.eqcalc.exchange(rows, 4)
    assert reason(exchange) == ""


def test_a_host_serves_its_own_thread_only(exchange):
    found = []

    def other() -> None:
        try:
            torch.ops.eqcalc.exchange(torch.zeros(4), 5)
        except RuntimeError as error:
            found.append(str(error))

    with exchanged_by(exchange, mirrored, homewards):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    other()
    assert len(found) == 2
    assert all("no host" in message for message in found)


def test_what_cannot_be_exchanged_is_refused(exchange):
    operators = torch.ops.eqcalc
    with exchanged_by(exchange, mirrored, homewards):
        with pytest.raises(RuntimeError, match="must be float32, float64 or int64"):
            operators.exchange(torch.zeros(4, 2, dtype=torch.int32), 5)
        with pytest.raises(RuntimeError, match="of 3 atoms there cannot be 4 owned ones"):
            operators.exchange(torch.zeros(4, 2), 3)
        with pytest.raises(RuntimeError, match="of 4 atoms there cannot be 5 owned ones"):
            operators.exchange_backward(torch.zeros(4, 2), 5)
        with pytest.raises(RuntimeError, match="of 4 atoms there cannot be -1 owned ones"):
            operators.exchange_backward(torch.zeros(4, 2), -1)
        with pytest.raises(RuntimeError, match="integers have no gradient"):
            operators.exchange_backward(torch.zeros(4, 2, dtype=torch.int64), 4)


# --- hosts that fail ---------------------------------------------------------------------


_HOST = """
#include "exchange.h"
#include <dlfcn.h>
#include <stdexcept>

static int answer(void*, void*, int64_t, int64_t, int64_t, int) { return 3; }
static int fail(void*, void*, int64_t, int64_t, int64_t, int) {
  throw std::runtime_error("a message was lost");
}
static int odd(void*, void*, int64_t, int64_t, int64_t, int) { throw 5; }

extern "C" void install(const char* library, int which) {
  eqcalc_exchange_call calls[] = {&answer, &fail, &odd};
  const eqcalc_exchange host{nullptr, calls[which], calls[which]};
  void* handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
  reinterpret_cast<decltype(&eqcalc_set_exchange)>(dlsym(handle, "eqcalc_set_exchange"))(&host);
}
"""


@pytest.fixture(scope="session")
def host(tmp_path_factory) -> Any:
    """Return a host in C++ that fails."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "host.cpp").write_text(_HOST)
    command = ["g++", "-shared", "-fPIC", f"-I{Path(native.__file__).parent}"]
    command += [str(folder / "host.cpp"), "-o", str(folder / "host.so"), "-ldl"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "host.so"))


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (0, "it returned 3 in place of 1"),
        (1, "a message was lost"),
        (2, "an exception of no known class"),
    ],
)
@pytest.mark.parametrize("name", ["forward", "reverse"])
def test_what_a_host_in_c_plus_plus_does_wrong_is_an_error(which, words, name, host, exchange):
    call, sizes = torch.ops.eqcalc.exchange, (4, 5)
    if name == "reverse":
        call, sizes = torch.ops.eqcalc.exchange_backward, (5, 4)
    host.install(str(exchange).encode(), which)
    try:
        with pytest.raises(RuntimeError, match=f"the host's {name} exchange failed: {words}"):
            call(torch.zeros(sizes[0], 2), sizes[1])
        assert words in reason(exchange)
    finally:
        ctypes.CDLL(str(exchange)).eqcalc_set_exchange(None)


def test_the_header_is_plain_c(tmp_path):
    (tmp_path / "host.c").write_text('#include "exchange.h"\n')
    compiler = shutil.which("gcc") or "cc"
    command = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
    command += [f"-I{Path(native.__file__).parent}", str(tmp_path / "host.c")]
    subprocess.run(command, check=True)
