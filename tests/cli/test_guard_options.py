"""Guard rails on the command line: what is asked for, said, refused and left behind."""

import inspect
import json
from dataclasses import fields
from pathlib import Path

import ase.io
import pytest
from command_line import run

from eqcalc.cli.guard_options import _SETTINGS, chosen_guards
from eqcalc.cli.md import md
from eqcalc.cli.relax import relax
from eqcalc.errors import ConfigError
from eqcalc.simulate import GuardSettings

ETHANOL = Path(__file__).parents[2] / "examples" / "ethanol.xyz"
COMMON = ("--engine", "torchscript", "-m", "painn-ethanol")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_options_of_the_verbs_are_settings():
    known = {field.name for field in fields(GuardSettings)}
    assert set(_SETTINGS.values()) <= known
    of_md, of_relax = (set(inspect.signature(verb).parameters) for verb in (md, relax))
    assert {*_SETTINGS, "no_guards"} <= of_md
    dynamic = {"max_temperature", "max_drift", "max_roll_backs"}
    assert {*_SETTINGS, "no_guards"} & of_relax == {*_SETTINGS, "no_guards"} - dynamic


def test_options_that_are_not_given_keep_the_defaults():
    parameters = dict.fromkeys(_SETTINGS)
    assert chosen_guards({**parameters, "no_guards": False}) == GuardSettings()
    assert chosen_guards({**parameters, "no_guards": True}) == GuardSettings.off()
    with pytest.raises(ConfigError, match="--no-guards turns off what max_force would change"):
        chosen_guards({**parameters, "no_guards": True, "max_force": 3.0})


def test_number_of_roll_backs_needs_something_that_goes_back():
    parameters = {**dict.fromkeys(_SETTINGS), "no_guards": False, "max_roll_backs": 2}
    with pytest.raises(ConfigError, match="--max-roll-backs goes with --on-alarm or --on-doubt"):
        chosen_guards(parameters)
    for action in ({"on_alarm": "roll-back"}, {"on_doubt": "halve"}):
        assert chosen_guards(parameters | action).max_roll_backs == 2


def test_run_says_what_is_watched_and_what_is_not(folder, capsys):
    assert run("md", ETHANOL, *COMMON, "-n", 20, "-e", "nve", "--audit-every", 10) == 0
    out = capsys.readouterr().out
    assert "guards: distance, force, temperature, drift" in out
    assert "self-audit every 10 steps" in out
    assert "self-audits 2 passed" in " ".join(out.split())
    assert (folder / "ethanol-md" / "audit.csv").read_text().count("\n") == 3
    assert run("md", ETHANOL, *COMMON, "-n", 5, "-o", "short", "--audit-every", 10) == 0
    assert "no self-audit before step 10" in capsys.readouterr().out


def test_run_without_guards_leaves_no_files_of_theirs(folder, capsys):
    assert run("md", ETHANOL, *COMMON, "-n", 20, "--no-guards") == 0
    assert "guards: nothing\n" in capsys.readouterr().out
    assert not (folder / "ethanol-md" / "audit.csv").exists()
    assert not (folder / "ethanol-md" / "queued.extxyz").exists()


def test_exploding_run_is_stopped_and_says_why(folder, capsys):
    assert run("md", ETHANOL, *COMMON, "-n", 500, "-t", 4, "-e", "nve") == 2
    err = capsys.readouterr().err
    assert "error: stopped at step" in err
    assert "queued.extxyz" in err
    assert manifest(folder / "ethanol-md")["status"] == "failed"


def test_run_that_halves_its_timestep_says_so_at_once_and_at_the_end(folder, capsys):
    assert run("md", ETHANOL, *COMMON, "-n", 100, "-t", 4, "--on-alarm", "halve") == 0
    out, err = capsys.readouterr()
    assert "guard: step " in out + err
    assert "(going back, with half the timestep)" in out + err
    assert "guard: back to step 0" in out + err
    timestep = manifest(folder / "ethanol-md")["guards"]["timestep_fs"]
    assert f"100 of {timestep:g} fs, {timestep / 10:g} ps" in " ".join(out.split())
    assert f"the timestep is {timestep:g} fs now" in out
    assert "frame" in out
    assert "queued.extxyz" in out


def test_resumed_run_keeps_its_guards(folder, capsys):
    words = ("--max-force", 50, "--on-alarm", "roll-back")
    assert run("md", ETHANOL, *COMMON, "-n", 20, *words) == 0
    assert run("md", "--resume", "ethanol-md", "--steps", 40) == 0
    kept = manifest(folder / "ethanol-md")["settings"]["guards"]
    assert (kept["max_force"], kept["on_alarm"]) == (50, "roll-back")
    assert run("md", "--resume", "ethanol-md", "--steps", 60, "--max-force", 9) == 2
    assert "--max-force does not go together with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-force", -1), "--max-force must be a number above 0"),
        (("--on-alarm", "rollback"), "--on-alarm must be one of stop, halve, roll-back, queue"),
        (("--max-drift", 1), "watches what an ensemble conserves"),
    ],
)
def test_options_that_make_no_sense_are_refused(words, message, folder, capsys):
    assert run("md", ETHANOL, *COMMON, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "ethanol-md").exists()


def test_relaxation_from_bad_contacts_is_no_alarm(folder, capsys):
    """It is what relaxations are for: what the first structure has is not held against it."""
    atoms = ase.io.read(ETHANOL)
    o = int(atoms.symbols.search("O")[0])
    distances = atoms.get_distances(o, range(9))
    h = next(int(k) for k in distances.argsort() if atoms.symbols[int(k)] == "H")
    atoms.set_distance(int(o), h, 0.75, fix=0)
    atoms.write("close.xyz")
    run("relax", "close.xyz", *COMMON, "-n", 30, "--max-force", 5)
    found = manifest(folder / "close-relax")
    assert found["status"] == "complete"
    assert found["guards"]["alarms"] == []
    assert found["guards"]["watched"] == ["distance", "force", "range"]


def test_relaxation_is_audited(folder, capsys):
    assert run("relax", ETHANOL, *COMMON, "--audit-every", 20, "--fmax", 0.02) == 0
    assert "self-audits" in capsys.readouterr().out
    assert manifest(folder / "ethanol-relax")["guards"]["audits_passed"] > 0
