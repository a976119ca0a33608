"""Thousands of damaged files: one clear error, or exactly what the file says.

``--fuzz N`` damages each file N times instead of a few dozen.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import ase.units
import numpy as np
import plain_xyz
import pytest
from ase.build import bulk, molecule
from damage import (
    Damage,
    damaged_archive,
    damaged_bytes,
    damaged_hdf5,
    damaged_model,
    damaged_text,
    series,
)
from small_models import ETHANOL_FRAMES

from eqcalc import EqCalculator
from eqcalc.data import read_dataset
from eqcalc.data.writers import write_frames
from eqcalc.model_file import open_model_file
from eqcalc.simulate import MDSettings, run_md
from eqcalc.simulate.checkpoint import CHECKPOINT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
DATA = ETHANOL_FRAMES.parent


def outcomes(kind: str, paths: list[Path]) -> list[dict[str, Any]]:
    """Return what reading each file comes to; "crash" where the process ended."""
    said: list[dict[str, Any]] = []
    while len(said) < len(paths):
        left = paths[len(said) :] if not said else [paths[0], *paths[len(said) :]]
        found = subprocess.run(
            [sys.executable, HERE / "reader.py", kind],
            input="".join(f"{path}\n" for path in left),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        new = [json.loads(line) for line in found.stdout.splitlines()]
        said += new[1:] if said else new
        if len(said) < len(paths):
            said.append({"outcome": "crash", "said": f"{found.returncode} {found.stderr[-300:]}"})
    return said


class Case(NamedTuple):
    """A file, what may happen to it, and what its values are.

    values : "the same" whatever was damaged; a function that finds them in the damaged content
        without eqcalc, and raises where it is not what its format wants; None where nothing in
        the file tells a damaged number from another
    """

    kind: str
    name: str
    content: Callable[[], bytes]
    damages: tuple[Damage, ...]
    values: Callable[[bytes], Any] | str | None


def xyz_frames(content: bytes) -> Any:
    """Return what :func:`reader.values_of_dataset` shall find."""
    frames = plain_xyz.frames_of(content.decode())
    return [frames, []]


def xyz_structures(content: bytes) -> Any:
    """Return what :func:`reader.values_of_structures` shall find."""
    return [frame[:4] for frame in plain_xyz.frames_of(content.decode())]


def npz_frames(content: bytes) -> Any:
    """Return the frames of an rMD17 file, whose energies are in kcal/mol."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        unit = ase.units.kcal / ase.units.mol
        coords, energies, forces = (
            arrays[name].astype(np.float64) for name in ("coords", "energies", "forces")
        )
        numbers = arrays["nuclear_charges"].tolist()
    rows = zip(coords.tolist(), (energies * unit).tolist(), (forces * unit).tolist(), strict=True)
    box = [[[0.0] * 3] * 3, [False] * 3]
    return [[[numbers, x, *box, e, f] for x, e, f in rows], []]


def written(atoms: Any, form: str) -> bytes:
    """Return a file that ASE writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file.{form}"
        ase.io.write(path, atoms, format=form)
        return path.read_bytes()


def hdf5() -> bytes:
    """Return a file that ``eqcalc data convert`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.h5"
        write_frames(path, read_dataset(ETHANOL_FRAMES).frames)
        return path.read_bytes()


def toml_values(content: bytes) -> Any:
    """Return what a training file says."""
    return tomllib.loads(content.decode())


def training_file() -> bytes:
    """Return the file by which a shipped model was trained."""
    return open_model_file("painn-ethanol").path.with_name("train.toml").read_bytes()


def ethanol_frames() -> Any:
    """Return labelled frames."""
    return ase.io.read(ETHANOL_FRAMES, index=":")


def silicon() -> Any:
    """Return a rattled cubic cell."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def checkpoint() -> bytes:
    """Return the last checkpoint of a short run."""
    with tempfile.TemporaryDirectory() as folder:
        settings = MDSettings("nvt-nhc", temperature_K=300.0, n_steps=3, seed=0)
        calculator = EqCalculator("painn-ethanol", engine="torchscript")
        run_md(molecule("CH3CH2OH"), calculator, settings, Path(folder) / "run")
        return (Path(folder) / "run" / CHECKPOINT).read_bytes()


def model(name: str) -> Callable[[], bytes]:
    """Return how a shipped model's file is read."""
    return lambda: open_model_file(name).path.read_bytes()


TEXT, BYTES = (damaged_text, damaged_text, damaged_bytes), (damaged_bytes,)
RUTILE = HERE.parents[1] / "examples" / "rutile.cif"
IMPORTS = HERE.parent / "imports"
SAME = "the same"
CASES = (
    Case("dataset", "frames.xyz", ETHANOL_FRAMES.read_bytes, TEXT, xyz_frames),
    Case("dataset", "silicon.xyz", (DATA / "silicon_frames.xyz").read_bytes, TEXT, xyz_frames),
    Case(
        "dataset",
        "frames.npz",
        ETHANOL_FRAMES.with_suffix(".npz").read_bytes,
        (damaged_bytes, damaged_archive),
        npz_frames,
    ),
    Case("dataset", "frames.traj", lambda: written(ethanol_frames(), "traj"), BYTES, None),
    Case("dataset", "frames.json", lambda: written(ethanol_frames(), "json"), TEXT, None),
    Case("dataset", "frames.h5", lambda: hdf5(), BYTES, SAME),
    Case("dataset", "forged.h5", lambda: hdf5(), (damaged_hdf5,), None),
    Case("structures", "s.xyz", lambda: written(silicon(), "extxyz"), TEXT, xyz_structures),
    Case("structures", "s.cif", RUTILE.read_bytes, TEXT, None),
    Case("structures", "POSCAR", lambda: written(silicon(), "vasp"), TEXT, None),
    Case("structures", "s.pdb", lambda: written(silicon(), "proteindatabank"), TEXT, None),
    Case("structures", "s.traj", lambda: written(silicon(), "traj"), BYTES, None),
    Case("structures", "s.json", lambda: written(silicon(), "json"), TEXT, None),
    Case("training file", "train.toml", training_file, TEXT, toml_values),
    Case("checkpoint", CHECKPOINT, checkpoint, BYTES, SAME),
    Case("propagator", "p.pt", model("gmn-nbody"), (damaged_model,), SAME),
    Case("model", "m.pt", model("painn-ethanol"), (damaged_model,), SAME),
    Case("foreign model", "n.ckpt", (IMPORTS / "nequip/readout.ckpt").read_bytes, BYTES, SAME),
    Case("foreign model", "n.zip", (IMPORTS / "nequip/readout.nequip.zip").read_bytes, BYTES, SAME),
    Case("foreign model", "s.pth", (IMPORTS / "sevennet/xplor.pth").read_bytes, BYTES, SAME),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.name}")
def test_a_damaged_file_is_refused_or_says_what_is_read(case, tmp_path, n_cases, record_property):
    whole = case.content()
    done = [("nothing", whole), *series(whole, case.damages, seed=3, n=n_cases)]
    paths = []
    for k, (_, content) in enumerate(done):
        paths.append(tmp_path / str(k) / case.name)
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(content)
    found = outcomes(case.kind, paths)
    assert found[0]["outcome"] == "read", found[0]["said"]
    wrong = []
    for (what, content), one in zip(done, found, strict=True):
        if one["outcome"] == "read":
            fault = difference(case, content, one["values"], found[0]["values"])
        else:
            fault = None if one["outcome"] == "refused" else one["said"]
        if fault is not None:
            wrong.append(f"{what}: {fault}")
    assert not wrong, "\n".join(wrong)
    counted = Counter(one["outcome"] for one in found[1:])
    assert counted["refused"] > n_cases / 10
    for name in ("refused", "read"):
        record_property(name, counted[name])
    record_property("longest (s)", max(one["seconds"] for one in found[1:]))


def difference(case: Case, content: bytes, found: Any, of_the_whole: Any) -> str | None:
    """Return what is wrong with the values that were read, None where nothing is."""
    if case.values is None or found == of_the_whole:
        return None
    if isinstance(case.values, str):
        return "read, with other values"
    try:
        expected = case.values(content)
    except Exception as error:
        return f"read, though no such file: {type(error).__name__}: {error}"
    return None if close(found, expected) else "read, but the file says something else"


def close(found: Any, expected: Any) -> bool:
    """Return whether nested values are equal, numbers to the rounding of a unit's factor."""
    if isinstance(expected, dict):
        return all(key in found and close(found[key], value) for key, value in expected.items())
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=1e-12, abs=0.0)
    return bool(found == expected)
