"""Every probe in its order; what needs torch runs where torch can be imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqcalc import __version__
from eqcalc.doctor import environment
from eqcalc.doctor.fresh_process import ask, first_that_fails
from eqcalc.doctor.remark import Remark, State

__all__ = ["Examination", "examine"]

_TOPIC = "energies and forces"
_NEEDED = ("numpy", "scipy", "ase", "torch", "vesin", "safetensors", "filelock")
_COMPUTE = """
import numpy
from ase.build import molecule
from eqcalc import EqCalculator
atoms = molecule("CH3CH2OH")
device, engine = words or ("auto", "auto")
atoms.calc = EqCalculator("painn-ethanol", device=device, engine=engine)
energy, forces = atoms.get_potential_energy(), atoms.get_forces()
if not (numpy.isfinite(energy) and numpy.isfinite(forces).all()):
    sys.exit("energy or forces are not finite")
facts = atoms.calc.engine_facts(len(atoms))
print(f"{energy:.4f} eV by {facts['engine']} on {facts['device']} in {facts['dtype']}")
"""


@dataclass(frozen=True)
class Examination:
    """What :func:`examine` found.

    can_compute : energies and forces were computed
    """

    can_compute: bool
    remarks: tuple[Remark, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "can_compute": self.can_compute,
            "eqcalc": __version__,
            "remarks": [remark.as_dict() for remark in self.remarks],
        }


def examine() -> Examination:
    """Look at an installation: environment, devices, compiler, engines, cache, hosts.

    Energies and forces of ethanol are computed in a process of their own. Nothing is changed.
    """
    first, can_compute, can_import = _compute()
    remarks = [first, Remark("eqcalc", State.OK, f"{__version__}, {Path(__file__).parents[1]}")]
    remarks += [environment.python(), *environment.packages()]
    remarks += _with_torch() if can_import else []
    remarks += environment.extras()
    return Examination(can_compute, tuple(remarks))


def _compute() -> tuple[Remark, bool, bool]:
    """Compute; return what came of it, whether it worked, and whether torch can be imported."""
    answer = ask(_COMPUTE)
    if not answer.failure:
        return Remark(_TOPIC, State.OK, f"ethanol: {answer.lines[-1]}"), True, True
    plain = ask(_COMPUTE, "cpu", "torchscript")
    if not plain.failure:
        found = f"only with TorchScript on the CPU: {plain.lines[-1]}; else: {answer.failure}"
        advice = "until that is mended: --device cpu --engine torchscript"
        return Remark(_TOPIC, State.NOTE, found, advice), True, True
    failed = first_that_fails([*_NEEDED, "eqcalc.calculator"])
    if failed is None:
        found, advice = plain.failure, "EQCALC_DEBUG=1 eqcalc energy FILE shows where; report it"
    else:
        found = f"{failed[0]} cannot be imported: {failed[1]}"
        advice = f"install {failed[0]} again, or make a new environment for eqcalc"
    return Remark(_TOPIC, State.BROKEN, found, advice), False, failed is None


def _with_torch() -> Iterator[Remark]:
    """Yield what is found by probes that import torch."""
    from eqcalc.doctor import engines, machine

    yield from machine.devices()
    yield machine.threads()
    yield machine.compiler()
    yield engines.cache()
    yield engines.library()
    yield from engines.engines()
    lammps = engines.lammps()
    if lammps is not None:
        yield lammps
