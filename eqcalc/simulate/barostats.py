"""Constant pressure: ASE's Martyna-Tobias-Klein integrators, and the cells that they may change.

| ensemble | what changes | integrator |
|---|---|---|
| npt | the volume, at constant shape | IsotropicMTKNPT |
| npt-anisotropic | the lengths of three axes at right angles, each by itself | MaskedMTKNPT |
| npt-flexible | lengths and angles | MTKNPT |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, MaskedMTKNPT

from eqcalc.errors import ConfigError
from eqcalc.simulate.cell_state import widest_gaps
from eqcalc.simulate.settings import MDSettings

__all__ = ["build_barostat", "has_vacuum", "require_barostat_cell", "require_filled_cell"]

_WIDEST_GAP = 10.0  # Å; beyond every interaction that could hold a cell together
_RIGHT = 1e-4  # cosine up to which an angle counts as a right one; files round

_CLASSES = {
    "npt": IsotropicMTKNPT,
    "npt-anisotropic": MaskedMTKNPT,
    "npt-flexible": MTKNPT,
}

# Of a symmetric matrix. ASE's MTKNPT counts 9 components of the cell's momentum; three pairs of
# them are equal and stay so, and the chain would keep the cell half as hot again as the atoms.
_FLEXIBLE_DOF = 6


def require_barostat_cell(atoms: Atoms, ensemble: str) -> None:
    """Refuse a cell whose volume means nothing, or that the ensemble cannot change.

    Parameters
    ----------
    atoms : periodic in three directions

    Raises
    ------
    ConfigError : a layer of vacuum goes through the cell, as beside a slab or a molecule in a
        box; "npt-anisotropic" with axes that are not at right angles.
    """
    advice = "Use nvt-langevin or nvt-nhc, or a cell that is filled."
    require_filled_cell(atoms, f"ensemble '{ensemble}'", advice)
    axes = atoms.cell.array / atoms.cell.lengths()[:, None]
    skew = np.abs(axes @ axes.T - np.eye(3)).max()
    if ensemble == "npt-anisotropic" and skew > _RIGHT:
        angles = " ".join(f"{angle:.2f}" for angle in atoms.cell.angles())
        raise ConfigError(
            f"ensemble 'npt-anisotropic' changes three axes at right angles, and this cell has the "
            f"angles {angles}°; use npt-flexible, npt, or an orthogonal supercell."
        )


def has_vacuum(atoms: Atoms) -> bool:
    """Whether a layer of vacuum goes through a cell that is periodic in three directions."""
    gaps = widest_gaps(atoms, atoms.get_scaled_positions(wrap=True))
    return bool((gaps > _WIDEST_GAP).any())


def require_filled_cell(atoms: Atoms, doing: str, advice: str) -> None:
    """Refuse a cell whose volume means nothing.

    Parameters
    ----------
    atoms : periodic in three directions
    doing, advice : what a message begins and ends with

    Raises
    ------
    ConfigError : a layer of vacuum goes through the cell, as beside a slab or a molecule in a box.
    """
    gaps = widest_gaps(atoms, atoms.get_scaled_positions(wrap=True))
    for axis, gap in zip("abc", gaps, strict=True):
        if gap > _WIDEST_GAP:
            raise ConfigError(
                f"{doing} changes the volume, and that of this structure means nothing: along "
                f"{axis} there is a layer of {gap:.1f} Å without atoms, as beside a slab or around "
                f"a molecule. {advice}"
            )


def build_barostat(atoms: Atoms, settings: MDSettings, n_dof: int) -> MolecularDynamics:
    """Return the integrator of one of the ensembles at constant pressure.

    Parameters
    ----------
    n_dof : number of degrees of freedom that share the heat
    """
    kind = _CLASSES[settings.ensemble]
    options: dict[str, Any] = {}
    if settings.ensemble == "npt-anisotropic":
        options["mask"] = np.array([True, True, True])
    dynamics: MolecularDynamics = kind(
        atoms,
        settings.timestep_fs * units.fs,
        temperature_K=settings.temperature_K,
        pressure_au=settings.pressure_gpa * units.GPa,
        tdamp=settings.thermostat_time_fs * units.fs,
        pdamp=settings.barostat_time_fs * units.fs,
        **options,
    )
    # What couples momenta to a growing cell is divided among the ways in which they move (1 + 3 /
    # n_dof). ASE counts those of the whole, which is at rest: the mean pressure would lie k_B T /
    # (n_atoms V) above the one asked for. It only ever uses three times this number.
    dynamics._num_atoms_global = n_dof / 3  # type: ignore[attr-defined]
    if settings.ensemble == "npt-flexible":
        _count_a_symmetric_momentum(dynamics)
    return dynamics


def _count_a_symmetric_momentum(dynamics: Any) -> None:
    barostat = dynamics._barostat
    barostat._R[0] *= _FLEXIBLE_DOF / barostat._cell_dof
    barostat._cell_dof = _FLEXIBLE_DOF
