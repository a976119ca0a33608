"""A simulation in LAMMPS's commands, run by ASE's classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics

from eqcalc.errors import ConfigError, GraphError, NonFiniteError
from eqcalc.simulate.integrators import build_integrator, check_fit
from eqcalc.simulate.interrupts import StopOnSignal, StopRequested
from eqcalc.simulate.lammps_style.absent_commands import refuse_command
from eqcalc.simulate.lammps_style.fixes import Fix, langevin_fix, nose_hoover_fix, settings_of
from eqcalc.simulate.lammps_style.minimization import Criteria, Minimization, MinimizationResult
from eqcalc.simulate.lammps_style.output import Clock, Output
from eqcalc.simulate.lammps_style.output_commands import OutputCommands
from eqcalc.simulate.lammps_style.system_commands import SystemCommands
from eqcalc.simulate.lammps_style.thermo_columns import n_dof_of
from eqcalc.simulate.lammps_style.unit_system import unit_system
from eqcalc.simulate.settings import LONGEST_TIMESTEP_FS

__all__ = ["LammpsScript"]


class LammpsScript(SystemCommands, OutputCommands):
    """A simulation in LAMMPS's commands: one method each, with the command's arguments in order.

    Every quantity that goes in or is printed has the script's unit; :attr:`atoms` is ASE's own
    structure in ASE's units, as are the frames of a dump. Commands act on all atoms. As in LAMMPS,
    temperatures count 3 n_atoms - 3 degrees of freedom, whatever moves.

    Parameters
    ----------
    units : "metal" (Å, ps, eV, K, bar) or "real" (Å, fs, kcal/mol, K, atm); g/mol and e in both
    screen : print thermo output

    Raises
    ------
    ConfigError : other units.

    >>> script = LammpsScript(units="metal")
    >>> script.fix_shake(0.0001, 20, 0)
    Traceback (most recent call last):
    ...
    eqcalc.errors.UnknownCommandError: 'fix_shake' is no command of a script: ASE's integrators here hold no bonds; take a timestep that resolves them.
    """  # noqa: E501  (a message is one line)

    def __init__(self, units: str = "metal", *, screen: bool = True):
        SystemCommands.__init__(self, unit_system(units))
        OutputCommands.__init__(self, Output(screen, self._system))
        self._fixes: dict[str, Fix] = {}
        self._noise = np.random.default_rng(0)  # of fix langevin, and lives as long as that
        self._min_style = "cg"  # LAMMPS's default, which is not there
        self._clock = Clock(self._system.default_timestep)
        self._left: tuple[Any, ...] = ()  # the atoms as the last run left them

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise refuse_command(name, [each for each in dir(type(self)) if not each.startswith("_")])

    @property
    def step(self) -> int:
        """Number of the present step; those of run and minimize count on."""
        return self._clock.step

    def timestep(self, dt: float) -> None:
        """``timestep DT``, in ps ("metal", 0.001 by default) or fs ("real", 1.0).

        Raises
        ------
        ConfigError : not above 0, or longer than 10 fs.
        """
        if not 0 < dt * self._system.time_fs <= LONGEST_TIMESTEP_FS:
            longest = LONGEST_TIMESTEP_FS / self._system.time_fs
            raise ConfigError(
                f"a timestep of {dt!r} {self._system.time_name} is refused: units "
                f"{self._system.name} count in {self._system.time_name}, and nothing above "
                f"{longest:g} {self._system.time_name} is stable."
            )
        self._clock.set_timestep(float(dt))
        self._dynamics = None

    def fix_nve(self) -> None:
        """``fix ID all nve``: ASE's VelocityVerlet, which is LAMMPS's algorithm."""
        self._add(Fix("nve"))

    def fix_langevin(self, t_start: float, t_stop: float, damp: float, seed: int) -> None:
        """``fix ID all langevin TSTART TSTOP DAMP SEED``, beside fix_nve: ASE's Langevin.

        The equation of motion is LAMMPS's, friction = 1/damp. Its integration is another
        (Vanden-Eijnden and Ciccotti, where LAMMPS adds friction and uniform noise to the forces of
        velocity Verlet), and so are the random numbers: the ensemble is the same, the trajectory is
        not. As in LAMMPS without ``zero yes``, the centre of mass is free to move. A temperature
        that changes does so linearly over each run.

        Parameters
        ----------
        t_start, t_stop : K
        damp : ps or fs
        seed : 1 or more

        Raises
        ------
        ConfigError : a value is out of range, or there is one already.
        """
        self._add(langevin_fix(t_start, t_stop, damp, seed, self._system))

    def fix_nvt(self, temp: Sequence[float]) -> None:
        """``fix ID all nvt temp TSTART TSTOP TDAMP``: ASE's NoseHooverChainNVT.

        The extended system is LAMMPS's: three thermostats whose masses follow from Tdamp and
        3 n_atoms - 3 degrees of freedom. The chain is integrated to fourth order where LAMMPS
        takes one step of second order, so trajectories agree up to the error of the timestep.

        Parameters
        ----------
        temp : (T_start, T_stop, T_damp), K, K and ps or fs; T_start = T_stop

        Raises
        ------
        ConfigError : a value is out of range, a temperature that changes, or there is one already.
        """
        self._add(nose_hoover_fix("nvt", temp, None, self._system))

    def fix_npt(self, temp: Sequence[float], iso: Sequence[float]) -> None:
        """``fix ID all npt temp ... iso PSTART PSTOP PDAMP``: ASE's IsotropicMTKNPT.

        Thermostat and the mass of the barostat, 3 (n_atoms + 1) k_B T Pdamp², are LAMMPS's (``mtk
        yes``). The chain on the barostat has a first mass nine times LAMMPS's: the ensemble is the
        same, the box breathes in another way. The box grows from its corner, not from its centre.
        ``aniso``, ``tri`` and single directions are not there.

        Parameters
        ----------
        temp : (T_start, T_stop, T_damp), as for fix_nvt
        iso : (P_start, P_stop, P_damp), bar, bar and ps, or atm, atm and fs; P_start = P_stop;
            positive compresses

        Raises
        ------
        ConfigError : a value is out of range, a target that changes, or there is one already.
        """
        self._add(nose_hoover_fix("npt", temp, iso, self._system))

    def unfix(self, style: str) -> None:
        """``unfix ID``; here a fix is named by its style.

        Raises
        ------
        ConfigError : there is none of that style.
        """
        if style not in self._fixes:
            raise ConfigError(
                f"there is no fix '{style}' to take away; there are: "
                f"{', '.join(self._fixes) or 'none'}."
            )
        del self._fixes[style]
        self._dynamics = None

    def run(self, n_steps: int) -> list[dict[str, float]]:
        """``run N``: N steps of dynamics; 0 prints the present state.

        A second run goes on where the first ended, with the state of its thermostat, unless a
        command in between, or a change of :attr:`atoms`, made another start.

        Returns
        -------
        the rows of the thermo output, keyword -> value in the script's units

        Raises
        ------
        ConfigError : something is missing (read_data, pair_coeff, a fix) or does not fit.
        NonFiniteError : the structure flew apart, an atom left the box, or the model returned NaN.
        OutputError : a file takes no more, or was removed.
        StopRequested : Ctrl-C, SIGTERM or SIGHUP, at the end of a step; files are complete.
        """
        if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 0:
            raise ConfigError(f"run N: N is a whole number >= 0, not {n_steps!r}.")
        atoms, dynamics, clock = self.atoms, self._integrator(), self._clock
        before = clock.step - dynamics.nsteps
        record = self._output.begin(atoms, self._require_data().origin, clock)
        with StopOnSignal() as stop, self._telling_where():
            for _ in dynamics.irun(n_steps):
                clock.step = before + dynamics.nsteps
                if not np.isfinite(atoms.get_momenta()).all():
                    raise NonFiniteError("the velocities are NaN or infinite")
                self._set_temperature(dynamics, record.n_done + 1, n_steps)
                record.step(stop, is_last=record.n_done == n_steps)
                if stop.signal_number is not None:
                    break
        self._left = self._state()
        record.finish()
        if stop.signal_number is not None and record.n_done < n_steps:
            raise StopRequested(
                f"stopped after {record.n_done} of {n_steps} steps; dumps and log are complete",
                stop.signal_number,
            )
        return record.rows

    def min_style(self, style: str) -> None:
        """``min_style fire``: ASE's FIRE.

        LAMMPS's default, cg, and its other styles are not ASE's, and none takes their place unsaid.

        Raises
        ------
        ConfigError : another style.
        """
        if style != "fire":
            raise ConfigError(
                f"min_style '{style}' is not supported; known: fire (ASE's FIRE). For ASE's BFGS "
                "take eqcalc.simulate.run_relax."
            )
        self._min_style = style

    def minimize(self, etol: float, ftol: float, maxiter: int, maxeval: int) -> MinimizationResult:
        """``minimize ETOL FTOL MAXITER MAXEVAL`` at fixed box, after min_style('fire').

        The criteria are LAMMPS's: ``ftol`` is compared with the 2-norm of the forces on all atoms
        together (ASE's fmax is the largest force on one atom, which is smaller), ``etol`` with the
        relative change of energy in a step, once 20 steps in a row went downhill. The steps are
        those of ASE's FIRE, which takes masses of 1 and its own timestep: minima are the same where
        both end in the same basin, the paths are not. Velocities are zero from then on.

        Parameters
        ----------
        etol : relative; 0 never stops
        ftol : eV/Å or kcal/mol/Å; 0 never stops
        maxiter, maxeval : most steps, and most calls of the calculator

        Returns
        -------
        why it ended, and energies and forces in eV and Å; not to meet a tolerance is no error

        Raises
        ------
        ConfigError : no min_style('fire'), or as in :meth:`run`.
        NonFiniteError, OutputError, StopRequested : as in :meth:`run`.
        """
        if self._min_style != "fire":
            raise ConfigError(
                "minimize without min_style means LAMMPS's cg, which ASE does not have; call "
                "min_style('fire') first, as in LAMMPS."
            )
        criteria = Criteria(etol, ftol * self._system.energy, maxiter, maxeval)
        atoms, clock = self.atoms, self._clock
        atoms.set_momenta(np.zeros((len(atoms), 3)))
        self._dynamics = None
        minimization = Minimization(atoms, criteria, self._system.energy)
        first = clock.step
        record = self._output.begin(atoms, self._require_data().origin, clock)
        with StopOnSignal() as stop, self._telling_where():
            for number, is_last in enumerate(minimization.steps()):
                clock.step = first + number
                record.step(stop, is_last=is_last)
                if stop.signal_number is not None:
                    break
        record.finish()
        result = minimization.result()
        if not result.stopped_by:
            raise StopRequested(
                f"stopped after {record.n_done} steps of minimize; dumps and log are complete",
                stop.signal_number or 0,
            )
        for line in result.lines(self._system.energy):
            self._output.log.write(line)
        return result

    def _add(self, fix: Fix) -> None:
        if fix.style in self._fixes:
            raise ConfigError(
                f"there is a fix {fix.style} already; take it away with unfix('{fix.style}')."
            )
        self._fixes[fix.style] = fix
        if fix.style == "langevin":
            self._noise = np.random.default_rng(fix.seed)
        self._dynamics = None

    def _state(self) -> tuple[Any, ...]:
        atoms = self.atoms
        moving = atoms.get_positions(), atoms.get_momenta(), np.array(atoms.cell)
        return *moving, atoms.get_masses(), atoms.numbers.copy(), atoms.pbc.copy()

    def _integrator(self) -> MolecularDynamics:
        """Return the integrator of the last run where it can go on, or a new one."""
        # ASE's chains hold positions and momenta of their own, which would undo a user's change.
        is_untouched = all(map(np.array_equal, self._state(), self._left))
        settings = settings_of(self._fixes, self._clock.timestep * self._system.time_fs)
        check_fit(self.atoms, settings)  # constraints may be new
        if self._dynamics is None or not is_untouched:
            # Noise that began anew with each piece of a run would be a periodic force, and cool.
            n_dof = n_dof_of(self.atoms)
            self._dynamics = build_integrator(self.atoms, settings, n_dof, self._noise)
        return self._dynamics

    def _set_temperature(self, dynamics: MolecularDynamics, number: int, n_steps: int) -> None:
        """Set what Langevin's bath has in one step of a run, if it changes."""
        fix = self._fixes.get("langevin")
        if isinstance(dynamics, Langevin) and fix is not None and fix.start_K != fix.stop_K:
            share, change = min(number / max(n_steps, 1), 1.0), fix.stop_K - fix.start_K
            dynamics.set_temperature(temperature_K=fix.start_K + share * change)

    @contextmanager
    def _telling_where(self) -> Iterator[None]:
        """Say at which step a structure or model broke, unless it never ran."""
        first = self._clock.step
        try:
            yield
        except (GraphError, NonFiniteError) as error:
            self._dynamics = None
            if self._clock.step == first:
                raise
            reason = str(error).rstrip(".")
            raise NonFiniteError(
                f"stopped after step {self._clock.step}: {reason}. Start from a structure that was "
                "minimized with this model, or take a shorter timestep; the model may also be far "
                "from what it was trained on."
            ) from error
