"""The columns of LAMMPS's thermo output, in the units of a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, did_you_mean
from eqcalc.simulate.cell_state import cell_state
from eqcalc.simulate.lammps_style.unit_system import UnitSystem
from eqcalc.simulate.thermo import Thermo, has_pressure, observe

__all__ = ["Observation", "ThermoTable", "n_dof_of", "observe_step"]

_DEFAULT = ("step", "temp", "pe", "ke", "etotal", "press", "vol")


@dataclass(frozen=True)
class Observation:
    """One step as a script sees it.

    Parameters
    ----------
    time : in the script's units, since the start
    elapsed : steps since the start of this run
    """

    thermo: Thermo
    atoms: Atoms
    time: float
    elapsed: int
    system: UnitSystem

    @property
    def pressure(self) -> NDArray[np.float64]:
        """(6,) pressure with its kinetic part, Voigt order, in the script's units."""
        stress = self.atoms.get_stress(include_ideal_gas=True)
        # ASE's stress is positive under tension, a pressure under compression.
        pressure: NDArray[np.float64] = -stress / self.system.pressure
        return pressure

    @property
    def forces(self) -> NDArray[np.float64]:
        """(n_atoms, 3), in the script's energy/Å."""
        forces: NDArray[np.float64] = self.atoms.get_forces() / self.system.energy
        return forces


def n_dof_of(atoms: Atoms) -> int:
    """Return the number of degrees of freedom that LAMMPS counts: 3 n_atoms - 3."""
    return 3 * len(atoms) - 3


def observe_step(
    atoms: Atoms, step: int, time: float, elapsed: int, system: UnitSystem
) -> Observation:
    """Measure the present step."""
    thermo = observe(atoms, step, time * system.time_fs, n_dof_of(atoms))
    return Observation(thermo, atoms, time, elapsed, system)


_Value = Callable[[Observation], float]

# LAMMPS's keyword: the header that it prints, and the value.
_COLUMNS: dict[str, tuple[str, _Value]] = {
    "step": ("Step", lambda now: now.thermo.step),
    "elapsed": ("Elapsed", lambda now: now.elapsed),
    "atoms": ("Atoms", lambda now: len(now.atoms)),
    "time": ("Time", lambda now: now.time),
    "temp": ("Temp", lambda now: now.thermo.temperature_K),
    "pe": ("PotEng", lambda now: now.thermo.potential_energy / now.system.energy),
    "ke": ("KinEng", lambda now: now.thermo.kinetic_energy / now.system.energy),
    "etotal": ("TotEng", lambda now: now.thermo.total_energy / now.system.energy),
    "press": ("Press", lambda now: float(now.pressure[:3].mean())),
    "pxx": ("Pxx", lambda now: float(now.pressure[0])),
    "pyy": ("Pyy", lambda now: float(now.pressure[1])),
    "pzz": ("Pzz", lambda now: float(now.pressure[2])),
    "pyz": ("Pyz", lambda now: float(now.pressure[3])),
    "pxz": ("Pxz", lambda now: float(now.pressure[4])),
    "pxy": ("Pxy", lambda now: float(now.pressure[5])),
    "vol": ("Volume", lambda now: float(now.atoms.get_volume())),
    "density": ("Density", lambda now: cell_state(now.atoms, 0.0).density),
    "lx": ("Lx", lambda now: float(now.atoms.cell[0, 0])),
    "ly": ("Ly", lambda now: float(now.atoms.cell[1, 1])),
    "lz": ("Lz", lambda now: float(now.atoms.cell[2, 2])),
    "xy": ("Xy", lambda now: float(now.atoms.cell[1, 0])),
    "xz": ("Xz", lambda now: float(now.atoms.cell[2, 0])),
    "yz": ("Yz", lambda now: float(now.atoms.cell[2, 1])),
    "fmax": ("Fmax", lambda now: float(np.abs(now.forces).max())),
    "fnorm": ("Fnorm", lambda now: float(np.linalg.norm(now.forces))),
}
_INTEGERS = ("step", "elapsed", "atoms")
_OF_PRESSURE = ("press", "pxx", "pyy", "pzz", "pyz", "pxz", "pxy")


class ThermoTable:
    """Some columns, and how a row of them is printed.

    Parameters
    ----------
    names : LAMMPS's keywords

    Raises
    ------
    ConfigError : an unknown keyword, or none.
    """

    def __init__(self, names: Sequence[str]):
        unknown = [name for name in names if name not in _COLUMNS]
        if unknown or not names:
            found = f"the thermo keyword '{unknown[0]}'" if unknown else "no thermo keyword"
            raise ConfigError(
                f"{found} is not supported; known: {', '.join(_COLUMNS)}."
                + (did_you_mean(str(unknown[0]), _COLUMNS) if unknown else "")
            )
        self.names = tuple(names)

    def require_fit(self, atoms: Atoms) -> None:
        """Refuse columns of a pressure that is not defined.

        Raises
        ------
        ConfigError : there is one, and the box is not periodic, the calculator has no stress, or
            bonds are rigid or springs.
        """
        columns = [name for name in self.names if name in _OF_PRESSURE]
        if columns and not has_pressure(atoms):
            raise ConfigError(
                f"thermo {', '.join(columns)} needs a box that is periodic in three directions, a "
                "calculator with a stress, and no rigid bonds or springs between atoms, whose own "
                "virial is not known; name the other columns: "
                "thermo_style('custom', 'step', 'temp', 'pe', 'ke', 'etotal')."
            )

    @classmethod
    def default(cls, atoms: Atoms) -> ThermoTable:
        """Return step, temp, pe, ke, etotal, press and vol, without press where it is undefined."""
        defined = has_pressure(atoms)
        return cls([name for name in _DEFAULT if defined or name not in _OF_PRESSURE])

    def row(self, now: Observation) -> dict[str, float]:
        """Return keyword -> value."""
        return {name: _COLUMNS[name][1](now) for name in self.names}

    def header(self) -> str:
        """Return the line above the rows, as LAMMPS prints it."""
        cells = [
            f"{_COLUMNS[name][0]:>10} " if name in _INTEGERS else f"{_COLUMNS[name][0]:^14} "
            for name in self.names
        ]
        return "".join(cells).rstrip()

    def line(self, row: dict[str, float], format_float: str | None) -> str:
        """Return a row as LAMMPS prints it: eight digits, or a format such as "%.4f"."""
        cells = []
        for name, value in row.items():
            if name in _INTEGERS:
                cells.append(f"{value:>10d} ")
            elif format_float is None:
                cells.append(f"{value:<14.8g} ")
            else:
                cells.append(f"{format_float % value} ")
        return "".join(cells).rstrip()
