"""Several models as a committee at the command line: md and its log, evaluate, select."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from command_line import run
from small_models import ETHANOL_FRAMES, ethanol

from eqcalc import EqCalculator
from eqcalc.simulate.thermo import read_table


@pytest.fixture
def folder(tmp_path, monkeypatch, models) -> Path:
    """Return a working directory with ethanol and the models a.pt and b.pt."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("ethanol.xyz", ethanol())
    for name, model in (("a.pt", "double"), ("b.pt", "other")):
        Path(name).write_bytes(models[model].read_bytes())
    return tmp_path


def md(*words: object) -> int:
    """Run dynamics of the committee in a folder ``run``, of steps that random models survive."""
    some = ("-t", 0.01, "-T", 50, "--log-every", 2, "--no-report", "-o", "run")
    return run("md", "ethanol.xyz", "-m", "a.pt", "-m", "b.pt", *some, *words)


def test_md_of_a_committee_logs_and_tells_its_spread(folder, capsys):
    assert md("-n", 6, "--json") == 0
    told = json.loads(capsys.readouterr().out)["spread"]
    table = read_table(Path("run/thermo.csv"))
    frames = ase.io.read("run/trajectory.traj", ":")
    committee = EqCalculator(["a.pt", "b.pt"])
    for k, frame in enumerate(frames):
        forces = np.linalg.norm(committee.get_property("forces_spread", frame), axis=1)
        assert table["max_force_spread_eV_per_A"][k] == pytest.approx(forces.max(), rel=1e-9)
        energy = committee.get_property("energy_spread", frame)
        assert table["energy_spread_eV"][k] == pytest.approx(energy, rel=1e-9)
    largest = table["max_force_spread_eV_per_A"].argmax()
    assert told["at_step"] == table["step"][largest]
    assert told["max_force_spread_eV_per_A"] == table["max_force_spread_eV_per_A"][largest]
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert [Path(each["path"]).name for each in manifest["model"]["members"]] == ["a.pt", "b.pt"]


def test_energy_of_a_committee_says_its_spread(folder, capsys):
    words = ("energy", "ethanol.xyz", "-m", "a.pt", "-m", "b.pt")
    assert run(*words, "-o", "both.xyz") == 0
    committee = EqCalculator(["a.pt", "b.pt"])
    forces = committee.get_property("forces_spread", ethanol())
    spread = committee.get_property("energy_spread", ethanol())
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "C2H6O" in line][-1:]
    assert row.split()[-2:] == [f"{spread:.4f}", f"{np.linalg.norm(forces, axis=1).max():.4f}"]
    frame = ase.io.read("both.xyz")
    assert frame.info["energy_spread"] == pytest.approx(spread, rel=1e-9)
    np.testing.assert_allclose(frame.arrays["forces_spread"], forces, atol=1e-7)
    assert run(*words, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["frames"]
    assert told["energy_spread_eV"] == pytest.approx(spread, rel=1e-9)
    np.testing.assert_allclose(told["forces_spread_eV_per_A"], forces, atol=1e-12)
    # What a committee said is not said again of a single model.
    assert run("energy", "both.xyz", "-m", "a.pt", "-o", "one.xyz") == 0
    frame = ase.io.read("one.xyz")
    assert "energy_spread" not in frame.info
    assert "forces_spread" not in frame.arrays


def test_md_of_a_committee_goes_on_bit_for_bit(folder, capsys):
    assert md("-n", 8) == 0
    assert "force spread" in capsys.readouterr().out
    whole = Path("run/thermo.csv").read_bytes()
    assert md("-n", 4, "--overwrite") == 0
    assert run("md", "--resume", "run", "-n", 8, "--no-report") == 0
    assert Path("run/thermo.csv").read_bytes() == whole


def test_md_of_one_model_has_no_spread(folder, capsys):
    words = ("-t", 0.01, "-T", 50, "-n", 2, "--no-report", "--json")
    assert run("md", "ethanol.xyz", "-m", "a.pt", *words) == 0
    assert json.loads(capsys.readouterr().out)["spread"] is None
    assert not any("spread" in name for name in read_table(Path("ethanol-md/thermo.csv")))


def test_md_of_a_model_twice_is_refused(folder, capsys):
    assert run("md", "ethanol.xyz", "-m", "a.pt", "-m", "a.pt", "-n", 2) == 2
    assert "their spread is zero whatever their error is" in capsys.readouterr().err.replace(
        "\n", " "
    )
    assert not Path("ethanol-md").exists()


# --- evaluate ----------------------------------------------------------------------------


def test_evaluate_of_a_committee_writes_its_calibration(folder, capsys):
    assert run("evaluate", "a.pt", "b.pt", ETHANOL_FRAMES, "-o", "out") == 0
    said = capsys.readouterr().out
    assert "of 2 members (degrees of freedom: 1) a calibrated spread" in said
    assert "spread of" in said
    content = json.loads(Path("out/errors.json").read_text())
    assert len(content["members"]) == 2
    forces = content["calibration"]["forces"]
    assert forces["n"] == 6 * 27
    assert 0 <= forces["within_1"] <= forces["within_2"] <= 1
    assert forces["within_2_expected"] == pytest.approx(0.70483, abs=1e-5)
    lines = Path("out/calibration.csv").read_text().splitlines()
    assert lines[0] == "quantity,unit,n,rms_spread,rms_error"
    assert sum(int(line.split(",")[2]) for line in lines if line.startswith("forces")) == 162
    assert Path("out/calibration.png").read_bytes().startswith(b"\x89PNG")
    assert run("evaluate", "a.pt", "b.pt", ETHANOL_FRAMES, "-o", "out") == 2
    assert "calibration.csv" in capsys.readouterr().err
    assert run("evaluate", "a.pt", ETHANOL_FRAMES, "-o", "out", "--overwrite") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["errors.json", "parity.png"]


def test_evaluate_of_a_committee_as_json_has_members_and_mean(folder, capsys):
    assert run("evaluate", "a.pt", ETHANOL_FRAMES, "--json") == 0
    alone = json.loads(capsys.readouterr().out)
    assert "calibration" not in alone
    assert run("evaluate", "a.pt", "b.pt", ETHANOL_FRAMES, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["members"][0] == alone["errors"]
    assert found["errors"] != alone["errors"]


def test_evaluate_of_a_model_twice_is_refused(folder, capsys):
    assert run("evaluate", "a.pt", "a.pt", ETHANOL_FRAMES) == 2
    assert "needs different models" in capsys.readouterr().err.replace("\n", " ")


# --- select ------------------------------------------------------------------------------


def select(*words: object) -> int:
    """Select from the committee's run and from the frames of ethanol."""
    return run("select", "run", ETHANOL_FRAMES, "-m", "a.pt", "-m", "b.pt", *words)


def test_select_writes_frames_with_their_source_and_step(folder, capsys):
    assert md("-n", 6) == 0
    capsys.readouterr()
    assert select("-n", 5, "--min-distance", 0.001, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    frames = ase.io.read("selected.xyz", ":")
    assert found["frames"] == 4 + 1 + 6  # one was queued by a guard: random models disagree
    assert len(frames) == len(found["selected"]) == 5
    sources = {Path(frame.info["source_file"]).name for frame in frames}
    assert ETHANOL_FRAMES.name in sources
    of_run = [frame for frame in frames if "trajectory" in frame.info["source_file"]]
    assert of_run
    written = ase.io.read("run/trajectory.traj", ":")
    for frame in of_run:
        same = written[frame.info["source_frame"]]
        np.testing.assert_allclose(frame.positions, same.positions, atol=1e-7)
        assert frame.info["source_step"] == same.info["step"]
    assert select("-n", 5) == 2
    assert "'selected.xyz' exists; pass --overwrite" in capsys.readouterr().err.replace("\n", " ")


def test_select_keeps_the_charge_and_replaces_nothing_that_it_reads(folder, capsys):
    frames = ase.io.read(ETHANOL_FRAMES, ":")
    for frame in frames:
        frame.info.update(charge=1, note="of mine")
    ase.io.write("cations.xyz", frames)
    words = ("select", "cations.xyz", "-m", "a.pt", "-m", "b.pt", "-n", 2)
    before = Path("cations.xyz").read_bytes()
    assert run(*words, "-o", "cations.xyz", "--overwrite") == 2
    assert run(*words, "-o", "ethanol.xyz", "--overwrite", "--known", "ethanol.xyz") == 2
    assert capsys.readouterr().err.count("is one of the files that are read") == 2
    assert Path("cations.xyz").read_bytes() == before
    assert run(*words) == 0
    for frame in ase.io.read("selected.xyz", ":"):
        assert frame.info["charge"] == 1
        assert not {"energy", "note"} & set(frame.info)


def test_select_leaves_out_frames_that_have_labels(folder, capsys):
    assert md("-n", 2) == 0
    assert select("-n", 4, "--known", ETHANOL_FRAMES, "--known", "ethanol.xyz") == 1
    assert "no frame is worth a label" in capsys.readouterr().out
    assert not Path("selected.xyz").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data.xyz -m a.pt -n 1", "select needs a committee: two models or more"),
        ("data.xyz -n 1", "each with --model, trained with different seeds or on different data"),
        ("data.xyz -m a.pt -m b.pt -n 50", "--frames asks for 50 frames, and there are 6"),
        ("data.xyz -m a.pt -m b.pt -n 0", "--frames must be an integer >= 1"),
        ("data.xyz -m a.pt -m b.pt -n 1 -o out.traj", "its name must end in .xyz"),
        ("nothing.xyz -m a.pt -m b.pt -n 1", "no structure file 'nothing.xyz'"),
        (". -m a.pt -m b.pt -n 1", "holds no trajectory of a run"),
    ],
)
def test_select_refuses_what_it_cannot_choose_from(folder, capsys, words, message):
    Path("data.xyz").write_bytes(ETHANOL_FRAMES.read_bytes())
    assert run("select", *words.split()) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("selected.xyz").exists()


# --- verbs that take the mean ------------------------------------------------------------


def test_energy_of_several_models_is_their_mean(folder, capsys):
    found = []
    for words in ("-m a.pt", "-m b.pt", "-m a.pt -m b.pt"):
        assert run("energy", "ethanol.xyz", *words.split(), "--json") == 0
        found.append(json.loads(capsys.readouterr().out)["frames"][0]["energy_eV"])
    assert found[2] == pytest.approx((found[0] + found[1]) / 2, abs=1e-9)
    assert abs(found[0] - found[1]) > 1e-3


def test_relax_takes_several_models_and_says_which(folder):
    some = ("--steps", 1, "-o", "relaxed")
    assert run("relax", "ethanol.xyz", "-m", "a.pt", "-m", "b.pt", *some) == 1  # one step
    manifest = json.loads(Path("relaxed/manifest.json").read_text())
    assert len(manifest["model"]["members"]) == 2
