"""Files of an analysis: a table for each quantity, a picture, and what was found as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqcalc.analysis.averages import Averages
from eqcalc.analysis.msd import A2_PER_PS_IN_CM2_PER_S
from eqcalc.analysis.plots import draw
from eqcalc.errors import OutputError
from eqcalc.files import refuse_existing, remove_files, write_whole
from eqcalc.simulate.run_folder import ANALYSIS_FILES

__all__ = ["refuse_other_analysis", "summary_of", "write_averages"]

_SUMMARY = "analysis.json"

Columns = dict[str, NDArray[np.float64]]


def write_averages(folder: str | Path, found: Averages, *, overwrite: bool = False) -> list[Path]:
    """Write tables (csv), the picture and summary of an analysis; return their paths.

    An older analysis of the same trajectory is replaced, so that all files belong together.

    Parameters
    ----------
    overwrite : replace also what is another trajectory's, or not known to be an analysis

    Raises
    ------
    OutputExistsError : the folder holds such files, and ``overwrite`` is false.
    OutputError : a file cannot be written.
    """
    folder = Path(folder)
    refuse_other_analysis(folder, found.trajectory, overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot use '{folder}' for an analysis: {error.strerror or error}."
        ) from error
    remove_files(folder, ANALYSIS_FILES)
    written = []
    for name, columns in _tables(found).items():
        written.append(folder / name)
        write_whole(written[-1], _csv(columns))
    written.append(folder / "analysis.png")
    write_whole(written[-1], draw(found))
    written.append(folder / _SUMMARY)
    text = json.dumps(_finite(summary_of(found)), indent=2, ensure_ascii=False)
    write_whole(written[-1], (text + "\n").encode())
    return written


def refuse_other_analysis(folder: Path, trajectory: str | Path, overwrite: bool) -> None:
    """Refuse a folder with files of an analysis, unless they are the same trajectory's.

    Raises
    ------
    OutputExistsError : it holds some, and ``overwrite`` is false.
    """
    existing = [folder / name for name in ANALYSIS_FILES if (folder / name).exists()]
    if existing and _trajectory_of(folder) != str(Path(trajectory).absolute()):
        refuse_existing(existing, overwrite)


def _trajectory_of(folder: Path) -> object:
    """Return the path of the trajectory that an analysis is of; None where nothing tells it."""
    try:
        content = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("trajectory") if isinstance(content, dict) else None


def summary_of(found: Averages) -> dict[str, Any]:
    """Return settings and results in numbers, without the tables; units stand in the keys."""
    content: dict[str, Any] = {
        "trajectory": found.trajectory,
        "n_frames": found.n_frames,
        "interval_fs": found.interval_fs,
        "settings": asdict(found.settings),
        "notes": found.notes,
        "left_out": found.left_out,
    }
    if found.rdf is not None:
        peaks = {"-".join(pair): found.rdf.first_peak(pair) for pair in found.rdf.per_distance}
        content["rdf_highest"] = {
            name: {"r_A": peak[0], "g": peak[1]} for name, peak in peaks.items() if peak
        }
    if found.msd is not None:
        content["fit_ps"] = list(found.msd.fit_ps)
        content["diffusion"] = {
            element: {
                "D_A2_per_ps": each.value,
                "error_A2_per_ps": each.error,
                "D_cm2_per_s": each.value * A2_PER_PS_IN_CM2_PER_S,
                "exponent": each.exponent,
            }
            for element, each in found.msd.diffusion.items()
        }
    if found.vacf is not None:
        content["spectrum_peaks_per_cm"] = found.vacf.peaks()
        content["resolution_per_cm"] = found.vacf.resolution
    if found.density is not None:
        content["mean_density_g_per_cm3"] = float(found.density.mass.mean())
    return content


def _tables(found: Averages) -> dict[str, Columns]:
    tables: dict[str, Columns] = {}
    if found.rdf is not None and found.rdf.g is not None:
        rdf: Columns = {"r_A": found.rdf.r}
        for pair, values in found.rdf.g.items():
            rdf[f"g_{'_'.join(pair)}"] = values
            rdf[f"error_{'_'.join(pair)}"] = found.rdf.error[pair]
        for (a, b), values in found.rdf.neighbours.items():
            rdf[f"neighbours_{b}_around_{a}"] = values
        tables["rdf.csv"] = rdf
    if found.msd is not None:
        msd: Columns = {"time_ps": found.msd.time_ps}
        for element, values in found.msd.msd.items():
            msd[f"msd_{element}_A2"] = values
            msd[f"error_{element}_A2"] = found.msd.error[element]
        tables["msd.csv"] = msd | {"msd_centre_of_mass_A2": found.msd.drift}
    if found.vacf is not None:
        vacf: Columns = {"time_ps": found.vacf.time_ps}
        for element, values in found.vacf.vacf.items():
            vacf[f"vacf_{element}"] = values
            vacf[f"error_{element}"] = found.vacf.error[element]
        spectra = {f"spectrum_{e}_cm": values for e, values in found.vacf.spectrum.items()}
        tables["vacf.csv"] = vacf
        tables["spectrum.csv"] = {"wavenumber_per_cm": found.vacf.wavenumber, **spectra}
    if found.density is not None:
        profile = found.density
        density: Columns = {"place_A": profile.place}
        for element, values in profile.number.items():
            density[f"number_{element}_per_A3"] = values
        density["density_g_per_cm3"], density["error_g_per_cm3"] = profile.mass, profile.error
        tables["density.csv"] = density
    return tables


def _csv(columns: Mapping[str, NDArray[np.float64]]) -> bytes:
    rows = np.stack(list(columns.values()), axis=1)
    lines = [",".join(columns), *(",".join(f"{value:.8g}" for value in row) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
