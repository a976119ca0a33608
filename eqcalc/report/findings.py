"""What a report says of a run in words and numbers: figures at the top, doubts, settings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from eqcalc.analysis.blocks import block_error
from eqcalc.report.labels import label_of
from eqcalc.report.record import RunRecord
from eqcalc.simulate.md_result import SHORTEST_DRIFT_PS, energy_drift
from eqcalc.simulate.plots import ENOUGH_FOR_A_MEAN
from eqcalc.simulate.settings import USED_BY, criterion_of
from eqcalc.simulate.thermo import Table, is_ramped, second_half
from eqcalc.units import GRAM_PER_CM3

__all__ = ["doubts_of", "figures_of", "headline_of", "rows_of"]

Rows = list[tuple[str, str]]

_MOST_ALARMS = 8
_SPIKE = 8.0  # standard deviations of a temperature in equilibrium
_NEVER = 1e-12  # chance of a temperature, in one row; a week has some 1e7
_FAR_OFF = 0.03  # of the goal
_ERRORS = 4.0  # of a mean, that it may lie from the goal
_DRIFT = 1.0  # meV/atom/ps
_VOLUME = 0.1  # of the volume

_ENSEMBLES = {
    "nve": "NVE",
    "nvt-langevin": "NVT, Langevin",
    "nvt-nhc": "NVT, Nosé–Hoover chain",
    "npt": "NPT, Martyna–Tobias–Klein",
    "npt-anisotropic": "NPT, anisotropic cell",
    "npt-flexible": "NPT, flexible cell",
}


def figures_of(record: RunRecord) -> Rows:
    """Return what stands in large letters at the top of the page: name and value."""
    table, settings = record.table, record.settings
    figures = [("atoms", f"{record.n_atoms:,}".replace(",", "\u202f"))]
    if table is None:
        return figures
    if record.kind == "relax":
        what, unit = criterion_of(cell="enthalpy_eV" in table)
        return [
            *figures,
            ("steps", f"{table['step'][-1]:.0f}"),
            ("energy", f"{table['energy_eV'][-1]:.4f} eV"),
            (what, f"{table['fmax'][-1]:.3g} {unit}"),
        ]
    figures.append(("simulated", _time(table["time_fs"][-1])))
    figures.append(("temperature", _mean(table, table["temperature_K"], "K")))
    if settings.get("ensemble") == "nve":
        slope = _drift(table, record.n_atoms)
        if slope is not None:
            figures.append(("energy drift", f"{slope:.2g} meV/atom/ps"))
    if "pressure_gpa" in table:
        figures.append(("pressure", _mean(table, table["pressure_gpa"], "GPa")))
    if "volume_A3" in table and record.masses is not None:
        density = record.masses / table["volume_A3"] / GRAM_PER_CM3
        figures.append(("density", _mean(table, density, "g/cm³")))
    if record.audit is not None:
        passed = record.audit["passed"]
        figures.append(("self-audits", f"{int(passed.sum())} of {len(passed)} passed"))
    return figures


def doubts_of(record: RunRecord) -> Rows:
    """Return what the reader must know before the numbers are used: severity and text.

    Severities are "bad" (the run failed), "warn" and "note".
    """
    found: Rows = list(_of_the_end(record))
    manifest = record.manifest
    kept = manifest.get("constraints_not_kept")
    if isinstance(kept, list) and kept:
        names = ", ".join(map(str, kept))
        found.append(("warn", f"The files cannot hold the constraints {names}."))
    for reason in _not_exact(manifest):
        found.append(("note", f"Not bit for bit the run that was interrupted: {reason}."))
    found += _of_the_guards(record)
    found += [("note", text[:1].upper() + text[1:]) for text in record.notes]
    if record.table is None:
        found.append(("bad", f"No table of the run: {record.missing['table']}"))
    elif record.kind == "md":
        found += _of_the_table(record, record.table)
    return found


def _not_exact(manifest: dict[str, Any]) -> list[str]:
    """Return why some part of a run did not go on bit for bit, each reason once."""
    before = manifest.get("earlier_parts")
    parts = [*before, manifest] if isinstance(before, list) else [manifest]
    reasons = [part.get("not_exact") for part in parts if isinstance(part, dict)]
    return list(
        dict.fromkeys(str(r) for found in reasons if isinstance(found, list) for r in found)
    )


def _of_the_end(record: RunRecord) -> Rows:
    manifest, settings = record.manifest, record.settings
    status = manifest.get("status")
    done, all_steps = manifest.get("steps_done"), settings.get("n_steps")
    how_far = f" at step {done} of {all_steps}" if record.kind == "md" and done is not None else ""
    if status == "failed":
        return [("bad", f"The run failed{how_far}: {manifest.get('error', 'no reason is known')}")]
    if status == "interrupted":
        return [("warn", f"The run was stopped{how_far}.")]
    if status == "running":
        text = "The run had not ended when this page was written, or its process was killed."
        return [("warn", text)]
    if record.kind == "relax" and manifest.get("converged") is False:
        return [("warn", "The relaxation has not converged.")]
    return []


def _of_the_guards(record: RunRecord) -> Rows:
    """Return what guards of the run and its audits of itself have found."""
    found: Rows = []
    if record.audit is not None and not record.audit["passed"].all():
        failed = record.audit["step"][record.audit["passed"] == 0]
        found.append(("bad", f"The self-audit of step {failed[0]:.0f} failed."))
    guards = record.manifest.get("guards")
    alarms = guards.get("alarms") if isinstance(guards, dict) else None
    for alarm in alarms[:_MOST_ALARMS] if isinstance(alarms, list) else []:
        if isinstance(alarm, dict):
            what, action = alarm.get("reason", "?"), alarm.get("action", "?")
            found.append(("warn", f"Step {alarm.get('step', '?')}: {what} ({action})."))
    if isinstance(alarms, list) and len(alarms) > _MOST_ALARMS:
        text = f"There were {len(alarms) - _MOST_ALARMS} further alarms; manifest.json has them."
        found.append(("warn", text))
    return found


def _of_the_table(record: RunRecord, table: Table) -> Rows:
    found: Rows = []
    settings, time_ps = record.settings, table["time_fs"] / 1000
    temperature = table["temperature_K"]
    half = temperature[second_half(table["time_fs"])]
    if len(temperature) < ENOUGH_FOR_A_MEAN:
        text = f"There are {len(temperature)} frames: means of so few are mostly chance."
        found.append(("note", text))
        return found
    if is_ramped(table):
        text = (
            "Thermostat or barostat change their target in the second half: means are of a ramp, "
            "and have no errors."
        )
        found.append(("note", text))
    mean, error = float(half.mean()), block_error(half)
    goal = _held_at(record, table)
    if goal is not None and error is not None:
        off = abs(mean - goal)
        if off > max(_ERRORS * error, _FAR_OFF * goal):
            found.append(
                (
                    "warn",
                    f"The second half has a mean temperature of {mean:.0f} ± {error:.0f} K where "
                    f"{goal:g} K were set: not yet in equilibrium, or a thermostat that is too "
                    "weak.",
                )
            )
    n_dof = record.manifest.get("degrees_of_freedom")
    if isinstance(n_dof, int) and n_dof > 0 and mean > 0:
        highest = int(temperature.argmax())
        # The second half is colder where the target falls, and after a start from a minimum,
        # of whose heat half goes into the bonds.
        goals = table.get("target_temperature_K", temperature[:1])
        around = max(mean, float(goals.max()), float(temperature[0]))
        # That of few degrees of freedom is often many standard deviations above its mean.
        by_chance = float(chdtri(n_dof, _NEVER)) / n_dof
        if temperature[highest] > around * max(1 + _SPIKE * np.sqrt(2 / n_dof), by_chance):
            found.append(
                (
                    "warn",
                    f"The temperature reached {temperature[highest]:.0f} K at "
                    f"{time_ps[highest]:.4g} ps, far beyond its fluctuations around "
                    f"{around:.0f} K.",
                )
            )
    slope = _drift(table, record.n_atoms) if settings.get("ensemble") == "nve" else None
    if slope is not None and abs(slope) > _DRIFT:
        text = f"The total energy drifts by {slope:.2g} meV/atom/ps; a shorter time step may help."
        found.append(("warn", text))
    volume = table.get("volume_A3")
    if volume is not None and abs(volume[-1] / volume[0] - 1) > _VOLUME:
        change = 100 * (volume[-1] / volume[0] - 1)
        found.append(("note", f"The volume changed by {change:+.0f} % during the run."))
    return found


def _held_at(record: RunRecord, table: Table) -> float | None:
    """Return where a thermostat holds the second half (K); None without one, or of a ramp."""
    if record.settings.get("ensemble") == "nve":
        return None
    targets = table.get("target_temperature_K")
    if targets is None:
        return record.number("temperature_K")
    of_half = np.unique(targets[second_half(table["time_fs"])])
    return float(of_half[0]) if len(of_half) == 1 else None


def rows_of(record: RunRecord) -> list[tuple[str, Rows]]:
    """Return the tables at the end of the page: title and rows of names and values."""
    manifest, settings = record.manifest, record.settings
    if manifest.get("status") == "running" and record.table is not None:
        # Until its end the manifest says where this part began.
        manifest = {**manifest, "steps_done": int(record.table["step"][-1])}
    unused = {k for k, ensembles in USED_BY.items() if settings.get("ensemble") not in ensembles}
    plain = {
        k: v
        for k, v in settings.items()
        if v is not None and not isinstance(v, dict) and not (record.kind == "md" and k in unused)
    }
    groups = [("Settings", _rows(plain))]
    for name, found in settings.items():
        if isinstance(found, dict):  # where a limit is None, a rule sets it
            told = {k: "by default" if v is None else v for k, v in found.items()}
            groups.append((f"{_title(name)}, settings", _rows(told)))
    run: Rows = [("structure", _value(manifest.get("structure", "given in Python")))]
    for name in ("formula", "n_atoms", "degrees_of_freedom", "status", "steps_done", "started"):
        if name in manifest:
            run.append((_words(name), _value(manifest[name])))
    if "ended" in manifest:
        run.append(("ended", _value(manifest["ended"])))
    parts = manifest.get("earlier_parts")
    if isinstance(parts, list) and parts:
        steps = [str(p.get("steps_done", "?")) for p in parts if isinstance(p, dict)]
        run.append(("resumed", f"{len(parts)} times, after step {', '.join(steps)}"))
    groups.append(("Run", run))
    first = ("model", "engine", "calculator")
    names = [*first, *(name for name in manifest if name not in (*first, "versions")), "versions"]
    for name in names:
        found = manifest.get(name)
        if name != "settings" and isinstance(found, dict):
            if name == "guards" and isinstance(found.get("alarms"), list):
                found = {**found, "alarms": len(found["alarms"])}
            groups.append((_title(name), _rows(found)))
    return groups


def headline_of(record: RunRecord) -> str:
    """Return in a line what kind of run it was."""
    settings = record.settings
    if record.kind == "relax":
        cell = ", with the cell" if settings.get("cell") else ""
        return f"Relaxation with {_value(settings.get('optimizer', '?'))}{cell}"
    ensemble = str(settings.get("ensemble", "?"))
    parts = [_ENSEMBLES.get(ensemble, ensemble)]
    if ensemble != "nve":
        parts.append(_from_to(settings, "temperature_K", "K"))
    if ensemble.startswith("npt"):
        parts.append(_from_to(settings, "pressure_gpa", "GPa"))
    steps = f"{_value(settings.get('timestep_fs', '?'))} fs steps"
    guards = record.manifest.get("guards")
    if isinstance(guards, dict) and guards.get("halvings"):
        steps += f", halved to {_value(guards.get('timestep_fs', '?'))} by a guard"
    parts.append(steps)
    return ", ".join(parts)


def _from_to(settings: dict[str, Any], name: str, unit: str) -> str:
    """Return what is held, or from what to what it changes."""
    begin, end = settings.get(name, "?"), settings.get(f"to_{name}")
    return f"{_value(begin)} {unit}" if end is None else f"{_value(begin)} to {_value(end)} {unit}"


def _drift(table: Table, n_atoms: int) -> float | None:
    """Return the drift in meV/atom/ps; None of a run that is too short to tell it."""
    time_ps = table["time_fs"] / 1000
    if len(time_ps) < ENOUGH_FOR_A_MEAN or time_ps[-1] - time_ps[0] < SHORTEST_DRIFT_PS:
        return None
    return energy_drift(table, n_atoms)


def _mean(table: Table, values: NDArray[np.float64], unit: str) -> str:
    """Return mean and error of the second half, as it is written; no error of a ramp."""
    half = values[second_half(table["time_fs"])]
    mean, error = float(half.mean()), None if is_ramped(table) else block_error(half)
    if len(values) < ENOUGH_FOR_A_MEAN or error is None or not np.isfinite(error):
        return f"{mean:.4g} {unit}"
    if error <= 1e-9 * abs(mean):
        return f"{mean:.4g} {unit}"
    # Two digits of an error that begins with 1, one of others.
    leading = f"{error:.0e}"
    n_digits = max(0, (leading[0] == "1") - int(leading.partition("e")[2]))
    return f"{mean:.{n_digits}f} ± {error:.{n_digits}f} {unit}"


def _time(time_fs: float) -> str:
    if time_fs < 1000:
        return f"{time_fs:g} fs"
    return f"{time_fs / 1000:.4g} ps" if time_fs < 1e6 else f"{time_fs / 1e6:.4g} ns"


def _rows(content: dict[str, Any]) -> Rows:
    return [(_words(name), _value(value)) for name, value in content.items()]


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _words(name: object) -> str:
    words, unit = label_of(str(name))
    return f"{words} ({unit})" if unit else words


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_value(entry)}" for key, entry in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value)) or "–"
    return str(value)
