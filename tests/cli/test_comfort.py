"""What every command line is expected to do: quiet, JSON, ASCII terminals, completion."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixBondLength
from ase.units import GPa
from command_line import run
from small_models import ETHANOL_FRAMES, crystal, ethanol

from eqcalc import EqCalculator, available_models
from eqcalc.cli import encoding
from eqcalc.cli.console import begin, has_lost_reader, note, print_json, say, working
from eqcalc.cli.data_options import EnergyKey, EnergyUnit, TrustData
from eqcalc.cli.option_names import naming_options
from eqcalc.cli.options import MaxEdges, Overwrite, Structure
from eqcalc.cli.progress import StepProgress, print_line
from eqcalc.errors import ConfigError, OutputError
from eqcalc.simulate.single_points import single_points
from eqcalc.simulate.structures import read_structures
from eqcalc.simulate.writers import write_structures

ROOT = Path(__file__).parents[2]


def in_process(
    *words: object, cwd: Path, program: tuple[str, ...] = ("-m", "eqcalc"), **environment: str
) -> subprocess.CompletedProcess:
    """Run ``python -m eqcalc WORDS``; stdout and stderr are bytes."""
    return subprocess.run(
        [sys.executable, *program, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def folder(tmp_path, monkeypatch, models) -> Path:
    """Return a working directory with a molecule, a crystal and a model in double precision."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("molecule.xyz", ethanol())
    ase.io.write("crystal.xyz", crystal())
    Path("model.pt").write_bytes(models["double"].read_bytes())
    return tmp_path


def test_python_m_eqcalc_is_the_command_line(tmp_path):
    done = in_process("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout[:7]) == (0, b"eqcalc ")


@pytest.mark.parametrize(
    ("typed", "completed"), [("ener", b"energy"), ("md a.xyz --model pai", b"painn-ethanol")]
)
def test_shell_completion_knows_verbs_and_models(tmp_path, typed, completed):
    asked = {"_EQCALC_COMPLETE": "complete_bash", "COMP_WORDS": f"eqcalc {typed}"}
    done = in_process(cwd=tmp_path, **asked, COMP_CWORD=str(len(typed.split())))
    assert done.stdout.split() == [completed]


# --- quiet and JSON ----------------------------------------------------------------------


@pytest.mark.parametrize("words", ["-q md molecule.xyz -n 2", "md molecule.xyz -n 2 -q"])
def test_quiet_leaves_out_all_but_notes(folder, capsys, words):
    assert run(*words.split(), "-m", "model.pt") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("note: it was trained on ")
    assert captured.err.count("\n") == 1
    assert run("info") == 0  # the next call is not quiet any more
    assert "Shipped models:" in capsys.readouterr().out


def test_quiet_keeps_what_was_asked_for(folder, capsys):
    assert run("evaluate", "model.pt", ETHANOL_FRAMES, "--rows", "0:2", "-q") == 0
    out = capsys.readouterr().out
    assert out.startswith("quantity")
    assert "step" not in out


def test_md_as_json_is_one_object_and_the_rest_is_on_stderr(folder, capsys):
    assert run("md", "molecule.xyz", "-m", "model.pt", "-n", 4, "-e", "nve", "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["status"], found["steps"], found["folder"]) == ("complete", 4, "molecule-md")
    final = ase.io.read("molecule-md/final.xyz")
    assert found["energy_eV"] == pytest.approx(final.get_potential_energy(), abs=1e-6)
    assert found["cell"] is None
    assert "step 4/4" in captured.err


def test_relax_as_json_says_that_it_did_not_converge(folder, capsys):
    assert run("relax", "molecule.xyz", "-m", "model.pt", "-n", 1, "--json") == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["converged"], found["steps"]) == (False, 1)
    assert found["fmax_eV_per_A"] > 0.01
    assert "not converged after 1 steps" in captured.err


def test_relax_of_a_crystal_says_what_presses_on_its_cell(folder, capsys):
    ase.io.write("crystal.xyz", crystal())
    assert run("relax", "crystal.xyz", "-m", "model.pt", "-n", 1) == 1
    assert "GPa, in the cell as it was" in capsys.readouterr().out
    assert run("relax", "crystal.xyz", "-m", "model.pt", "-n", 1, "--overwrite", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    atoms = ase.io.read("crystal-relax/relaxed.xyz")
    atoms.calc = EqCalculator("model.pt", device="cpu")
    assert found["pressure_gpa"] == pytest.approx(-atoms.get_stress()[:3].mean() / GPa, rel=1e-4)
    assert found["cell"] is None


def test_summary_of_a_cell_with_vacuum_says_what_is_of_it(folder, capsys):
    full, slab = crystal(), crystal()
    slab.center(vacuum=7.0, axis=2)
    for atoms, has_vacuum in ((full, False), (slab, True)):
        ase.io.write("cell.xyz", atoms)
        assert run("relax", "cell.xyz", "-m", "model.pt", "-n", 1, "--overwrite") == 1
        out = capsys.readouterr().out
        assert ("in the cell as it was with its layer of vacuum" in out) == has_vacuum
        assert ("(--cell relaxes it)" in out) == (not has_vacuum)
        words = ("-m", "model.pt", "-n", 2, "--no-report", "--no-guards", "--overwrite")
        assert run("md", "cell.xyz", *words) == 0
        out = capsys.readouterr().out
        assert ("g/cm³, of the cell with its layer of vacuum" in out) == has_vacuum
    assert run("relax", "cell.xyz", "-m", "model.pt", "--cell", "--overwrite") == 2


def test_relax_of_a_cell_as_json_tells_forces_from_the_virial(folder, capsys):
    ase.io.write("crystal.xyz", crystal())
    run("relax", "crystal.xyz", "-m", "model.pt", "--cell", "--pressure", 50, "-n", 2, "--json")
    found = json.loads(capsys.readouterr().out)
    atoms = ase.io.read("crystal-relax/relaxed.xyz")
    largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
    assert found["fmax_eV_per_A"] == pytest.approx(largest, abs=1e-6)
    assert found["fmax"] > 2 * largest  # what presses on the cell counts too


@pytest.mark.parametrize("verb", ["relax", "md"])
def test_pressure_of_rigid_bonds_is_left_out_and_said(verb, folder, capsys):
    """Their virial is in no stress: what is left of it would be read as the pressure."""
    atoms = crystal()
    atoms.set_constraint(FixBondLength(0, 1))
    ase.io.write("rigid.traj", atoms)
    run(verb, "rigid.traj", "-m", "model.pt", "-n", 1, *["--no-guards"] * (verb == "md"))
    out = capsys.readouterr().out
    assert "note: the pressure is left out: forces that keep bonds rigid" in out
    assert "GPa" not in out
    run("relax", "rigid.traj", "-m", "model.pt", "-n", 1, "--overwrite", "--json")
    assert json.loads(capsys.readouterr().out)["pressure_gpa"] is None


def test_pressure_from_outside_is_said_in_bar(folder, capsys):
    ase.io.write("crystal.xyz", crystal())
    words = ("crystal.xyz", "-m", "model.pt", "-n", 2)
    npt = ("md", *words, "-e", "npt", "-t", 0.1, "--no-report")
    assert run(*npt, "--pressure", 0.01) == 0
    assert "pressure from outside: 0.01 GPa, that is 100 bar" in capsys.readouterr().out
    for first, line in (
        (0, "0 to 1 GPa, that is 0 to 10000"),
        (0.1, "0.1 to 1 GPa, that is 1000 "),
    ):
        ramp = ("--pressure", first, "--to-pressure", 1, "--overwrite")
        assert run(*npt, *ramp) == 0
        assert f"pressure from outside: {line}" in capsys.readouterr().out
    assert run("relax", *words, "--cell", "--pressure", 0.5) == 1
    assert "pressure from outside: 0.5 GPa, that is 5000 bar" in capsys.readouterr().out
    assert run(*npt, "--pressure", 1.01325, "-o", "other") == 2
    assert "is one atmosphere in bar" in capsys.readouterr().err


def test_evaluate_as_json_has_the_errors_of_its_file(folder, capsys):
    words = ("evaluate", "model.pt", ETHANOL_FRAMES, "--rows", "0:2", "--json", "-o", "there")
    assert run(*words) == 0
    found = json.loads(capsys.readouterr().out)
    written = json.loads(Path("there/errors.json").read_text())
    assert found["frames"] == 2
    assert found["errors"]
    assert found["errors"].items() <= written.items()


def test_an_error_with_json_leaves_stdout_empty(folder, capsys):
    assert run("md", "nowhere.xyz", "--json") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no structure file")


def test_json_holds_null_for_what_is_not_finite(capsys):
    begin()
    print_json({"a": float("nan"), "b": np.array([1.0, np.inf]), "c": [np.float64(2)], "Å": "Å"})
    found = json.loads(capsys.readouterr().out)
    assert found == {"a": None, "b": [1.0, None], "c": [2.0], "Å": "Å"}


# --- energy and models -------------------------------------------------------------------


def test_energy_writes_frames_with_labels_of_the_model(folder, capsys):
    first, second = ethanol(), crystal()
    first.info.update(energy=1.0, tag="kept")
    first.arrays["forces"] = np.ones((9, 3))  # of something else
    ase.io.write("both.xyz", [first, second])
    assert run("energy", "both.xyz", "-m", "model.pt", "-o", "out.xyz") == 0
    out = capsys.readouterr().out
    assert "p (GPa)" in out
    frames = ase.io.read("out.xyz", ":")
    assert frames[0].info["tag"] == "kept"
    for frame, atoms in zip(frames, (ethanol(), crystal()), strict=True):
        atoms.calc = EqCalculator("model.pt", device="cpu")
        assert frame.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(frame.get_forces(), atoms.get_forces(), atol=1e-6)
        assert f"{atoms.get_potential_energy():.6f}" in out
    np.testing.assert_allclose(frames[1].get_stress(), atoms.get_stress(), atol=1e-8)
    assert "stress" not in frames[0].calc.results
    assert run("energy", "both.xyz", "-m", "model.pt", "-o", "out.xyz") == 2
    assert "'out.xyz' exists; pass --overwrite" in capsys.readouterr().err


def test_energy_does_not_replace_what_it_reads(folder, capsys):
    before = Path("molecule.xyz").read_bytes()
    words = ("-m", "model.pt", "-o", "molecule.xyz", "--overwrite")
    assert run("energy", "molecule.xyz", *words) == 2
    assert "'molecule.xyz' is one of the files that are read" in capsys.readouterr().err
    assert Path("molecule.xyz").read_bytes() == before


def test_energy_as_json_has_the_rows_that_were_asked_for(folder, capsys):
    ase.io.write("three.xyz", [ethanol(), crystal(), ethanol()])
    assert run("energy", "three.xyz", "-m", "model.pt", "--rows", "1:3", "--json") == 0
    frames = json.loads(capsys.readouterr().out)["frames"]
    assert [frame["frame"] for frame in frames] == [1, 2]
    assert [len(frame["forces_eV_per_A"]) for frame in frames] == [8, 9]
    assert len(frames[0]["stress_eV_per_A3"]) == 6
    assert frames[1]["stress_eV_per_A3"] is None


def test_energy_takes_the_shipped_model_by_default(folder, capsys):
    assert run("energy", "molecule.xyz") == 0
    out = capsys.readouterr().out
    assert "model painn-ethanol: shipped" in out
    assert "step" not in out  # one frame needs no progress


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-o out.traj", "'out.traj' is to be an extxyz file; its name must end in .xyz."),
        ("--rows 0:9", "there are 1 rows"),
    ],
)
def test_energy_explains_a_wrong_option(folder, capsys, words, message):
    assert run("energy", "molecule.xyz", "-m", "model.pt", *words.split()) == 2
    assert message in capsys.readouterr().err
    assert not Path("out.traj").exists()


def test_single_points_name_the_frame_that_fails(folder):
    atoms = ethanol()
    atoms.positions[1] = atoms.positions[0]
    calculator = EqCalculator("model.pt", device="cpu")
    done = []
    with pytest.raises(ValueError, match=r"frame 33 of two\.xyz: "):
        single_points(
            [ethanol()] * 33 + [atoms], calculator, source="two.xyz", progress=done.append
        )
    assert done == [32]


def test_structures_of_a_file_are_read_in_order(folder):
    write_structures(Path("two.xyz"), [ethanol(), crystal()])
    assert [len(atoms) for atoms in read_structures("two.xyz")] == [9, 8]


def test_models_lists_what_is_shipped(capsys):
    assert run("models") == 0
    out = capsys.readouterr().out
    for name in available_models():
        assert f"{name}  " in out
    for part in ("elements      H, C, O", "4 Å", "meV/atom", "meV/Å", "CC0-1.0", "rMD17"):
        assert part in out
    assert run("models", "--json") == 0
    cards = json.loads(capsys.readouterr().out)["models"]
    assert [card["name"] for card in cards] == available_models()


def test_models_says_what_a_universal_model_was_trained_on(capsys):
    assert run("models") == 0
    _, _, universal = capsys.readouterr().out.partition("\nsevennet-0  ")
    assert "universal     PBE (+U), MPtrj; 89 elements; not good for molecules" in universal
    assert "trained on    not stated" not in universal


# --- cells that change -------------------------------------------------------------------


@pytest.mark.parametrize("words", ["md crystal.xyz -e npt -n 3 --pressure 1", "relax crystal.xyz"])
def test_summary_of_a_changing_cell_has_volume_density_pressure_cell(folder, capsys, words):
    options = ["-m", "model.pt", *["--cell", "-n", 2] * words.startswith("relax")]
    run(*words.split(), *options)
    out = capsys.readouterr().out
    for name, unit in (("volume", "Å³ ("), ("density", "g/cm³"), ("pressure", "GPa")):
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {name} ")]
        assert "→" in line
        assert unit in line
    assert re.search(
        r"^  cell at start +5\.1000 4\.7854 5\.4918 Å, 82\.96 96\.27 79\.16°$", out, re.M
    )
    assert re.search(r"^  cell at end +[\d. ]+ Å, [\d. ]+°$", out, re.M)
    assert run(*words.split(), *options, "--json", "--overwrite", "-o", "again") in (0, 1)
    cell = json.loads(capsys.readouterr().out)["cell"]
    atoms = crystal()
    assert cell["start"]["volume_A3"] == pytest.approx(atoms.get_volume())
    grams = atoms.get_masses().sum() * 1.66053907e-24
    assert cell["start"]["density_g_per_cm3"] == pytest.approx(
        grams / (atoms.get_volume() * 1e-24), rel=1e-6
    )
    assert cell["end"]["volume_A3"] != cell["start"]["volume_A3"]
    assert cell["end"]["cellpar"] != cell["start"]["cellpar"]


def test_relaxation_with_its_cell_is_not_said_to_have_that_force(folder, capsys):
    atoms = bulk("C", a=3.9, cubic=True)  # by symmetry no atom has a force
    ase.io.write("diamond.xyz", atoms)
    assert run("relax", "diamond.xyz", "-m", "model.pt", "--cell", "-n", 1) == 1
    out, err = capsys.readouterr()
    assert "  largest force or virial  " in out
    assert re.search(r"the largest force or virial is \S+ eV/Å or eV/atom and should be", err + out)
    assert run("relax", "diamond.xyz", "-m", "model.pt", "-n", 1, "--overwrite") == 0
    assert re.search(r"  largest force  +\S+ eV/Å\n", capsys.readouterr().out)


# --- errors by the names of options ------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("md molecule.xyz --log-every 0", "--log-every must be an integer >= 1"),
        ("md molecule.xyz -t -1", "--timestep must be a positive number"),
        ("md molecule.xyz --friction -1", "--friction must be a positive number"),
        ("md molecule.xyz -T -5", "the --temperature must be 0 K or more"),
        ("md molecule.xyz --skin=-1", "--skin must be zero or positive"),
        ("relax molecule.xyz --fmax 0", "--fmax must be a positive number"),
        ("relax molecule.xyz --pressure 1", "relax the cell too (--cell) or"),
        ("nbody out.npz --steps 150", "--steps must be a multiple of --save-every (100)"),
    ],
)
def test_errors_name_the_option(folder, capsys, words, message):
    assert run(*words.split(), *["-m", "model.pt"] * ("nbody" not in words)) == 2
    err = capsys.readouterr().err
    assert message in err
    for name in ("log_every", "timestep_fs", "friction_per_fs", "n_steps", "save_every"):
        assert name not in err


def test_only_arguments_are_renamed():
    text = "max_edges=20: 'max_edges' of a/max_edges, max_edges_of and structure must stay"

    def verb(structure: Structure, max_edges: MaxEdges = None) -> None:
        raise ConfigError(text)

    expected = "^--max-edges 20: 'max_edges' of a/max_edges, max_edges_of and structure must stay$"
    with pytest.raises(ConfigError, match=expected):
        naming_options(verb)(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Give energy_key = 'REF_energy', or", "Give --energy-key REF_energy, or"),
        ("or say trust_data = true to take", "or say --trust-data to take"),
        ("pass overwrite=True to replace it", "pass --overwrite to replace it"),
        ("pass energy_unit = 'kcal/mol'.", "pass --energy-unit kcal/mol."),
    ],
)
def test_what_a_message_tells_to_give_can_be_pasted(text, expected):
    def verb(
        data: Structure,
        energy_key: EnergyKey = None,
        energy_unit: EnergyUnit = None,
        trust_data: TrustData = False,
        overwrite: Overwrite = False,
    ) -> None:
        raise ConfigError(text)

    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        naming_options(verb)(None)


# --- terminals without Unicode -----------------------------------------------------------

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}


ALL = """\
import sys
from eqcalc.cli import main

for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as stop:
        print("left with", stop.code)
"""
WORDS = [
    "--help",
    "models",
    "info painn-ethanol",
    "info painn",
    "md molecule.xyz -n 2",
    "relax molecule.xyz -n 1",
    "relax crystal.xyz --cell -n 1 -m model.pt --json",
    "energy crystal.xyz -m model.pt",
    "energy \udcc3\udca9.xyz -o \udcc3\udcb6.xyz -m model.pt",
    f"evaluate painn-ethanol {ETHANOL_FRAMES} --rows 0:2 -o out",
]


def test_everything_prints_on_a_terminal_that_knows_ascii_alone(folder):
    atoms = ethanol()
    atoms.info["comment"] = "in Å"
    ase.io.write("molecule.xyz", atoms)
    ase.io.write("é.xyz", atoms)
    done = in_process(*WORDS, cwd=folder, program=("-c", ALL), **ASCII)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr
    codes = re.findall(rb"left with (\S+)", done.stdout)
    assert len(codes) == len(WORDS)
    assert set(codes) <= {b"0", b"1"}, codes  # 1: not converged
    name = b"\xc3\xb6.xyz"  # a file's name is printed as the bytes that it is
    assert name in done.stdout
    assert (done.stdout + done.stderr).replace(name, b"").isascii()
    assert Path("ö.xyz").exists()


def test_characters_that_a_stream_lacks_are_spelled_out(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    encoding.prepare_streams()
    print("1 → 2 Å³, 5 µs, 字", file=stream, flush=True)
    assert stream.buffer.getvalue() == b"1 -> 2 A^3, 5 us, ?\n"


def test_work_that_takes_a_while_is_announced_unless_quiet(capsys):
    begin()
    with working("compiling"):
        say("inside")
    note("after")
    captured = capsys.readouterr()
    assert captured.err == "compiling ...\n"
    assert captured.out == "inside\nafter\n"


class Closed(io.TextIOBase):
    """A stream that fails as one does whose reader is gone, or whose disk is full."""

    def __init__(self, number: int):
        self.number = number
        self.n_refused = 0

    def write(self, text: str) -> int:
        self.n_refused += 1
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


def test_pipe_that_nobody_reads_is_no_error_and_progress_says_so(monkeypatch):
    begin()
    monkeypatch.setattr(sys, "stdout", Closed(errno.EPIPE))
    say("lost")
    with pytest.raises(BrokenPipeError, match="nobody reads"):
        print_line("step 1/2")


def test_closed_terminal_takes_nothing_and_ends_nothing(monkeypatch):
    begin()
    closed = Closed(errno.EIO)
    monkeypatch.setattr(sys, "stdout", closed)
    say("lost")
    print_line("step 1/2")
    assert closed.n_refused == 2  # both were tried


@pytest.mark.skipif(not hasattr(select, "poll"), reason="needs poll")
def test_lost_reader_is_seen_before_anything_is_printed(monkeypatch):
    begin()
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        display = StepProgress("md", 100, line_every=50)
        display.show(0, "")
        display.show(1, "")
        os.close(read)
        with pytest.raises(BrokenPipeError, match="nobody reads"):
            display.show(2, "")
    with open(os.devnull, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert not has_lost_reader()  # it is no pipe


def test_output_on_a_full_disk_is_an_error(monkeypatch):
    begin()
    monkeypatch.setattr(sys, "stdout", Closed(errno.ENOSPC))
    with pytest.raises(OutputError, match=r"cannot print: No space left"):
        say("lost")
    with pytest.raises(OutputError, match=r"cannot print progress: No space left"):
        print_line("step 1/2")
