"""LAMMPS commands that a script does not have, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterable

from eqcalc.errors import UnknownCommandError, did_you_mean

__all__ = ["refuse_command"]

_BONDED = "a model needs no bonds, angles or charges; leave it out"
_TOPOLOGY_FIX = "ASE's integrators here hold no bonds; take a timestep that resolves them"
_GROUP = "every command acts on all atoms; constrain some with ASE (eqcalc.simulate.run_md)"

_ABSENT = {
    "angle_style": _BONDED,
    "bond_style": _BONDED,
    "dihedral_style": _BONDED,
    "improper_style": _BONDED,
    "kspace_style": _BONDED,
    "special_bonds": _BONDED,
    "fix_rattle": _TOPOLOGY_FIX,
    "fix_rigid": _TOPOLOGY_FIX,
    "fix_shake": _TOPOLOGY_FIX,
    "group": _GROUP,
    "region": _GROUP,
    "fix_setforce": _GROUP,
    "fix_box_relax": "relax a box with eqcalc.simulate.run_relax(..., RelaxSettings(cell=True))",
    "fix_nph": "ASE has no barostat without a thermostat here; take fix_npt(...)",
    "fix_temp_berendsen": "it samples no ensemble; take fix_nvt(...), or fix_nve with fix_langevin",
    "fix_temp_rescale": "it samples no ensemble; take fix_nvt(...), or fix_nve with fix_langevin",
    "fix_press_berendsen": "it samples no ensemble; take fix_npt(...)",
    "mass": "masses stand in the data file, where they tell the elements",
    "compute": "s.atoms is an ASE structure: compute with it between runs",
    "variable": "take Python's variables",
    "restart": "write_data(file) keeps positions, velocities and box, not a thermostat's state",
    "write_restart": "write_data(file) keeps positions, velocities and box",
    "read_restart": "take read_data(file)",
    "read_dump": "read frames with ase.io.read",
    "rerun": "take eqcalc energy, or eqcalc.simulate's single points",
    "neighbor": "the calculator keeps its own list: pair_style('eqcalc', skin=0.5)",
    "neigh_modify": "the calculator keeps its own list: pair_style('eqcalc', skin=0.5)",
    "processors": "a script runs in one process; LAMMPS itself runs on many",
}


def refuse_command(name: str, known: Iterable[str]) -> UnknownCommandError:
    """Return the error for a command that is not there."""
    if name in _ABSENT:
        return UnknownCommandError(f"'{name}' is no command of a script: {_ABSENT[name]}.")
    return UnknownCommandError(
        f"'{name}' is no command of a script; known: {', '.join(sorted(known))}."
        + did_you_mean(name, known)
    )
