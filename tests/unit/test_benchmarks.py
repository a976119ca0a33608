"""What the calculator costs beside its model: pytest --benchmark-only tests/unit/test_benchmarks.py

Compare ``bare_model`` with ``calculator``: the difference shall stay below 0.3 ms for nine
atoms; ``neighbour_list`` shall stay below a tenth of ``verlet_step``; ``import`` in a fresh
process shall stay below 3 s, most of which is torch.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from small_models import REFERENCE_ENERGIES, ethanol

from eqcalc import EqCalculator
from eqcalc.architectures import build
from eqcalc.export import export_model
from eqcalc.potential import Potential


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> EqCalculator:
    """Return PaiNN with 128 channels and 3 blocks in float32, as the shipped models have."""
    path: Path = tmp_path_factory.mktemp("benchmark") / "painn.pt"
    export_model(Potential(build("painn"), REFERENCE_ENERGIES), path, elements="CHO")
    calculator = EqCalculator(path, device="cpu")
    for atoms in frames():  # TorchScript compiles during its first calls
        calculator.get_forces(atoms)
    return calculator


def frames() -> list:
    """Return ethanol at positions that move as little as between two steps of MD."""
    generator, images = np.random.default_rng(0), []
    for _ in range(64):
        atoms = ethanol()
        atoms.positions += 1e-3 * generator.standard_normal(atoms.positions.shape)
        images.append(atoms)
    return images


def test_benchmark_bare_model(benchmark, calculator):
    graphs = cycle([calculator.neighbours.graph(atoms) for atoms in frames()])
    model = calculator.models[0]

    def run():
        graph = next(graphs)
        model(graph)

    benchmark(run)


def test_benchmark_calculator(benchmark, calculator):
    images = cycle(frames())
    benchmark(lambda: calculator.get_forces(next(images)))


def test_benchmark_neighbour_list(benchmark, calculator):
    images = cycle(frames())
    benchmark(lambda: calculator.neighbours.graph(next(images)))


def test_benchmark_neighbour_list_without_skin(benchmark, calculator):
    from eqcalc.neighbours import SkinList

    images, fresh = cycle(frames()), SkinList(calculator.card.cutoff, 0.0)
    benchmark(lambda: fresh.graph(next(images)))


def test_benchmark_verlet_step(benchmark, calculator):
    atoms = ethanol()
    atoms.calc = calculator
    dynamics = VelocityVerlet(atoms, timestep=0.05 * fs)
    benchmark(dynamics.step)


@pytest.mark.parametrize("statement", ["import eqcalc", "from eqcalc import EqCalculator"])
def test_benchmark_import(benchmark, statement):
    command = [sys.executable, "-c", statement]
    benchmark.pedantic(subprocess.run, (command,), {"check": True}, rounds=3, warmup_rounds=1)
