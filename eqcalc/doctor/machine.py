"""Devices, threads and the C++ compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from eqcalc.cores import usable_cores
from eqcalc.doctor.fresh_process import ask
from eqcalc.doctor.remark import Remark, State
from eqcalc.errors import EngineError

__all__ = ["compiler", "devices", "threads"]

_SOURCE = """
#include <omp.h>
#include <vector>
extern "C" int eqcalc_probe(int n) {
  std::vector<int> twos(n, 2);
  int sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (int i = 0; i < n; ++i) sum += twos[i];
  return sum;
}
"""
_CALL = "import ctypes, torch; print(ctypes.CDLL(words[0]).eqcalc_probe(21))"
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def devices() -> list[Remark]:
    """Look at the processor and at CUDA, and say why there is none."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    found = [Remark("cpu", State.OK, f"{usable_cores()} cores, {capability}")]
    with warnings.catch_warnings(record=True) as said:  # torch's reasons come as warnings
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    if is_available:
        names = []
        try:
            names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            advice = "look at nvidia-smi; until it works, --device cpu"
            return [*found, Remark("cuda", State.BROKEN, reason, advice)]
        return [*found, Remark("cuda", State.OK, f"{', '.join(names)}; CUDA {torch.version.cuda}")]
    return [*found, _no_cuda(torch.__version__, torch.version.cuda, [str(w.message) for w in said])]


def _no_cuda(torch_version: str, built_for: str | None, said: list[str]) -> Remark:
    has_driver = shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if built_for is None:
        found = f"none: torch {torch_version} is a build without CUDA"
        advice = "this machine has an NVIDIA driver: install a torch with CUDA (pytorch.org)"
        return Remark("cuda", State.NOTE if has_driver else State.OK, found, advice * has_driver)
    if hidden is not None and hidden.strip() in ("", "-1"):
        found = f"none: CUDA_VISIBLE_DEVICES is '{hidden}'"
        return Remark("cuda", State.NOTE, found, "unset CUDA_VISIBLE_DEVICES to use a GPU")
    if not has_driver:
        return Remark("cuda", State.OK, "none: no NVIDIA driver on this machine")
    reason = said[0].strip().splitlines()[0] if said else f"torch for CUDA {built_for} sees no GPU"
    return Remark("cuda", State.NOTE, f"none: {reason}", "compare the driver's CUDA in nvidia-smi")


def threads() -> Remark:
    """Look at how many threads a run takes, and whether there are cores for them."""
    import torch

    from eqcalc.threads import ATOMS_PER_THREAD, threads_for

    n_torch, n_cores = torch.get_num_threads(), usable_cores()
    limit = _cpu_limit()
    n_free = n_cores if limit is None else min(n_cores, max(1, int(limit)))
    set_by = os.environ.get("OMP_NUM_THREADS")
    found = (
        f"OMP_NUM_THREADS {'is not set' if set_by is None else f'= {set_by}'}; torch has "
        f"{n_torch}, this process {n_cores} cores"
    )
    if limit is not None and limit < n_cores:
        found += f", of which its container may use {limit:g}"
    found += "; a run takes " + ", ".join(
        f"{threads_for(n)} for {n} atoms" for n in (50, 500, 5000)
    )
    advice = ""
    if n_torch > n_free:
        advice = (
            f"more threads than cores wait for one another: set OMP_NUM_THREADS={n_free} for runs "
            f"of {2 * ATOMS_PER_THREAD} atoms and more"
        )
    elif n_torch < n_free:
        advice = f"{2 * ATOMS_PER_THREAD} atoms and more are faster with --threads {n_free}"
    return Remark("threads", State.NOTE if advice else State.OK, found, advice)


def _cpu_limit() -> float | None:
    """Return the cores that a container grants, None where nothing limits them."""
    try:
        granted, period = _CPU_LIMIT.read_text().split()
        return None if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def compiler() -> Remark:
    """Look for a C++ compiler, and let it build a small library as those of models are built."""
    try:
        # torch's part asks for setuptools on Python 3.12 and later.
        from torch.utils import cpp_extension  # noqa: F401

        from eqcalc.native.build import FLAGS, compile_sources, find_compiler
    except ImportError as error:
        found = f"torch's helpers for C++ cannot be imported: {error}"
        return Remark("compiler", State.NOTE, found, "pip install setuptools")
    advice = "without it everything runs, several times slower: install g++ (or set CXX)"
    try:
        name = find_compiler()
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "probe.cpp"), Path(folder, "probe.so")
            source.write_text(_SOURCE)
            compile_sources({source: ()}, library, FLAGS)
            answer = ask(_CALL, str(library))  # its code may be for another processor
    except EngineError as error:
        return Remark("compiler", State.NOTE, str(error), advice)
    except OSError as error:
        remedy = "set TMPDIR to a folder that can be written"
        return Remark("compiler", State.NOTE, f"there is no place to build: {error}", remedy)
    if answer.failure or answer.lines != ["42"]:
        found = f"what {name} builds does not run: {answer.failure or 'it computes wrongly'}"
        remedy = "set CXX to another compiler, or TMPDIR to a folder from which code can be run"
        return Remark("compiler", State.NOTE, found, remedy)
    return Remark("compiler", State.OK, f"{_version_of(name)}; builds and runs with OpenMP")


def _version_of(name: str) -> str:
    try:
        said = subprocess.run(
            [name, "--version"], capture_output=True, text=True, errors="replace", check=False
        )
    except OSError:
        return name
    return (said.stdout.splitlines() or [name])[0]
