"""Options of the verbs that read labelled frames: rows, keys and units, as in ``[data]``."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

__all__ = [
    "EnergyKey",
    "EnergyUnit",
    "ForcesKey",
    "ForcesUnit",
    "GradientKey",
    "LengthUnit",
    "NumbersKey",
    "PositionsKey",
    "Rows",
    "StressKey",
    "StressUnit",
    "TrustData",
    "VirialKey",
    "label_options",
]

# Written out, because eqcalc.units would load ASE for every --help.
_ENERGY_UNITS = "If the file does not say: eV, meV, kcal/mol, kJ/mol, Hartree or Rydberg."
_LENGTH_UNITS = "If the file does not say: Angstrom, Bohr or nm."
_FORCES_UNITS = "Such as Hartree/Bohr. Default: energy/length, per Bohr with Hartree or Rydberg."
_STRESS_UNITS = "Such as GPa or kbar. Default: energy/length^3."

Rows = Annotated[Optional[str], typer.Option(help='Rows to use: "1000:2000", or a csv of indices.')]
EnergyKey = Annotated[Optional[str], typer.Option(help="Key of the energy.")]
ForcesKey = Annotated[Optional[str], typer.Option(help="Key of the forces.")]
GradientKey = Annotated[Optional[str], typer.Option(help="Key of dE/dx, the forces' negative.")]
StressKey = Annotated[Optional[str], typer.Option(help="Key of the stress.")]
VirialKey = Annotated[Optional[str], typer.Option(help="Key of the virial, -stress x volume.")]
PositionsKey = Annotated[Optional[str], typer.Option(help="Key of the positions, npz only.")]
NumbersKey = Annotated[Optional[str], typer.Option(help="Key of the atomic numbers, npz only.")]
EnergyUnit = Annotated[Optional[str], typer.Option(help=_ENERGY_UNITS)]
LengthUnit = Annotated[Optional[str], typer.Option(help=_LENGTH_UNITS)]
ForcesUnit = Annotated[Optional[str], typer.Option(help=_FORCES_UNITS)]
StressUnit = Annotated[Optional[str], typer.Option(help=_STRESS_UNITS)]
TrustData = Annotated[
    bool, typer.Option("--trust-data", help="Take frames that are refused as implausible.")
]

_LABEL_OPTIONS = (
    "energy_key",
    "forces_key",
    "gradient_key",
    "stress_key",
    "virial_key",
    "positions_key",
    "numbers_key",
    "energy_unit",
    "length_unit",
    "forces_unit",
    "stress_unit",
)


def label_options(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what a verb's parameters say of keys and units, as ``read_dataset`` names them."""
    return {name: parameters[name] for name in _LABEL_OPTIONS}
