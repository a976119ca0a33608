"""How long a step of dynamics takes with a model, and where the time goes.

A step of ASE's VelocityVerlet is split into

    neighbours  the list of edges, kept or built anew
    transfer    positions to the device, results back; zero on a CPU
    model       one call of the engine: energies and edge gradients
    host        what is left of the calculator: forces, stress, checks, results
    ase         the integrator and ASE's own handling of atoms and results

How much of ``model`` the gradient takes is known where the network can also run alone.

Each block of steps starts from the same positions and velocities. A number is the median
over the blocks, with the smallest and the largest.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray
from torch import Tensor

from eqcalc import __version__
from eqcalc.calculator import EqCalculator
from eqcalc.cores import usable_cores
from eqcalc.elements import require_elements
from eqcalc.engines import Engine, engines_on, load_model
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelCard, Source
from eqcalc.neighbours import SkinList
from eqcalc.neighbours.transfers import Transfers

__all__ = [
    "BenchCalculator",
    "Measurement",
    "Timing",
    "check_elements",
    "growth_exponent",
    "machine",
    "measure",
    "ready_engines",
]

N_BLOCKS = 7
_WARM_UP = 5  # steps; on a GPU TorchScript compiles during its first calls
_MOST_STEPS = 500  # of a block
_SHARE_ALONE = 5  # so many times fewer calls of the network alone, to tell its gradient
_TIMESTEP_FS, _TEMPERATURE_K = 0.05, 10.0  # slow: an untrained model shall not blow it up
_WATCHED = ("neighbours", "upload", "model", "download", "all")
_BUSY = 0.95  # share of a core below which something else was running


class Timing(NamedTuple):
    """ms per step: median, smallest and largest over the blocks."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Timing:
        """Return the timing of the blocks' values."""
        return cls(float(np.median(values)), float(min(values)), float(max(values)))


@dataclass(frozen=True)
class Measurement:
    """What one engine takes for one structure.

    step, neighbours, transfer, model, host, ase : ms per step, see the module
    gradient : ms of ``model`` beyond the energies; None where one graph makes both
    fresh_list : ms for a neighbour list built anew
    n_builds : lists that were built during all blocks
    cpu_share : processor time over wall time; below 1 with one thread, something else ran
    """

    structure: str
    n_atoms: int
    n_edges: int
    engine: str
    step: Timing
    neighbours: Timing
    transfer: Timing
    model: Timing
    gradient: Optional[Timing]
    host: Timing
    ase: Timing
    fresh_list: Timing
    n_blocks: int
    n_steps: int
    n_builds: int
    cpu_share: float

    @property
    def us_per_atom(self) -> Timing:
        """The step in µs per atom."""
        return Timing(*(1e3 * value / self.n_atoms for value in self.step))

    @property
    def was_disturbed(self) -> bool:
        """Whether one thread did not have a core to itself."""
        return torch.get_num_threads() == 1 and self.cpu_share < _BUSY


class _Stopwatch:
    """Adds up the seconds spent inside ``with`` blocks, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._wait()  # else what was started before would count as this
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._wait()
        self.seconds += time.perf_counter() - self._start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _TimedEngine:
    """An engine under a stopwatch; everything but its calls is the engine's own."""

    def __init__(self, engine: Engine, watch: _Stopwatch) -> None:
        self.engine, self.watch = engine, watch

    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        with self.watch:
            return self.engine(graph)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


class _TimedList(SkinList):
    """A neighbour list under a stopwatch."""

    watch: _Stopwatch

    def graph(self, atoms: Atoms) -> AtomicGraph:
        with self.watch:
            return super().graph(atoms)


class _TimedTransfers(Transfers):
    """Transfers under stopwatches."""

    def __init__(self, device: torch.device, up: _Stopwatch, down: _Stopwatch) -> None:
        super().__init__(device)
        self._up, self._down = up, down

    def upload(self, positions: NDArray, lattice: NDArray) -> tuple[Tensor, Tensor]:
        with self._up:
            return super().upload(positions, lattice)

    def sent(self, tensor: Tensor) -> Tensor:
        with self._up:
            return super().sent(tensor)

    def download(self, energies: Tensor, forces: Tensor) -> tuple[NDArray, NDArray]:
        with self._down:
            return super().download(energies, forces)


class BenchCalculator(EqCalculator):
    """An EqCalculator whose parts run under stopwatches.

    Raises
    ------
    EngineError : the engine that was asked for cannot run the model here.
    """

    def __init__(self, model: Source, *, engine: str, **options: Any) -> None:
        super().__init__(model, engine=engine, **options)
        device = self.models[0].device
        self.watches = {part: _Stopwatch(device) for part in _WATCHED}
        timed: Any = _TimedEngine(self.models[0].engine, self.watches["model"])
        self.models = [replace(self.models[0], engine=timed)]
        old = self.neighbours
        self.neighbours = _TimedList(
            old.cutoff, self._arguments["skin"], dtype=old.dtype, device=old.device
        )
        self.neighbours.watch = self.watches["neighbours"]
        self.neighbours.transfers = _TimedTransfers(
            device, self.watches["upload"], self.watches["download"]
        )

    def calculate(self, *arguments: Any, **options: Any) -> None:
        """Compute as EqCalculator does, under the stopwatch of the whole."""
        with self.watches["all"]:
            super().calculate(*arguments, **options)

    def energies_alone(self, graph: AtomicGraph, n_calls: int) -> Optional[float]:
        """Return the seconds of a call without its gradient; None where that cannot be."""
        engine = self.models[0].engine
        if engine.energies(graph) is None:
            return None
        watch = _Stopwatch(engine.device)
        with self.models[0].using_threads(graph.atomic_numbers.shape[0]), watch:
            for _ in range(n_calls):
                engine.energies(graph)
        return watch.seconds / n_calls


def measure(
    calculator: BenchCalculator,
    atoms: Atoms,
    name: str,
    *,
    seconds: float = 3.0,
    progress: Optional[Callable[[], None]] = None,
) -> Measurement:
    """Time steps of VelocityVerlet.

    Parameters
    ----------
    name : of the structure, for the report
    seconds : about how long the timed steps take together; each block has two at least
    progress : called after each block
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=_TEMPERATURE_K, rng=np.random.default_rng(0))
    positions, momenta = atoms.get_positions(), atoms.get_momenta()
    _, graph = calculator.ordered_graph(atoms)
    _run(atoms, _WARM_UP)
    calculator.energies_alone(graph, _WARM_UP)
    per_step = _run(atoms, 2) / 2
    n_steps = int(np.clip(round(seconds / N_BLOCKS / per_step), 2, _MOST_STEPS))
    rows, alone = [], []
    n_builds, cpu, wall = 0, 0.0, 0.0
    for _ in range(N_BLOCKS):
        atoms.set_positions(positions)
        atoms.set_momenta(momenta)
        atoms.get_forces()  # the block's first step finds them, as every other step does
        for watch in calculator.watches.values():
            watch.seconds = 0.0
        builds_before, cpu_before = calculator.neighbours.n_builds, time.process_time()
        total = _run(atoms, n_steps)
        cpu += time.process_time() - cpu_before
        wall += total
        n_builds += calculator.neighbours.n_builds - builds_before
        neighbours, up, model, down, inside = (
            watch.seconds for watch in calculator.watches.values()
        )
        host = inside - neighbours - model - down  # the list holds the upload
        rows.append((total, neighbours - up, up + down, model, host, total - inside))
        alone.append(calculator.energies_alone(graph, max(2, n_steps // _SHARE_ALONE)))
        if progress is not None:
            progress()
    table = 1e3 * np.array(rows).T / n_steps
    step, in_list, in_transfer, in_model, in_host, in_ase = map(Timing.of, table)
    energies = [1e3 * seconds for seconds in alone if seconds is not None]
    # Of medians, not by block: the two were not timed at once.
    gradient = Timing.of(np.median(table[3]) - energies) if energies else None
    return Measurement(
        name,
        len(atoms),
        graph.edge_index.shape[1],
        calculator.models[0].engine.name,
        step,
        in_list,
        in_transfer,
        in_model,
        gradient,
        in_host,
        in_ase,
        _fresh_list(calculator, atoms),
        N_BLOCKS,
        n_steps,
        n_builds,
        cpu / wall,
    )


def _run(atoms: Atoms, n_steps: int) -> float:
    """Return the seconds of so many steps."""
    dynamics = VelocityVerlet(atoms, timestep=_TIMESTEP_FS * units.fs)
    start = time.perf_counter()
    dynamics.run(n_steps)
    return time.perf_counter() - start


def _fresh_list(calculator: EqCalculator, atoms: Atoms) -> Timing:
    old = calculator.neighbours
    values = []
    for _ in range(N_BLOCKS):
        fresh = SkinList(old.cutoff, old.skin, dtype=old.dtype, device=old.device)
        start = time.perf_counter()
        fresh.graph(atoms)
        values.append(1e3 * (time.perf_counter() - start))
    return Timing.of(values)


def ready_engines(
    source: Source, *, device: str = "auto", dtype: Optional[str] = None, trust: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Return the engines that run a model here without compiling, and why others do not."""
    model = load_model(source, device=device, dtype=dtype, trust=trust)
    not_used = dict(model.not_used)
    return [name for name in engines_on(model.device) if name not in not_used], not_used


def check_elements(card: ModelCard, structures: dict[str, Atoms]) -> None:
    """Refuse structures that a model does not know, before anything is measured.

    Raises
    ------
    UnsupportedElementError : the message names the structure.
    """
    for name, atoms in structures.items():
        require_elements(atoms.numbers, card.elements, f"model '{card.name}'", where=f"in '{name}'")


def growth_exponent(measurements: Sequence[Measurement]) -> float:
    """Return p of the least-squares fit: time of a step ~ (number of atoms)**p."""
    sizes = np.log([measurement.n_atoms for measurement in measurements])
    times = np.log([measurement.step.median for measurement in measurements])
    return float(np.polyfit(sizes, times, 1)[0])


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the times depend on besides the model.

    ``load`` is the load average of the last minute, None where the system has none;
    ``is_busy`` says that it exceeds the number of cores.
    """
    load = None
    with contextlib.suppress(AttributeError, OSError):  # no Unix
        load = round(os.getloadavg()[0], 2)
    cores = usable_cores()
    capability = torch.backends.cpu.get_cpu_capability()
    cuda = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "cpu": f"{_processor()} ({capability})",
        "cores": cores,
        **cuda,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "eqcalc": __version__,
        "python": platform.python_version(),
        "load": load,
        "is_busy": load is not None and load > cores,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):  # no Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
