"""The page: one HTML file that holds all it needs and may fetch nothing.

A content security policy in the page forbids every connection, and lets only the scripts run
whose checksums it names: neither a name in a file nor a comment can become a program.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

from eqcalc import __version__
from eqcalc.report.charts import Chart, audit_charts, md_charts, rdf_chart, relaxation_charts
from eqcalc.report.findings import doubts_of, figures_of, headline_of, rows_of
from eqcalc.report.record import RunRecord

__all__ = ["VIEWER_SHA256", "VIEWER_VERSION", "page_of"]

VIEWER_VERSION = "2.5.5"
"""Of 3Dmol.js, as its authors publish it: 3Dmol-min.js of the npm package 3dmol."""

VIEWER_SHA256 = "f7cc78921ae72e7623e89cdd111434f58c2efddd2ffda1cd212644b406fb8016"
"""Of the file in ``assets``; a test holds it."""

_STATUS = {
    "complete": ("good", "complete"),
    "interrupted": ("warn", "stopped early"),
    "running": ("warn", "not ended"),
    "failed": ("bad", "failed"),
}


def page_of(record: RunRecord) -> str:
    """Return the page as HTML."""
    data = {"charts": _charts(record), "scene": record.scene and record.scene.content}
    # The viewer alone is half a megabyte: it stays out where it would have nothing to show.
    names = ["charts.js", "viewer.js"]
    if record.scene is not None:
        names.insert(0, "3Dmol-min.js")
    scripts = [_asset(name) for name in names]
    fields = {
        "POLICY": _policy(scripts),
        "TITLE": html.escape(record.folder.resolve().name),
        "STYLE": _asset("page.css"),
        "HEADER": _header(record),
        "DOUBTS": _doubts(record),
        "VIEWER": _viewer(record),
        "RDF_NOTE": html.escape(_about_distances(record)),
        "TABLES": "".join(_table(title, rows) for title, rows in rows_of(record) if rows),
        "FOOTER": _footer(record),
        "DATA": _json(data),
        "SCRIPTS": "".join(f"<script>{text}</script>\n" for text in scripts),
    }
    page = _asset("page.html")
    pieces = page.split("@@")  # text, name, text, name, ..., text
    return "".join(fields[piece] if k % 2 else piece for k, piece in enumerate(pieces))


def _asset(name: str) -> str:
    return (files("eqcalc.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in scripts
    ]
    return (
        f"default-src 'none'; script-src {' '.join(hashes)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _json(data: Any) -> str:
    """Return JSON that cannot end the element of the page that it stands in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _charts(record: RunRecord) -> list[Chart]:
    charts: list[Chart] = []
    settings, table = record.settings, record.table
    if table is not None and record.kind == "md":
        ensemble = settings.get("ensemble")
        is_npt = str(ensemble).startswith("npt")
        charts = md_charts(
            table,
            record.n_atoms,
            goal_K=None if ensemble == "nve" else record.number("temperature_K"),
            goal_gpa=record.number("pressure_gpa") if is_npt else None,
        )
    elif table is not None:
        charts = relaxation_charts(table, record.n_atoms, fmax=record.number("fmax"))
    if record.rdf is not None:
        charts.append(rdf_chart(record.rdf))
    if record.audit is not None:
        charts += audit_charts(record.audit)
    return charts


def _header(record: RunRecord) -> str:
    kind, words = _STATUS.get(str(record.manifest.get("status")), ("warn", "unknown"))
    formula = "".join(
        f"<sub>{part}</sub>" if part.isdigit() else html.escape(part)
        for part in _formula_parts(str(record.manifest.get("formula", "")))
    )
    model = record.manifest.get("model")
    by = f" · model {html.escape(str(model.get('name', '?')))}" if isinstance(model, dict) else ""
    tiles = "".join(_tile(name, value) for name, value in figures_of(record))
    return (
        f"<h1>{html.escape(record.folder.resolve().name)}"
        f' <em class="badge {kind}">{words}</em></h1>'
        f'<p class="lead">{formula} · {html.escape(headline_of(record))}{by}</p>'
        f'<div class="tiles">{tiles}</div>'
    )


def _tile(name: str, value: str) -> str:
    number, _, unit = value.rpartition(" ")
    if not number:
        number, unit = unit, ""
    return (
        f'<div class="tile"><span>{html.escape(name)}</span>'
        f"<b>{html.escape(number)}</b> <small>{html.escape(unit)}</small></div>"
    )


def _formula_parts(formula: str) -> list[str]:
    parts: list[str] = []
    for letter in formula:
        if parts and parts[-1].isdigit() == letter.isdigit():
            parts[-1] += letter
        else:
            parts.append(letter)
    return parts


def _doubts(record: RunRecord) -> str:
    found = doubts_of(record)
    if not found:
        return ""
    lines = "".join(f'<li class="{kind}">{html.escape(text)}</li>' for kind, text in found)
    return f'<section><ul class="doubts">{lines}</ul></section>'


def _viewer(record: RunRecord) -> str:
    if record.scene is None:
        reason = record.missing.get("scene", "There is no trajectory.")
        return f'<p class="missing">No picture of the structure. {html.escape(reason)}</p>'
    return _asset("viewer.html")


def _about_distances(record: RunRecord) -> str:
    if record.rdf is None:
        reason = record.missing.get("rdf")
        return "" if reason is None else f"No distances between atoms: {reason}"
    n_frames = record.rdf.n_frames
    frames = "one frame" if n_frames == 1 else f"{n_frames} frames"
    return (
        f"Means ± standard errors (by blocks) and distances are of the second half of the run; "
        f"distances of {frames} in it."
    )


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<div><h3>{html.escape(title)}</h3><table>{lines}</table></div>"


def _footer(record: RunRecord) -> str:
    written = f"<p>Written by eqcalc {html.escape(__version__)}."
    if record.scene is None:
        return written + "</p>"
    return (
        f"{written} The viewer is 3Dmol.js {VIEWER_VERSION} (N. Rego and D. Koes, Bioinformatics "
        "31, 1322 (2015)), under the BSD 3-clause licence.</p><details><summary>Licence of "
        f"3Dmol.js</summary><pre>{html.escape(_asset('3Dmol-LICENSE.txt'))}</pre></details>"
    )
