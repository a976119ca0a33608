"""Several models as a committee at the command line: md and its log."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from small_models import ethanol

from eqcalc import EqCalculator
from eqcalc.cli import main
from eqcalc.simulate.thermo import read_table


def run(*words: object) -> int:
    """Return the exit code of ``eqcalc WORDS``."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


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
