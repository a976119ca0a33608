"""What tests with real LAMMPS share: the plugin, built once, and models of every architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from made_once import made_once
from small_models import POTENTIALS, small_options

from eqcalc.architectures import build
from eqcalc.export import export_model
from eqcalc.hosts.lammps.build import build_plugin, find_lammps
from eqcalc.potential import Potential

ENERGIES = {"H": -13.6, "C": -1029.5, "O": -2041.9, "Si": -7800.0}


@pytest.fixture(scope="session", autouse=True)
def plugin(session_folder: Path, no_cache_of_the_user: None) -> Iterator[Path]:
    """Build the plugin, and let every test find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQCALC_CACHE", str(session_folder / "lammps"))
        yield build_plugin(find_lammps())


@pytest.fixture(scope="session")
def model_of(session_folder: Path) -> Callable[..., Path]:
    """Return a function that exports a small model of an architecture, in float64.

    All processes take the same files, for which packages are compiled once.
    """

    def export(name: str = "painn", seed: int = 0, **options: float) -> Path:
        assert name in POTENTIALS

        def write(path: Path) -> None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = build(name, **{**small_options(name), **options}).double()
            export_model(Potential(network, ENERGIES), path, elements=list(ENERGIES))

        file = f"{name}-{seed}{''.join(f'-{value:g}' for value in options.values())}.pt"
        return made_once(session_folder / "lammps-models" / file, write)

    return export
