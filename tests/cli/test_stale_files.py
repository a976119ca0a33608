"""What a verb replaces leaves nothing behind that was true of the older run alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import run

from eqcalc.errors import OutputError
from eqcalc.files import remove_files
from eqcalc.simulate.run_folder import RunFolder


def files_of(run_folder: Path) -> set[str]:
    return {str(p.relative_to(run_folder)) for p in run_folder.rglob("*") if p.is_file()}


def files_with_everything(words: tuple[object, ...], made: Path) -> set[str]:
    """Run, and let every verb that looks at a run leave there what it leaves by default."""
    assert run(*words) == 0
    assert run("report", made) == 0
    assert run("analyse", made, "--rdf", "--volume", 1000) == 0
    found = files_of(made)
    assert {"report.html", "analysis/rdf.csv", "analysis/analysis.json"} <= found
    return found


@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
def test_overwriting_a_run_of_dynamics_leaves_nothing_of_the_older_one(suffix, folder):
    """Also where the new one writes less: another format, no page, and nothing is analysed."""
    words = ("md", "ethanol.xyz", "-n", 60, "-t", 0.5)
    made = folder / "ethanol-md"
    files_with_everything((*words, "--format", suffix), made)
    assert run(*words, "--overwrite", "--no-report") == 0
    new = files_of(made)
    assert run(*words, "--no-report", "-o", "fresh") == 0
    assert new == files_of(folder / "fresh")


def test_overwriting_a_relaxation_leaves_nothing_of_the_older_one(folder):
    words = ("relax", "ethanol.xyz", "--fmax", 0.5)
    files_with_everything(words, folder / "ethanol-relax")
    assert run(*words, "--overwrite") == 0
    assert run(*words, "-o", "fresh") == 0
    assert files_of(folder / "ethanol-relax") == files_of(folder / "fresh")


def test_run_that_goes_on_takes_away_what_was_made_of_its_first_part(folder):
    words = ("md", "ethanol.xyz", "-n", 60)
    made = folder / "ethanol-md"
    files_with_everything(words, made)
    assert run("md", "--resume", made, "--steps", 80, "--no-report") == 0
    assert not (made / "report.html").exists()
    assert not (made / "analysis").exists()


def test_files_of_a_user_stay_and_are_named(folder, capsys):
    words = ("md", "ethanol.xyz", "-n", 60)
    made = folder / "ethanol-md"
    files_with_everything(words, made)
    (made / "notes.txt").write_text("mine")
    (made / "analysis" / "mine.csv").write_text("mine")
    assert run("convert", made, "-o", made / "run.xyz") == 0
    capsys.readouterr()
    assert run(*words, "--overwrite") == 0
    expected = "also holds analysis, notes.txt, run.xyz, which the run leaves alone"
    assert expected in " ".join(capsys.readouterr().out.split())
    assert files_of(made) >= {"notes.txt", "analysis/mine.csv", "run.xyz"}
    assert not (made / "analysis" / "rdf.csv").exists()


def test_new_run_beside_files_of_a_user_says_nothing(folder, capsys):
    made = folder / "ethanol-md"
    made.mkdir()
    (made / "notes.txt").write_text("mine")
    assert run("md", "ethanol.xyz", "-n", 20) == 0
    assert "also holds" not in capsys.readouterr().out


def test_page_that_cannot_be_removed_is_named(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"cannot remove '.*report\.html'"):
        remove_files(tmp_path, ["nothing", "report.html"])
    with pytest.raises(OutputError, match=r"cannot remove '.*report\.html'"):
        RunFolder(tmp_path).claim()


def test_no_verb_writes_a_file_of_a_run(folder, capsys):
    """A run would take it for its own: its trajectory would be cut, or gone on with, in it."""
    assert run("md", "ethanol.xyz", "-n", 20) == 0
    made = folder / "ethanol-md"
    before = {path: path.read_bytes() for path in made.iterdir() if path.is_file()}
    target = made / "trajectory.xyz"
    for words in (
        ("convert", made, "-o", target),
        ("energy", "ethanol.xyz", "-o", target),
        ("data", "convert", made / "trajectory.traj", target),
        ("select", made, "-m", "a.pt", "-m", "b.pt", "-o", target),
        ("report", made, "-o", target),
        ("nbody", target),
        ("data", "summary", made / "trajectory.traj", "--json", target),
    ):
        assert run(*words, "--overwrite") == 2
        assert "trajectory.xyz' would be a file of the run in" in capsys.readouterr().err, words
    assert {path: path.read_bytes() for path in made.iterdir() if path.is_file()} == before
