"""What the folder of a run holds, read for its report: whatever is there, and what is not said."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eqcalc.analysis.rdf import RDF, PairDistances, half_cell
from eqcalc.analysis.trajectory import Trajectory, trajectory_of_run
from eqcalc.errors import ConfigError, GraphError, HalfFrameWarning, OutputError, StructureError
from eqcalc.report.scene import MOST_ATOMS, Scene, draw_scene, evenly
from eqcalc.simulate.thermo import Table, read_table, second_half

__all__ = ["RunRecord", "read_record"]

_TABLES = {"md": "thermo.csv", "relax": "relax.csv"}

# Of the distribution of distances, so that a report takes a second or two.
_MOST_PAIRS = 3_000_000
_MOST_FRAMES = 200
_FARTHEST = 8.0  # Å
_N_BINS = 200
_ENOUGH = 1500  # atoms of all frames, below which narrow shells hold mostly chance
_DENSITY = 0.1  # atoms per Å³, from which the number of pairs of a molecule or slab is guessed


@dataclass
class RunRecord:
    """What is known of a run.

    Attributes
    ----------
    folder, kind ("md" or "relax"), manifest; table (columns of thermo.csv or relax.csv), audit
    (of audit.csv), scene (frames for the viewer) and rdf, None where they are not to be had;
    masses (sum, amu); missing : why something is not shown, by what it is ("table", "scene",
    "rdf"); notes (what was odd in the files)
    """

    folder: Path
    kind: str
    manifest: dict[str, Any]
    table: Table | None = None
    scene: Scene | None = None
    rdf: RDF | None = None
    audit: Table | None = None
    masses: float | None = None
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run, as its manifest has them."""
        found = self.manifest.get("settings")
        return found if isinstance(found, dict) else {}

    def number(self, name: str) -> float | None:
        """Return a setting that is a finite number, None where it is not."""
        found = self.settings.get(name)
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            return None
        return float(found) if np.isfinite(found) else None

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        found = self.manifest.get("n_atoms")
        return found if isinstance(found, int) and found > 0 else 1


def read_record(folder: str | Path) -> RunRecord:
    """Read the folder of a run; of files that are missing or damaged the record says so.

    Raises
    ------
    ConfigError : it is no folder of a run.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    record = RunRecord(folder, manifest["kind"], manifest)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HalfFrameWarning)
        _read_table(record)
        _read_frames(record)
    for entry in caught:
        if issubclass(entry.category, HalfFrameWarning):
            record.notes.append(str(entry.message))
    return record


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ConfigError(
            f"'{folder}' is no folder of a run: there is no readable manifest.json "
            f"({error.strerror or error}). Give the folder that eqcalc md or relax wrote."
        ) from error
    except ValueError as error:
        raise ConfigError(f"'{path}' is damaged: {error}.") from error
    if not isinstance(manifest, dict) or manifest.get("kind") not in _TABLES:
        raise ConfigError(f"'{path}' is not of a run of eqcalc md or relax.")
    return manifest


def _read_table(record: RunRecord) -> None:
    name = _TABLES[record.kind]
    needed = {"time_fs", "temperature_K", "potential_energy_eV", "total_energy_eV"}
    if record.kind == "relax":
        needed = {"step", "energy_eV", "fmax"}
    try:
        table = read_table(record.folder / name)
    except OutputError as error:
        record.missing["table"] = str(error)
        return
    if not needed <= table.keys() or len(table["step"]) == 0:
        record.missing["table"] = f"{name} holds no steps yet."
        return
    record.table = table
    if (record.folder / "audit.csv").is_file():
        try:
            audit = read_table(record.folder / "audit.csv")
        except OutputError as error:
            record.notes.append(str(error))
            return
        if {"step", "time_fs", "passed"} <= audit.keys() and len(audit["step"]) > 0:
            record.audit = audit


def _read_frames(record: RunRecord) -> None:
    path = trajectory_of_run(record.folder)
    if path is None:
        record.missing["scene"] = record.missing["rdf"] = "The folder holds no trajectory."
        return
    try:
        with Trajectory(path) as trajectory:
            record.masses = float(trajectory.first.get_masses().sum())
            _read_scene(record, trajectory)
            if record.kind == "md":
                record.rdf = _count_distances(trajectory, record.table)
    except (StructureError, GraphError) as error:
        for what in ("scene", "rdf"):
            if getattr(record, what) is None:
                record.missing.setdefault(what, str(error))


def _read_scene(record: RunRecord, trajectory: Trajectory) -> None:
    record.scene = draw_scene(trajectory)
    if record.scene is None:
        record.missing["scene"] = (
            f"{len(trajectory.first)} atoms are more than a browser turns ({MOST_ATOMS} at most); "
            f"OVITO opens {trajectory.path.name}."
        )


def _count_distances(trajectory: Trajectory, table: Table | None) -> RDF | None:
    """Return g(r) over frames of the second half, in a second or two; None of a single atom."""
    first = trajectory.first
    n_atoms = len(first)
    if n_atoms < 2 and not first.pbc.any():
        return None
    r_max = _FARTHEST
    if first.pbc.any():
        r_max = min(r_max, max(half_cell(first), 4.0))
        density = n_atoms / first.get_volume() if first.pbc.all() else _DENSITY
        while n_atoms * density * 4.2 * r_max**3 > _MOST_PAIRS and r_max > 3.0:
            r_max *= 0.9
        n_pairs = n_atoms * density * 4.2 * r_max**3
    else:
        spread = np.ptp(first.positions, axis=0)
        r_max = min(1.2 * float(np.linalg.norm(spread)) + 1.0, 12.0)
        n_pairs = min(n_atoms * _DENSITY * 4.2 * r_max**3, float(n_atoms) ** 2)
    n_frames = int(min(_MOST_FRAMES, max(1, _MOST_PAIRS // max(n_pairs, 1))))
    half = np.arange(len(trajectory) // 2, len(trajectory))
    if table is not None:  # which has a row for each frame
        rows = second_half(table["time_fs"])
        half = rows[rows < len(trajectory)] if rows[0] < len(trajectory) else half
    chosen = half[evenly(len(half), n_frames)]
    n_bins = _N_BINS if len(chosen) * n_atoms >= _ENOUGH else _N_BINS // 3
    pairs = PairDistances(first, len(chosen), r_max=r_max, n_bins=n_bins)
    for frame in trajectory.frames(chosen.tolist()):
        pairs.add(frame)
    return pairs.result()
