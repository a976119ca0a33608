"""Thermodynamic quantities of one step, and the table of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from eqcalc.errors import HalfFrameWarning, OutputError, listing
from eqcalc.simulate.cell_state import density
from eqcalc.simulate.degrees_of_freedom import INTERNAL
from eqcalc.simulate.frame_content import drop_stale
from eqcalc.units import pressure_gpa

__all__ = [
    "Thermo",
    "has_inner_constraints",
    "has_pressure",
    "has_stress",
    "is_ramped",
    "observe",
    "read_columns",
    "read_table",
    "row_of",
    "second_half",
    "snapshot",
    "spread_summary",
    "temperature_of",
]

Table = dict[str, NDArray[np.float64]]
"""The columns of a run's table, each (n_rows,), by their names."""


class Thermo(NamedTuple):
    """One row of ``thermo.csv``.

    Energies in eV. ``volume`` (Å³), ``density`` (g/cm³) and ``cell`` (a, b, c in Å and alpha,
    beta, gamma in degrees) are None unless the structure is fully periodic; ``pressure_gpa``,
    which includes the kinetic part, also where the calculator gives no stress. The targets of
    thermostat and barostat are None unless they change. ``energy_spread`` (eV) and
    ``max_force_spread`` (eV/Å, of an atom the length of the standard deviations of its three
    components; that of the largest) are a committee's, None elsewhere.
    """

    step: int
    time_fs: float
    temperature_K: float
    potential_energy: float
    kinetic_energy: float
    total_energy: float
    volume: float | None
    pressure_gpa: float | None
    density: float | None = None
    cell: tuple[float, ...] | None = None
    target_temperature_K: float | None = None
    target_pressure_gpa: float | None = None
    energy_spread: float | None = None
    max_force_spread: float | None = None


_COLUMNS = {
    "step": "step",
    "time_fs": "time_fs",
    "temperature_K": "temperature_K",
    "potential_energy_eV": "potential_energy",
    "kinetic_energy_eV": "kinetic_energy",
    "total_energy_eV": "total_energy",
    "volume_A3": "volume",
    "pressure_gpa": "pressure_gpa",
    "density_g_per_cm3": "density",
}
"""Columns of ``thermo.csv`` -> what of a step they hold. New ones come last, and old runs go on
without them."""
_TARGETS = ("target_temperature_K", "target_pressure_gpa")
_SPREADS = {
    "energy_spread_eV": "energy_spread",
    "max_force_spread_eV_per_A": "max_force_spread",
}
_CELL_COLUMNS = ("a_A", "b_A", "c_A", "alpha_deg", "beta_deg", "gamma_deg")


def row_of(thermo: Thermo) -> dict[str, float]:
    """Return a row of ``thermo.csv`` by column, without what is not defined."""
    row = {name: getattr(thermo, field) for name, field in _COLUMNS.items()}
    row |= dict(zip(_CELL_COLUMNS, thermo.cell or (), strict=False))
    row |= {name: getattr(thermo, name) for name in _TARGETS}
    row |= {name: getattr(thermo, field) for name, field in _SPREADS.items()}
    return {name: value for name, value in row.items() if value is not None}


def has_pressure(atoms: Atoms) -> bool:
    """Return whether a pressure is defined, the calculator gives a stress, and it is all of it.

    Forces that keep bonds rigid, and springs between atoms, have a virial of their own, which no
    stress of ASE holds: of rigid water it is gigapascals.
    """
    return has_stress(atoms) and not has_inner_constraints(atoms)


def has_inner_constraints(atoms: Atoms) -> bool:
    """Return whether constraints act between atoms: rigid bonds or angles, and springs."""
    return any(map(_acts_between_atoms, atoms.constraints))


def _acts_between_atoms(constraint: Any) -> bool:
    is_spring = hasattr(constraint, "adjust_potential_energy")  # to another atom, or to a place
    n_held = np.size(constraint.get_indices()) if hasattr(constraint, "get_indices") else 0
    return isinstance(constraint, INTERNAL) or (is_spring and n_held > 1)


def has_stress(atoms: Atoms) -> bool:
    """Return whether a stress is defined and the calculator gives it."""
    return bool(atoms.pbc.all()) and "stress" in atoms.calc.implemented_properties


def temperature_of(atoms: Atoms, n_dof: int) -> float:
    """Return the temperature in K that the velocities of ``atoms`` stand for.

    Parameters
    ----------
    n_dof : number of degrees of freedom that share the heat
    """
    return float(2 * atoms.get_kinetic_energy() / (n_dof * units.kB))


def observe(atoms: Atoms, step: int, time_fs: float, n_dof: int) -> Thermo:
    """Measure ``atoms``; energies and stress come from its calculator.

    Parameters
    ----------
    n_dof : number of degrees of freedom that share the heat
    """
    potential = float(atoms.get_potential_energy())
    kinetic = float(atoms.get_kinetic_energy())
    periodic = bool(atoms.pbc.all())
    pressure = None
    if has_pressure(atoms):
        pressure = pressure_gpa(atoms.get_stress(include_ideal_gas=True))
    return Thermo(
        step=step,
        time_fs=time_fs,
        temperature_K=temperature_of(atoms, n_dof),
        potential_energy=potential,
        kinetic_energy=kinetic,
        total_energy=potential + kinetic,
        volume=float(atoms.get_volume()) if periodic else None,
        pressure_gpa=pressure,
        density=density(atoms) if periodic else None,
        cell=tuple(float(value) for value in atoms.cell.cellpar()) if periodic else None,
        **_spreads(atoms),
    )


def _spreads(atoms: Atoms) -> dict[str, float]:
    """Return what a committee's members say of the present step, whose energy was asked for."""
    results = getattr(atoms.calc, "results", {})
    if "forces_spread" not in results:
        return {}
    return {
        "energy_spread": float(results["energy_spread"]),
        "max_force_spread": float(np.linalg.norm(results["forces_spread"], axis=1).max()),
    }


def spread_summary(table: Table) -> dict[str, float] | None:
    """Return the largest spreads of a run and their mean, by name; None without a committee.

    Parameters
    ----------
    table : columns of ``thermo.csv``
    """
    if not _SPREADS.keys() <= table.keys():
        return None
    forces = table["max_force_spread_eV_per_A"]
    largest = int(forces.argmax())
    return {
        "max_force_spread_eV_per_A": float(forces[largest]),
        "at_step": int(table["step"][largest]),
        "mean_max_force_spread_eV_per_A": float(forces.mean()),
        "mean_energy_spread_eV": float(table["energy_spread_eV"].mean()),
    }


def second_half(time_fs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of the rows in the second half of a run's time, equally far apart.

    Where a guard halved the timestep rows follow each other faster; those between are left out.

    >>> second_half(np.array([0.0, 4.0, 8.0, 12.0, 14.0, 16.0])).tolist()
    [2, 3, 5]
    """
    begin = int(np.searchsorted(time_fs, (time_fs[0] + time_fs[-1]) / 2 * (1 - 1e-9)))
    apart = np.diff(time_fs[begin:]).max(initial=0.0) * (1 - 1e-6)
    kept = [begin]
    for row in range(begin + 1, len(time_fs)):
        if time_fs[row] - time_fs[kept[-1]] >= apart:
            kept.append(row)
    return np.array(kept)


def is_ramped(table: Table, skip: int | None = None) -> bool:
    """Return whether a target of thermostat or barostat changes in the second half of a run.

    Means over it are then of no state, and the spread of its rows is no error of them.

    Parameters
    ----------
    table : columns of ``thermo.csv``
    skip : rows that are left out instead of the first half
    """
    rows = second_half(table["time_fs"]) if skip is None else slice(skip, None)
    return any(len(np.unique(table[name][rows])) > 1 for name in _TARGETS if name in table)


def snapshot(atoms: Atoms, constraints: list[object], **info: Any) -> Atoms:
    """Return a frame: a copy with the calculator's energy, forces and stress, and ``info``.

    The energy is that of the forces beside it: what a constraint adds (a spring) is in the
    table of the run alone.

    Parameters
    ----------
    constraints : those of the user's structure; a run may have added its own
    """
    frame = atoms.copy()
    frame.info = dict(info)
    drop_stale(frame)
    frame.set_constraint(constraints)
    results = {
        "energy": atoms.calc.get_property("energy", atoms),
        "forces": atoms.get_forces(apply_constraint=False),
    }
    if has_stress(atoms):
        results["stress"] = atoms.get_stress(apply_constraint=False)
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def read_columns(path: Path, known: Iterable[str]) -> list[str]:
    """Return the columns of a table that goes on; older versions wrote fewer.

    Parameters
    ----------
    known : what can be written now

    Raises
    ------
    OutputError : the file cannot be read, or has a column that is not known.
    """
    try:
        with open(path, encoding="utf-8") as file:
            names = file.readline().rstrip("\n").split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read '{path}': {error}.") from error
    unknown = [name for name in names if name not in known]
    if unknown:
        raise OutputError(
            f"'{path}' has the columns {listing(unknown)}, which this version does not write for "
            "such a run; go on with the version that wrote them, or start a new run from the "
            "last frame."
        )
    return names


def read_table(path: Path) -> Table:
    """Return the columns of a csv file written by a run, by name.

    A last line that a killed run left unfinished is left out, with a HalfFrameWarning.

    Raises
    ------
    OutputError : the file is gone or is no such table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read '{path}': {error}.") from error
    whole = text[: text.rfind("\n") + 1]  # a line is written with its end
    if whole != text:
        warnings.warn(
            f"'{path}' ends within a line, as a run leaves it that was killed; that line is "
            "left out.",
            HalfFrameWarning,
            stacklevel=2,
        )
    header, _, body = whole.partition("\n")
    names = header.split(",")
    try:
        # numpy warns of an empty table, as a run leaves it that was killed at its first step.
        rows = np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2) if body else np.empty(0)
        return dict(zip(names, rows.reshape(-1, len(names)).T, strict=True))
    except ValueError as error:
        raise OutputError(f"'{path}' is no table of a run: {error}.") from error
