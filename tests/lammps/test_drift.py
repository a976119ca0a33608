"""In float32, two ranks that exchange features hold the energy as well as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from lammps_runs import Run, run_input

pytestmark = [pytest.mark.hosts, pytest.mark.exhaustive]

N_STEPS, N_BLOCKS = 20_000, 18
COMMANDS = f"""
velocity all create 600 4928459 rot yes
timestep 0.0005
fix 1 all nve
thermo_style custom step etotal temp
thermo_modify format float %.17g
undump frames
run {N_STEPS}
"""


def test_two_ranks_drift_no_more_than_one(tmp_path: Path) -> None:
    """The border between the ranks goes through the molecule."""
    atoms = molecule("CH3CH2OH")
    atoms.center(vacuum=8.0)
    atoms.set_pbc(True)
    runs = {
        ranks: run_input(
            tmp_path / str(ranks),
            atoms,
            "painn-ethanol",
            "H C O",
            COMMANDS,
            ranks=ranks,
            options=f"engine inductor ranks {'exchange' if ranks > 1 else 'auto'}",
            before=f"processors {ranks} 1 1",
        )
        for ranks in (1, 2)
    }
    assert [run.status for run in runs.values()] == [0, 0], runs[2].text
    assert "ranks exchange features between layers" in runs[2].text
    one, two = (energy_line(run) for run in runs.values())
    assert abs(two[0] - one[0]) < 4.0 * np.hypot(one[1], two[1])  # other processors, other runs
    assert max(one[2], two[2]) < 0.2  # meV/atom, of motion at 300 K
    assert abs(two[0]) < 0.02  # meV/atom/ps


def energy_line(run: Run) -> tuple[float, float, float]:
    """Return the slope of the total energy, its standard error, and the scatter around it.

    In meV and ps, per atom. The error is that of means over blocks: neighbouring rows are alike.
    """
    step, energy, _ = np.array(run.thermo).T
    time, energy = 0.0005 * step, 1e3 * (energy - energy[0]) / 9
    kept = step > 0.1 * N_STEPS
    means = [
        (times.mean(), energies.mean())
        for times, energies in zip(
            np.array_split(time[kept], N_BLOCKS),
            np.array_split(energy[kept], N_BLOCKS),
            strict=True,
        )
    ]
    (slope, _), covariance = np.polyfit(*np.array(means).T, 1, cov=True)
    scatter = np.std(energy[kept] - np.polyval(np.polyfit(time[kept], energy[kept], 1), time[kept]))
    return float(slope), float(np.sqrt(covariance[0, 0])), float(scatter)
