"""Small untrained models and structures, for tests of everything around a network.

A new architecture needs no entry here: its integer options are cut down by rule, unless its
module says by a ``SMALL = Config(...)`` what is small.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from made_once import made_once

from eqcalc import architectures
from eqcalc.architectures import build
from eqcalc.errors import ConfigError
from eqcalc.export import export_model
from eqcalc.potential import Potential

__all__ = [
    "ETHANOL_FRAMES",
    "POTENTIALS",
    "REFERENCE_ENERGIES",
    "crystal",
    "ethanol",
    "export_small",
    "potential",
    "row_of_ethanol",
    "slab",
    "small_options",
    "water",
    "write_models",
]

ETHANOL_FRAMES = Path(__file__).parent / "data" / "ethanol_rmd17_frames.xyz"
REFERENCE_ENERGIES = {"H": -13.587222780835477, "C": -1029.4889999755, "O": -2041.9816003861047}

POTENTIALS = [name for name in architectures.available() if architectures.is_potential(name)]
"""Names of all architectures that have energies."""

_WIDTH, _DEPTH, _CUTOFF = 16, 2, 4.0
_DEPTH_WORDS = ("block", "layer", "interaction")
_CUTOFF_NAMES = ("cutoff", "cut_off", "r_max")


def small_options(name: str) -> dict[str, Any]:
    """Return an architecture's SMALL, else its options cut to 16 channels, 2 layers and 4 Å.

    Options that the architecture refuses in this combination are left at its defaults.
    """
    options: dict[str, Any] = {}
    config = architectures.config_class(name)
    small = getattr(sys.modules[config.__module__], "SMALL", None)
    if isinstance(small, config):
        return asdict(small)
    for field in fields(config):
        default = getattr(config(), field.name)
        if field.name in _CUTOFF_NAMES:
            options[field.name] = _CUTOFF
        elif isinstance(default, int) and not isinstance(default, bool):
            is_depth = any(word in field.name for word in _DEPTH_WORDS)
            options[field.name] = min(default, _DEPTH if is_depth else _WIDTH)
    try:
        config(**options)
    except ConfigError:
        return {}
    return options


def potential(
    dtype: torch.dtype = torch.float64, *, cutoff: float = 4.0, seed: int = 0, scale: float = 1.5
) -> Potential:
    """Return a small PaiNN of random weights for H, C and O."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build("painn", embedding_dim=16, num_blocks=2, num_radial_basis=8, cut_off=cutoff)
    return Potential(network.to(dtype), REFERENCE_ENERGIES, scale=scale).eval()


def export_small(path: Path, **options: object) -> Path:
    """Export :func:`potential` with some of its options."""
    export_model(potential(**options), path, elements=REFERENCE_ENERGIES)  # type: ignore[arg-type]
    return path


def write_models(folder: Path) -> dict[str, Path]:
    """Export a model in each dtype, another of the same kind and one of a shorter cutoff.

    Those that are there are taken: processes of one session share them.
    """
    options: dict[str, dict[str, Any]] = {
        "double": {},
        "single": {"dtype": torch.float32},
        "other": {"seed": 1},
        "short": {"seed": 2, "cutoff": 3.0},
    }
    return {
        name: made_once(folder / f"{name}.pt", partial(export_small, **chosen))
        for name, chosen in options.items()
    }


def ethanol() -> Atoms:
    """Return a frame of ethanol, away from its minimum, without labels."""
    atoms = ase.io.read(ETHANOL_FRAMES, index=0)
    return Atoms(atoms.numbers, atoms.positions)


def row_of_ethanol() -> Atoms:
    """Return all reference frames of ethanol side by side, without labels."""
    row = Atoms()
    for k, atoms in enumerate(ase.io.read(ETHANOL_FRAMES, index=":")):
        one = Atoms(atoms.numbers, atoms.positions)
        one.translate([5.2 * k, 0.0, 0.0])
        row += one
    return row


def crystal() -> Atoms:
    """Return eight atoms of H, C and O in a triclinic cell narrower than two cutoffs."""
    cell = np.array([[5.1, 0.0, 0.0], [0.9, 4.7, 0.0], [-0.6, 0.8, 5.4]])
    corners = np.array(list(np.ndindex(2, 2, 2))) / 2.0
    scaled = corners + np.random.default_rng(3).uniform(-0.07, 0.07, corners.shape)
    return Atoms("CHOHCOHH", scaled_positions=scaled, cell=cell, pbc=True)


def slab() -> Atoms:
    """Return the crystal's atoms, open along the third direction."""
    atoms = crystal()
    atoms.pbc = (True, True, False)
    return atoms


def water() -> Atoms:
    """Return ASE's water molecule."""
    return molecule("H2O")
