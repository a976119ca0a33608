"""The page of a run: what it says, of which runs, and that it is safe and stands alone."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

import eqcalc.report
from eqcalc.analysis import Trajectory
from eqcalc.errors import ConfigError, EqcalcError
from eqcalc.report import write_report
from eqcalc.report.charts import md_charts
from eqcalc.report.findings import doubts_of, figures_of, headline_of, rows_of
from eqcalc.report.page import VIEWER_SHA256, VIEWER_VERSION
from eqcalc.report.record import read_record
from eqcalc.report.scene import draw_scene
from eqcalc.report.wholes import Wholes
from eqcalc.simulate import MDSettings, RelaxSettings, run_md, run_relax
from eqcalc.simulate.thermo import second_half

ASSETS = Path(eqcalc.report.__file__).parent / "assets"


@pytest.fixture(scope="module")
def npt_run(tmp_path_factory) -> Path:
    """A run whose cell changes."""
    settings = MDSettings(
        ensemble="npt", timestep_fs=4.0, n_steps=120, log_every=4, barostat_time_fs=100.0
    )
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    return run_md(atoms, EMT(), settings, tmp_path_factory.mktemp("npt") / "copper").folder


class Page(HTMLParser):
    """Texts, attributes and scripts of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.data: dict = {}
        self._within = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        is_data = ("type", "application/json") in attrs
        self._within = "data" if is_data else tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._within = ""

    def handle_data(self, data):
        if self._within == "data":
            self.data = json.loads(data)
        elif self._within == "script":
            self.scripts.append(data)
        elif self._within != "style":
            self.text += data


def copy_of(run: Path, target: Path, **manifest: object) -> Path:
    """Return a copy of a run's folder whose manifest says something else."""
    shutil.copytree(run, target)
    fields = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**fields, **manifest}))
    return target


def test_viewer_is_the_file_that_its_authors_published_with_its_licence():
    content = (ASSETS / "3Dmol-min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == VIEWER_SHA256
    assert "BSD-3-Clause" in (ASSETS / "3Dmol-LICENSE.txt").read_text()
    assert VIEWER_VERSION == "2.5.5"


def test_page_fetches_nothing(npt_run, tmp_path):
    page = Page(write_report(npt_run, tmp_path / "r.html"))
    named = [value for _, name, value in page.attributes if name in ("src", "href", "data")]
    assert named == []
    assert not {"link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert "@import" not in (ASSETS / "page.css").read_text()
    assert "url(" not in (ASSETS / "page.css").read_text()
    policy = next(v for _, name, v in page.attributes if v.startswith("default-src"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "connect-src" not in policy  # that of default-src: none


def test_policy_names_each_script_of_the_page(npt_run, tmp_path):
    import base64

    page = Page(write_report(npt_run, tmp_path / "r.html"))
    policy = next(v for _, name, v in page.attributes if v.startswith("default-src"))
    scripts = [s for s in page.scripts if s.strip()]
    assert len(scripts) == 3
    for text in scripts:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_page_carries_the_licence_of_the_viewer(npt_run, tmp_path):
    text = Page(write_report(npt_run, tmp_path / "r.html")).text
    assert "Copyright (c) 2014, University of Pittsburgh" in text
    assert f"3Dmol.js {VIEWER_VERSION}" in text


def test_page_shows_settings_versions_and_figures(npt_run, tmp_path):
    text = Page(write_report(npt_run, tmp_path / "r.html")).text
    for expected in ("copper", "NPT", "300 K", "complete", "480 fs", "torch", "g/cm³", "seed"):
        assert expected in text


def test_charts_of_a_run_with_a_barostat(npt_run, tmp_path):
    data = Page(write_report(npt_run, tmp_path / "r.html")).data
    titles = [chart["title"] for chart in data["charts"]]
    assert titles[:3] == ["temperature", "change of energy", "pressure"]
    assert titles[-1] == "radial distribution g(r)"
    assert "density" in titles
    time = data["charts"][0]["curves"][0]["x"]
    assert time[-1] == pytest.approx(0.48)
    assert len(time) == 31


def test_density_of_the_page_is_that_of_the_table(npt_run):
    record = read_record(npt_run)
    expected = record.table["density_g_per_cm3"][second_half(record.table["time_fs"])].mean()
    value, _, rest = dict(figures_of(record))["density"].partition(" ")
    assert float(value) == pytest.approx(expected, rel=0.01)
    assert rest.endswith("g/cm³")


def test_frames_in_the_page_are_those_of_the_trajectory(npt_run, tmp_path):
    import base64

    scene = Page(write_report(npt_run, tmp_path / "r.html")).data["scene"]
    numbers = np.frombuffer(base64.b64decode(scene["positions"]), dtype="<i2")
    shown = numbers.reshape(len(scene["numbers"]), -1, 3) * scene["unit"] + scene["origin"]
    with Trajectory(npt_run) as trajectory:
        frames = list(trajectory.frames(range(len(trajectory))))
    assert scene["numbers"] == list(range(31))
    for k in (0, 17, 30):
        cell = np.reshape(scene["cells"][k], (3, 3))
        np.testing.assert_allclose(cell, frames[k].cell.array, atol=1e-4)
        # the same but for lattice vectors
        shift = (shown[k] - frames[k].positions) @ np.linalg.inv(frames[k].cell.array)
        assert np.abs(shift - shift.round()).max() < 1e-4
    assert scene["times"][-1] == pytest.approx(0.48)


def test_everything_of_the_user_is_escaped(npt_run, tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;'\""
    name = "a<b>&'\"<img src=x>"
    run = copy_of(
        npt_run,
        tmp_path / name.replace("/", ""),
        structure=evil,
        formula=evil,
        error=evil,
        status="failed",
        not_exact=[evil],
        constraints_not_kept=[evil],
        model={"name": evil, evil: evil},
        versions={evil: evil},
        settings={"ensemble": evil, evil: [evil], "n_steps": evil},
    )
    table = (run / "thermo.csv").read_text()
    (run / "thermo.csv").write_text(table.replace("volume_A3", "</script><img src=x>"))
    plain, page = Page(write_report(npt_run, tmp_path / "p.html")), Page(write_report(run))
    assert "img" not in page.tags
    assert page.tags.count("script") == plain.tags.count("script")
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert "alert(1)" in page.text  # shown, not run
    assert page.text.count(evil) >= 6
    assert any(chart["title"].startswith("</script>") for chart in page.data["charts"])


def test_run_that_stopped_early_says_so(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run", status="interrupted", steps_done=60)
    text = Page(write_report(run)).text
    assert "stopped early" in text
    assert "The run was stopped at step 60 of 120." in text


def test_run_that_was_killed_has_a_page_of_what_is_whole(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run", status="running", steps_done=0)
    table = (run / "thermo.csv").read_bytes()
    (run / "thermo.csv").write_bytes(table[:-7])
    page = Page(write_report(run))
    assert dict(dict(rows_of(read_record(run)))["Run"])["steps done"] == "116"
    assert "or its process was killed" in page.text
    assert "ends within a line" in page.text
    assert len(page.data["charts"][0]["curves"][0]["x"]) == 30


def test_run_that_was_resumed_says_when(npt_run, tmp_path):
    parts = [
        {"status": "interrupted", "steps_done": 40},
        {"status": "interrupted", "steps_done": 80, "not_exact": ["other threads", "torch 1"]},
    ]
    run = copy_of(npt_run, tmp_path / "run", earlier_parts=parts, not_exact=["other threads"])
    text = Page(write_report(run)).text
    assert "2 times, after step 40, 80" in text
    assert text.count("Not bit for bit the run that was interrupted: other threads.") == 1
    assert "Not bit for bit the run that was interrupted: torch 1." in text


def test_failed_run_has_a_page_with_the_reason(tmp_path):
    settings = MDSettings(ensemble="nve", temperature_K=3e4, timestep_fs=10.0, n_steps=500)
    with pytest.raises(EqcalcError, match="stopped a"):
        run_md(molecule("N2"), EMT(), settings, tmp_path / "run")
    page = Page(write_report(tmp_path / "run"))
    assert "The run failed at step" in page.text
    assert "stopped a" in page.text
    assert page.data["scene"]["numbers"]


def test_molecule_has_pairs_over_distances_instead_of_a_density(tmp_path):
    run_md(molecule("CH3CH2OH"), EMT(), MDSettings(n_steps=60), tmp_path / "run")
    page = Page(write_report(tmp_path / "run"))
    chart = page.data["charts"][-1]
    assert (chart["title"], chart["unit"]) == ("pairs of atoms", "pairs/Å")
    assert page.data["scene"]["cells"] is None
    one_hydrogen = next(c for c in chart["curves"] if c["name"] == "H–O")
    width = one_hydrogen["x"][1] - one_hydrogen["x"][0]
    assert sum(one_hydrogen["y"]) * width == pytest.approx(6.0, abs=0.01)  # six H and one O


@pytest.mark.parametrize(
    ("atoms", "calculator"),
    [(Atoms("Ar"), LennardJones()), (fcc111("Cu", (2, 2, 2), vacuum=6), EMT())],
    ids=["one atom", "slab"],
)
def test_odd_structures_have_a_page(tmp_path, atoms, calculator):
    run_md(atoms, calculator, MDSettings(n_steps=20), tmp_path / "run")
    page = Page(write_report(tmp_path / "run"))
    assert page.data["scene"]["kinds"] == [0] * len(atoms)
    assert "means of so few are mostly chance" in page.text


def test_relaxation_has_a_page(tmp_path):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05)
    run_relax(atoms, EMT(), RelaxSettings(fmax=0.1), tmp_path / "run")
    page = Page(write_report(tmp_path / "run"))
    assert [chart["title"] for chart in page.data["charts"]] == [
        "energy above the last",
        "largest force",
    ]
    assert page.data["charts"][1]["log"] is True


def test_page_of_a_relaxation_with_its_cell_names_the_virial(tmp_path):
    settings = RelaxSettings(cell=True, max_steps=2)
    run_relax(bulk("Cu", cubic=True), EMT(), settings, tmp_path / "run")
    page = Page(write_report(tmp_path / "run"))
    assert "largest force or virial" in [chart["title"] for chart in page.data["charts"]]
    assert "eV/Å or eV/atom" in page.text


def test_missing_trajectory_is_said_and_the_viewer_left_out(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run")
    (run / "trajectory.traj").unlink()
    path = write_report(run)
    assert "The folder holds no trajectory." in Page(path).text
    assert path.stat().st_size < 100_000


def test_missing_table_is_said(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run")
    (run / "thermo.csv").unlink()
    assert "No table of the run: cannot read" in Page(write_report(run)).text


def test_table_without_steps_is_said(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run")
    (run / "thermo.csv").write_text("step,time_fs\n")
    assert "No table of the run" in Page(write_report(run)).text


def test_second_half_is_that_of_the_time_where_a_guard_halved_the_timestep(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run")
    header, row, *_ = (run / "thermo.csv").read_text().splitlines()
    times = [*range(0, 800, 20), *range(800, 1101, 5)]  # fs, and more rows in less time
    lines = [header]
    for k, time in enumerate(times):
        cells = row.split(",")
        cells[:3] = str(k), str(time), str(300 if time < 800 else 400)
        lines.append(",".join(cells))
    (run / "thermo.csv").write_text("\n".join(lines) + "\n")
    record = read_record(run)
    figures = dict(figures_of(record))
    # 550 to 1100 fs, of which 250 are cold; by rows the mean would be 400 K.
    assert float(figures["temperature"].split()[0]) == pytest.approx(354.5, abs=3)


def test_pressures_that_are_nan_are_shown_as_they_are(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run")
    header, *rows = (run / "thermo.csv").read_text().splitlines()
    column = header.split(",").index("pressure_gpa")
    cells = [row.split(",") for row in rows]
    lines = [",".join([*row[:column], "nan", *row[column + 1 :]]) for row in cells]
    (run / "thermo.csv").write_text("\n".join([header, *lines]) + "\n")
    page = Page(write_report(run))
    assert "pressurenan GPa" in page.text
    assert page.data["charts"][2]["curves"][0]["y"][0] is None


def test_settings_that_are_no_numbers_are_shown_as_they_are(npt_run, tmp_path):
    settings = {"ensemble": "npt", "temperature_K": "hot", "pressure_gpa": None, "timestep_fs": []}
    run = copy_of(npt_run, tmp_path / "run", settings=settings, n_atoms="many", formula=None)
    page = Page(write_report(run))
    assert "hot K" in page.text
    assert page.data["charts"][0]["lines"] == []


def test_positions_that_are_nan_are_said(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run")
    frames = ase.io.read(run / "trajectory.traj", ":")
    frames[3].positions[1] = np.nan
    ase.io.write(run / "trajectory.traj", frames)
    assert "are NaN or infinite" in Page(write_report(run)).text


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no folder of a run: there is no readable manifest"):
        write_report(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        write_report(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "train"}')
    with pytest.raises(ConfigError, match="is not of a run of eqcalc md or relax"):
        write_report(tmp_path)


def test_further_columns_of_the_table_have_charts_with_their_units():
    n = 30
    time = np.arange(n) * 10.0
    table = {
        name: np.linspace(1, 2, n)
        for name in ("temperature_K", "potential_energy_eV", "total_energy_eV", "spread_eV_per_A")
    }
    table |= {"time_fs": time, "step": time, "constant_A": np.ones(n)}
    table["audit_force_eV_per_A"] = np.where(np.arange(n) % 10 == 0, 1e-5 * time, np.nan)
    charts = md_charts(table, 5, goal_K=None, goal_gpa=None)
    found = {(chart["title"], chart["unit"]) for chart in charts}
    assert {("spread", "eV/Å"), ("audit force", "eV/Å")} <= found
    assert "constant" not in {chart["title"] for chart in charts}
    audit = next(chart for chart in charts if chart["title"] == "audit force")
    assert audit["curves"][0]["y"][1] is None


def ramp_table(n: int = 40) -> dict[str, np.ndarray]:
    """Return what the log of a run with ramps and a changing cell holds."""
    time = np.arange(n) * 10.0
    table = {
        "time_fs": time,
        "step": time,
        "temperature_K": 300 + time,
        "potential_energy_eV": time,
        "total_energy_eV": time,
        "volume_A3": 100 + 0.01 * time,
        "pressure_gpa": 0.1 * time,
        "density_g_per_cm3": 8 - 0.001 * time,
        "target_temperature_K": 300 + time,
        "target_pressure_gpa": 0.1 * time,
    }
    table |= {f"{name}_A": 5 + 0.001 * time for name in "abc"}
    return table | {f"{name}_deg": np.full(n, 90.0) for name in ("alpha", "beta", "gamma")}


def test_targets_that_change_are_curves_and_edges_share_a_chart():
    charts = md_charts(ramp_table(), 4, goal_K=300.0, goal_gpa=0.0)
    found = {chart["title"]: [curve["name"] for curve in chart["curves"]] for chart in charts}
    assert found == {
        "temperature": ["", "running mean", "target"],
        "change of energy": ["potential", "total"],
        "pressure": ["", "running mean", "target"],
        "density": ["", "running mean"],
        "edges of the cell": ["a", "b", "c"],
    }
    assert charts[0]["lines"] == []


def test_audits_and_alarms_are_told(npt_run, tmp_path):
    alarms = [
        {"step": 40 + k, "guard": "force", "reason": "big <b>", "action": "queue"}
        for k in range(11)
    ]
    guards = {"watched": {"force": 50.0}, "queued": 3, "alarms": alarms}
    run = copy_of(npt_run, tmp_path / "run", guards=guards)
    (run / "audit.csv").write_text(
        "step,time_fs,energy_error_meV_per_atom,force_error_eV_per_A,slope_error_eV_per_A,"
        "net_force_eV_per_A,net_torque_eV,stress_error_gpa,passed\n"
        "50,200,1e-4,1e-6,1e-5,1e-7,nan,1e-5,1\n100,400,2e-4,2e-6,2e-5,1e-7,nan,1e-5,0\n"
    )
    page = Page(write_report(run))
    titles = {chart["title"]: chart for chart in page.data["charts"]}
    assert titles["self-audit: forces"]["log"] is True
    assert len(titles["self-audit: forces"]["curves"]) == 3
    assert titles["self-audit: energy error"]["unit"] == "meV/atom"
    assert "1 of 2 passed" in page.text.replace("passed", " passed").replace("  ", " ")
    assert "The self-audit of step 100 failed." in page.text
    assert "Step 40: big <b> (queue)." in page.text
    assert "There were 3 further alarms" in page.text


def test_damaged_table_of_audits_is_a_note(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run")
    (run / "audit.csv").write_text("step,time_fs,passed\n1,what,3\n")
    assert "is no table of a run" in Page(write_report(run)).text


def test_long_table_is_thinned_without_losing_a_spike():
    n = 100_000
    time = np.arange(n) * 1.0
    temperature = 300 + np.sin(time)
    temperature[54_321] = 5000.0
    energy = np.zeros(n)
    table = {
        "time_fs": time,
        "temperature_K": temperature,
        "potential_energy_eV": energy,
        "total_energy_eV": energy,
    }
    curve = md_charts(table, 5, goal_K=300.0, goal_gpa=None)[0]["curves"][0]
    assert len(curve["x"]) <= 1202
    assert curve["y"][curve["x"].index(54.321)] == 5000.0
    assert curve["x"][-1] == pytest.approx(99.999)


def test_hot_moment_and_wrong_temperature_are_doubts(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run")
    header, *rows = (run / "thermo.csv").read_text().splitlines()
    rng = np.random.default_rng(0)
    lines = [header]
    for k, row in enumerate(rows * 10):
        cells = row.split(",")
        cells[0], cells[1] = str(4 * k), str(16.0 * k)
        cells[2] = str(4000.0 if k == 200 else 500 + rng.normal())
        lines.append(",".join(cells))
    (run / "thermo.csv").write_text("\n".join(lines) + "\n")
    text = Page(write_report(run)).text
    assert re.search(r"mean temperature of 5\d\d ± \d+ K where 300 K were set", text)
    assert "The temperature reached 4000 K at 3.2 ps" in text


def test_a_temperature_away_from_that_where_a_ramp_has_ended_is_a_doubt(npt_run):
    record = read_record(npt_run)
    n_rows = len(record.table["time_fs"])
    goal = np.minimum(300.0 + 20.0 * np.arange(n_rows), 400.0)  # from row 5 on
    rising = np.linspace(300.0, 400.0, n_rows)
    noise = np.random.default_rng(0).normal(size=n_rows)
    for targets, mean, is_doubted in ((goal, 400, False), (goal, 360, True), (rising, 360, False)):
        record.table |= {"target_temperature_K": targets, "temperature_K": mean + noise}
        found = [text for _, text in doubts_of(record) if "where 400 K were set" in text]
        assert len(found) == is_doubted


def test_means_of_a_ramp_have_no_errors_and_are_said_to_be_of_one(npt_run):
    record = read_record(npt_run)
    n_rows = len(record.table["time_fs"])
    held = {"target_pressure_gpa": np.minimum(np.arange(n_rows) / 4.0, 2.0)}  # since row 8
    rising = {"target_temperature_K": np.linspace(300.0, 600.0, n_rows)}
    for targets, is_ramped in (({}, False), (held, False), (rising, True)):
        record.table = read_record(npt_run).table | targets
        values = [value for name, value in figures_of(record) if name in ("temperature", "density")]
        assert [" ± " in value for value in values] == [not is_ramped] * 2
        found = [text for _, text in doubts_of(record) if "of a ramp" in text]
        assert len(found) == is_ramped


@pytest.mark.parametrize(("hottest", "n_doubts"), [(3400.0, 0), (9000.0, 1)])
def test_what_chance_heats_three_degrees_of_freedom_to_is_no_hot_moment(npt_run, hottest, n_doubts):
    """A diatomic molecule at 300 K gets to 3400 K in one row of a million or so."""
    record = read_record(npt_run)
    record.manifest["degrees_of_freedom"] = 3
    record.table["temperature_K"] = np.full(len(record.table["time_fs"]), 300.0)
    record.table["temperature_K"][5] = hottest
    found = [text for _, text in doubts_of(record) if "temperature reached" in text]
    assert len(found) == n_doubts


def test_start_from_a_minimum_is_no_hot_moment(tmp_path):
    """Half of what the velocities bring goes into the bonds: 300 K become 150."""
    crystal = bulk("Cu", cubic=True) * (3, 2, 2)
    settings = MDSettings("nve", timestep_fs=4.0, n_steps=200, log_every=5)
    record = read_record(run_md(crystal, EMT(), settings, tmp_path / "run").folder)
    assert record.table["temperature_K"][20:].mean() < 170
    assert not any("temperature reached" in text for _, text in doubts_of(record))


@pytest.mark.parametrize(("hottest", "words"), [(1010, []), (1200, []), (1213, ["around 1000 K"])])
def test_cooling_down_is_no_hot_moment(npt_run, hottest, words):
    record = read_record(npt_run)
    record.manifest["degrees_of_freedom"] = 3000  # eight standard deviations of 1000 K are 207 K
    goal = np.linspace(1000.0, 200.0, len(record.table["time_fs"]))
    record.table |= {"target_temperature_K": goal, "temperature_K": goal.copy()}
    record.table["temperature_K"][1] = hottest
    found = [text for _, text in doubts_of(record) if "temperature reached" in text]
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_quiet_run_has_no_doubts(npt_run):
    record = read_record(npt_run)
    record.settings["temperature_K"] = float(record.table["temperature_K"][15:].mean())
    record.manifest["degrees_of_freedom"] = 93
    assert doubts_of(record) == []


def test_frames_are_thinned_to_a_few_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr("eqcalc.report.scene._MOST_BYTES", 20_000)
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    run_md(atoms, EMT(), MDSettings(n_steps=60, log_every=1), tmp_path / "run")
    with Trajectory(tmp_path / "run") as trajectory:
        scene = draw_scene(trajectory)
    assert scene.shown.tolist()[0] == 0
    assert scene.shown.tolist()[-1] == 60
    assert len(scene.content["positions"]) <= 20_000
    assert len(scene.shown) == 23


def test_large_structure_is_not_drawn_and_the_page_says_why(npt_run, tmp_path, monkeypatch):
    monkeypatch.setattr("eqcalc.report.scene.MOST_ATOMS", 20)
    page = Page(write_report(npt_run, tmp_path / "r.html"))
    assert page.data["scene"] is None
    assert "32 atoms are more than a browser turns" in page.text


def test_molecule_across_a_face_is_shown_whole_and_stays_within_the_cell():
    water = molecule("H2O", cell=[6, 6, 6], pbc=True)
    water.positions += [0, 0, 5.9] - water.positions[0]
    water.wrap()
    first = Wholes(water).place(water)
    lengths = np.linalg.norm(first[1:] - first[0], axis=1)
    np.testing.assert_allclose(lengths, 0.969, atol=0.01)
    wholes = Wholes(water)
    wholes.place(water)
    later = water.copy()
    later.positions += [100.0, -31.0, 7.0]  # as it diffuses
    shown = wholes.place(later)
    np.testing.assert_allclose(np.linalg.norm(shown[1:] - shown[0], axis=1), lengths, atol=1e-9)
    assert (np.abs(shown.mean(axis=0) - 3.0) < 4.0).all()


def test_atoms_of_a_crystal_on_a_face_do_not_jump():
    copper = bulk("Cu", cubic=True) * (2, 2, 2)
    wholes = Wholes(copper)
    first = wholes.place(copper)
    moved = copper.copy()
    moved.positions -= 0.05
    np.testing.assert_allclose(wholes.place(moved), first - 0.05, atol=1e-9)


def test_molecule_that_comes_apart_is_put_back_atom_by_atom():
    hydrogen = Atoms("H2", [[1, 1, 1], [1, 1, 1.74]], cell=[8, 8, 8], pbc=True)
    wholes = Wholes(hydrogen)
    wholes.place(hydrogen)
    hydrogen.positions[1, 2] += 43.0
    shown = wholes.place(hydrogen)
    assert ((shown >= 0) & (shown < 8)).all()


def test_headline_names_the_timestep_that_a_guard_halved(npt_run, tmp_path):
    run = copy_of(npt_run, tmp_path / "run", guards={"halvings": 1, "timestep_fs": 0.25})
    assert headline_of(read_record(run)).endswith(" fs steps, halved to 0.25 by a guard")
