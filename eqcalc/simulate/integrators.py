"""ASE's own integrators, set up for the settings of a run.

ASE wants times in its own unit (Å sqrt(amu/eV)), frictions in its inverse and
pressures in eV/Å³; the conversion happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.constraints import FixCom, FixConstraint
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import NoseHooverChainNVT, NoseHooverChainThermostat
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, listing
from eqcalc.simulate.barostats import build_barostat, require_barostat_cell
from eqcalc.simulate.degrees_of_freedom import INTERNAL, is_held
from eqcalc.simulate.settings import BAROSTATS, CHAINS, MDSettings

__all__ = [
    "build_integrator",
    "check_fit",
    "conserved_energy",
    "hold_center_of_mass",
    "integrator_state",
    "require_atoms_of_constraints",
    "require_cell",
    "restore_integrator",
]

# What ASE's integrators carry from step to step besides atoms and random numbers: owner, "" for
# the integrator itself, and its attributes.
_CARRIED = {
    "_thermostat": ("_eta", "_p_eta"),
    "_barostat": ("_xi", "_p_xi"),
    "": ("_eps", "_p_eps", "_cell0", "_volume0", "_h", "_p_g", "_p_c", "_h0_basis"),
}

_STEP = 1e-3  # Å, about; of atoms, by which constraints are tried
_OTHERWISE = 1e-3  # of a step; cells that files round are skewed by less


def check_fit(atoms: Atoms, settings: MDSettings, *, goes_on: bool = False) -> None:
    """Refuse an ensemble that the structure or its calculator does not allow.

    Parameters
    ----------
    goes_on : the structure is where the run got; what a barostat made of its cell is the run's own

    Raises
    ------
    ConfigError : constant pressure without three periodic directions, without a stress or for a
        cell that it cannot change (:func:`require_barostat_cell`); a Nosé-Hoover chain with
        constraints; masses that are not positive; constraints that push, that take from steps
        something else than from momenta, or that hold atoms that are not there.
    """
    _check_masses(atoms)
    _check_constraints(atoms)
    if settings.ensemble in BAROSTATS:
        require_cell(atoms, f"ensemble '{settings.ensemble}'")
        if not goes_on:
            require_barostat_cell(atoms, settings.ensemble)
    if settings.ensemble in CHAINS and atoms.constraints:
        held = ", ".join(sorted({type(c).__name__ for c in atoms.constraints}))
        raise ConfigError(
            f"ensemble '{settings.ensemble}' ignores constraints, and this structure has "
            f"{held}; use nvt-langevin or nve, or remove the constraints."
        )


def _check_masses(atoms: Atoms) -> None:
    masses = atoms.get_masses()
    wrong = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))
    if len(wrong) > 0:
        raise ConfigError(
            f"masses must be positive, found {listing(np.unique(masses[wrong]).tolist())} on atoms "
            f"{listing(wrong.tolist())}; set them with atoms.set_masses(), or remove the column "
            "'masses' from the file."
        )


def _check_constraints(atoms: Atoms) -> None:
    """Refuse constraints of ASE's with which no energy is conserved.

    Some add their force to the momenta of atoms at rest, others take something else from a step
    than from the momenta that make it.
    """
    require_atoms_of_constraints(atoms)
    for constraint in atoms.constraints:
        at_rest = np.zeros((len(atoms), 3))
        getattr(constraint, "adjust_momenta", _nothing)(atoms, at_rest)
        if at_rest.any():
            raise ConfigError(
                f"the constraint {type(constraint).__name__} moves atoms that are at rest: ASE "
                "adds its force to the momenta as well, and no energy is conserved; remove it, or "
                "put the force into the calculator (ase.calculators.mixing.SumCalculator)."
            )
        if not isinstance(constraint, INTERNAL) and not _takes_one_thing(constraint, atoms):
            raise ConfigError(
                f"the constraint {type(constraint).__name__} takes something else from the steps "
                "of atoms than from their momenta, and no energy is conserved: in ASE FixScaled "
                "does where vectors that it holds are not at right angles to the others, FixedMode "
                "with unequal masses, and FixSubsetCom, which takes all other atoms along; remove "
                "it, or hold atoms by FixAtoms, FixedLine or FixedPlane."
            )


def _takes_one_thing(constraint: FixConstraint, atoms: Atoms) -> bool:
    """Whether a constraint leaves of a step what it leaves of the momenta that make it."""
    masses = atoms.get_masses()[:, None]
    momenta = np.random.default_rng(0).standard_normal((len(atoms), 3)) * masses
    places = atoms.positions + _STEP * momenta / masses
    constraint.adjust_positions(atoms, places)
    getattr(constraint, "adjust_momenta", _nothing)(atoms, momenta)
    off = places - atoms.positions - _STEP * momenta / masses
    return not (np.abs(off) > _OTHERWISE * _STEP).any()


def require_atoms_of_constraints(atoms: Atoms) -> None:
    """Refuse constraints of atoms that are not there.

    Raises
    ------
    ConfigError : there is one.
    """
    for constraint in atoms.constraints:
        try:
            constraint.adjust_forces(atoms, np.zeros((len(atoms), 3)))
        except IndexError as error:
            raise ConfigError(
                f"the constraint {type(constraint).__name__} holds an atom that is not there "
                f"({error}); set it again."
            ) from error


def _nothing(atoms: Atoms, momenta: NDArray[np.float64]) -> None:
    """Stand for what a constraint without momenta does to them."""


def require_cell(atoms: Atoms, what: str) -> None:
    """Refuse what changes the cell of a structure that has none, or no stress.

    Raises
    ------
    ConfigError : fewer than three periodic directions, or a calculator without stress.
    """
    if not atoms.pbc.all():
        raise ConfigError(
            f"{what} changes the cell and needs a structure that is periodic in three "
            f"directions; this one has pbc {atoms.pbc.tolist()}."
        )
    if "stress" not in atoms.calc.implemented_properties:
        raise ConfigError(
            f"{what} needs the stress, which the calculator "
            f"'{getattr(atoms.calc, 'name', type(atoms.calc).__name__)}' does not provide."
        )


def hold_center_of_mass(atoms: Atoms, settings: MDSettings) -> None:
    """Add ASE's FixCom where Langevin's noise would push the whole system away.

    A single atom, or what constraints hold from outside, stays as it is.
    """
    if settings.ensemble != "nvt-langevin" or len(atoms) == 1 or is_held(atoms):
        return
    if not any(isinstance(each, FixCom) for each in atoms.constraints):
        atoms.set_constraint([*atoms.constraints, FixCom()])


def build_integrator(
    atoms: Atoms, settings: MDSettings, n_dof: int, rng: np.random.Generator
) -> MolecularDynamics:
    """Return the integrator of ``settings.ensemble`` over ``atoms``.

    Parameters
    ----------
    n_dof : number of degrees of freedom that share the heat
    rng : source of Langevin's noise; no global state is used
    """
    timestep = settings.timestep_fs * units.fs
    temperature = settings.temperature_K
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    if settings.ensemble == "nvt-langevin":
        friction = settings.friction_per_fs / units.fs
        # fixcm=True samples a slightly wrong distribution and is deprecated by
        # ASE; the FixCom constraint takes its place.
        return Langevin(
            atoms, timestep, temperature_K=temperature, friction=friction, fixcm=False, rng=rng
        )
    damping = settings.thermostat_time_fs * units.fs
    dynamics: Any
    if settings.ensemble in BAROSTATS:
        dynamics = build_barostat(atoms, settings, n_dof)
    else:
        dynamics = NoseHooverChainNVT(atoms, timestep, temperature_K=temperature, tdamp=damping)
    # ASE's chain drives the kinetic energy to 3 n_atoms k_B T / 2, also when the
    # total momentum is zero and stays so: a molecule of nine atoms would run 28 %
    # too hot. The chain only ever uses three times the number of atoms.
    dynamics._thermostat = NoseHooverChainThermostat(
        num_atoms_global=n_dof / 3,  # type: ignore[arg-type]  # only ever a factor
        masses=dynamics.masses,
        temperature_K=temperature,
        tdamp=damping,
    )
    built: MolecularDynamics = dynamics
    return built


def conserved_energy(dynamics: MolecularDynamics) -> Callable[[], float] | None:
    """Return what computes the quantity (eV) that an integrator conserves.

    None where it conserves nothing (Langevin), and where the calculator lacks the free energy
    that ASE's integrators ask for.
    """
    if isinstance(dynamics, VelocityVerlet):
        return lambda: float(dynamics.atoms.get_total_energy())
    found = getattr(dynamics, "get_conserved_energy", None)
    return found if "free_energy" in dynamics.atoms.calc.implemented_properties else None


def integrator_state(dynamics: MolecularDynamics) -> dict[str, NDArray[np.float64]]:
    """Return what an integrator carries besides atoms and random numbers: thermostat, barostat."""
    return {name: np.array(getattr(owner, key)) for name, owner, key in _carried(dynamics)}


def restore_integrator(dynamics: MolecularDynamics, state: dict[str, NDArray[np.float64]]) -> None:
    """Give an integrator what another one of its kind carried.

    Raises
    ------
    ConfigError : it carries something else, as that of another version of ASE may.
    """
    carried = _carried(dynamics)
    names = [name for name, _, _ in carried]
    if sorted(names) != sorted(state):
        raise ConfigError(
            f"the integrator carries {listing(sorted(names)) or 'nothing'}, and the state that was "
            f"kept has {listing(sorted(state)) or 'nothing'}; go on with the version of ASE that "
            "wrote it."
        )
    for name, owner, key in carried:
        value = state[name]
        setattr(owner, key, value.copy() if value.ndim > 0 else float(value))


def _carried(dynamics: MolecularDynamics) -> list[tuple[str, object, str]]:
    found: list[tuple[str, object, str]] = []
    for part, keys in _CARRIED.items():
        owner = getattr(dynamics, part, None) if part else dynamics
        if owner is not None:
            # What is computed of others, as a masked barostat's _p_g, is not carried.
            found += [(f"{part}.{key}", owner, key) for key in keys if key in vars(owner)]
    return found
