"""Read the files whose paths come in, and say of each what came of it, a line of JSON each.

    python reader.py KIND < paths

In a process of its own, because a damaged file may end it, with a bound on its memory. An
outcome is "refused" with an error of eqcalc's, "read" with the values, or "raw" with whatever
else was raised.
"""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from eqcalc import EqCalculator
from eqcalc.data import read_dataset
from eqcalc.errors import EqcalcError

MORE_BYTES = 1 << 30  # that a file may take beyond what the process has when it begins
MORE_SECONDS = 10  # of the processor, after which reading counts as endless; they are told besides
LONGEST_WAIT = 600  # s by the clock, for what waits and takes none


def values_of_dataset(path: Path) -> list[Any]:
    """Return [numbers, positions, cell, pbc, energy, forces] of each frame."""
    dataset = read_dataset(path, trust_data=True)
    alone = sorted(dataset.isolated_atoms.items())
    frames = [
        [*structure(frame.atoms), frame.energy, listed(frame.forces)] for frame in dataset.frames
    ]
    return [frames, alone]


def values_of_structures(path: Path) -> list[Any]:
    """Return [numbers, positions, cell, pbc] of each structure."""
    from eqcalc.simulate.structures import read_structures

    found = read_structures(path)
    for atoms in found:
        numbers = [atoms.positions, atoms.cell.array, atoms.get_masses(), atoms.get_momenta()]
        if not all(np.isfinite(values).all() for values in numbers):
            raise ValueError("values that are no numbers were taken")
    return [structure(atoms) for atoms in found]


def values_of_training_file(path: Path) -> dict[str, Any]:
    """Return what a training file says, and the defaults of what it does not say."""
    from eqcalc.training.config import read_config

    config = asdict(read_config(path, Path("/")))
    return {key: value for key, value in config.items() if key not in ("folder", "source", "text")}


def values_of_checkpoint(path: Path) -> str:
    """Return the state in a checkpoint of a run."""
    from eqcalc.simulate.checkpoint import CHECKPOINT, read_checkpoint

    path.rename(path.parent / CHECKPOINT)
    found = read_checkpoint(path.parent)
    arrays = {name: values.tolist() for name, values in found.arrays.items()}
    return repr([found.step, structure(found.atoms), arrays, found.facts])


def values_of_propagator(path: Path) -> list[Any]:
    """Return positions and momenta after two steps of a particle, a stick and a hinge."""
    from eqcalc.dynamics import Propagator

    rng = np.random.default_rng(1)
    atoms = Atoms("X6", rng.normal(size=(6, 3)), charges=[1, -1, 1, 1, -1, -1])
    atoms.set_momenta(0.3 * rng.normal(size=(6, 3)))
    objects = {"isolated": [0], "stick": [[1], [2]], "hinge": [[3], [4], [5]]}
    Propagator(path, device="cpu").run(atoms, 2, objects)
    return [atoms.positions.tolist(), atoms.get_momenta().tolist()]


def values_of_foreign_model(path: Path) -> list[Any]:
    """Return the weights that another package's file comes to."""
    from eqcalc.importers.conversion import find_importer
    from eqcalc.importers.foreign_file import read_foreign
    from eqcalc.importers.imported import Choices

    file = read_foreign(path)
    imported = find_importer(file).read(file, Choices("eV", "Angstrom", None, None))
    return sorted(
        (name, digest(values)) for name, values in imported.potential.state_dict().items()
    )


def digest(values: torch.Tensor) -> str:
    """Return a digest of a tensor's numbers."""
    array = values.detach().cpu().contiguous().numpy()
    return hashlib.sha256(repr((array.dtype, array.shape)).encode() + array.tobytes()).hexdigest()


def values_of_model(path: Path) -> list[Any]:
    """Return energy and forces of ethanol."""
    from ase.build import molecule

    atoms = molecule("CH3CH2OH")
    calculator = EqCalculator(path, device="cpu", engine="torchscript")
    return [float(calculator.get_potential_energy(atoms)), listed(calculator.get_forces(atoms))]


def structure(atoms: Atoms) -> list[Any]:
    """Return what a structure is."""
    return [
        atoms.numbers.tolist(),
        atoms.positions.tolist(),
        atoms.cell.tolist(),
        atoms.pbc.tolist(),
    ]


def listed(values: Any) -> Any:
    """Return an array as lists."""
    return None if values is None else np.asarray(values).tolist()


KINDS: dict[str, Callable[[Path], Any]] = {
    "dataset": values_of_dataset,
    "structures": values_of_structures,
    "training file": values_of_training_file,
    "checkpoint": values_of_checkpoint,
    "propagator": values_of_propagator,
    "foreign model": values_of_foreign_model,
    "model": values_of_model,
}


def ended(*_: Any) -> None:
    """End a reading that takes for ever."""
    raise TimeoutError


def outcome(read: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    """Return what came of a file."""
    # Not by the clock: a machine that others use too is slow, and reading is not endless there.
    signal.setitimer(signal.ITIMER_PROF, MORE_SECONDS)
    signal.alarm(LONGEST_WAIT)
    begun = time.process_time()
    try:
        found = {"outcome": "read", "values": read(path)}
    except EqcalcError as error:
        found = {"outcome": "refused", "said": f"{type(error).__name__}: {error}"}
    except BaseException as error:  # it is what this looks for
        found = {"outcome": "raw", "said": f"{type(error).__name__}: {error}"}
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - begun
    if seconds > MORE_SECONDS:  # whoever caught what the signal raised
        found = {"outcome": "raw", "said": f"no end after {MORE_SECONDS} s"}
    return {**found, "seconds": seconds}


def main() -> None:
    """Read what comes in."""
    warnings.simplefilter("ignore")
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, ended)
    read = KINDS[sys.argv[1]]
    first = sys.stdin.readline().strip()
    print(
        json.dumps(outcome(read, Path(first)), default=str), flush=True
    )  # whole: all is imported by then
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        print(json.dumps(outcome(read, Path(line.strip())), default=str), flush=True)


if __name__ == "__main__":
    main()
