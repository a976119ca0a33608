"""eqcalc verify as a user types it: table, files, exit code, wrong inputs."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
import wrong_models as wrong
from command_line import run
from small_models import ethanol

from eqcalc.cli.progress import StepProgress

ETHANOL = str(Path(__file__).parents[2] / "examples" / "ethanol.xyz")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Return model files: a sound potential, and one with wrong forces."""
    folder = tmp_path_factory.mktemp("files")
    return {
        "sound": wrong.exported(wrong.Morse, folder),
        "wrong": wrong.exported(wrong.WrongForces, folder),
    }


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    ase.io.write(tmp_path / "ethanol.xyz", ethanol())
    return tmp_path


def test_sound_model_ends_with_0_and_leaves_json_and_picture(folder, files, capsys):
    assert run("verify", files["sound"], "ethanol.xyz") == 0
    out = capsys.readouterr().out
    assert "step 100/100  done" in out
    (header,) = (line for line in out.splitlines() if line.startswith("check "))
    assert header.split() == ["check", "measured", "allowed", "verdict"]
    assert "FAILED" not in out
    assert "  wrapping" in out
    assert "the structure is not periodic" in out
    assert max(map(len, out.splitlines()[1:])) <= 80
    made = folder / "Morse-verify"
    content = json.loads((made / "verify.json").read_text())
    assert content["passed"] is True
    assert (made / "verify.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_model_ends_with_1_and_says_what_failed(folder, files, capsys):
    assert run("verify", files["wrong"], "ethanol.xyz", "-o", "found", "-q") == 1
    out = capsys.readouterr().out
    assert "step 0/100" not in out
    failed = out[out.index("\nFAILED") :]
    assert "  forces: finite differences" in failed
    assert "  NVE: energy ripple ~ dt²" in failed
    assert "Forces are no derivative of the energy" in " ".join(failed.split())
    content = json.loads((folder / "found" / "verify.json").read_text())
    assert content["passed"] is False


def test_json_is_one_object_and_the_rest_is_on_stderr(folder, files, capsys):
    assert run("verify", files["wrong"], "--json") == 1
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert content["passed"] is False
    assert content["folder"] == "WrongForces-verify"
    assert "the first frame of the model's passport" in captured.err


def test_older_files_are_kept_unless_overwritten(folder, files, capsys):
    (folder / "Morse-verify").mkdir()
    (folder / "Morse-verify" / "verify.json").write_text("kept")
    assert run("verify", files["sound"]) == 2
    assert "verify.json' exists; pass --overwrite" in capsys.readouterr().err
    assert (folder / "Morse-verify" / "verify.json").read_text() == "kept"
    assert run("verify", files["sound"], "--overwrite", "-q") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-model"], "no-such-model"),
        (["sound", "missing.xyz"], "no structure file 'missing.xyz'"),
        (["sound", "xenon.xyz"], "Xe"),
        (["sound", "ethanol.xyz", "-o", "ethanol.xyz/below"], "cannot create"),
        (["gmn-nbody"], "is a learned dynamics (gmn), not a potential"),
    ],
)
def test_wrong_input_ends_with_2_and_its_reason(folder, files, capsys, words, message):
    (folder / "xenon.xyz").write_text("1\n\nXe 0 0 0\n")
    named = [files.get(word, word) for word in words]
    assert run("verify", *named, "-q") == 2
    assert message in capsys.readouterr().err
    assert not (folder / "Morse-verify").exists()


def test_closed_pipe_is_told_from_a_check_that_failed(folder, files, monkeypatch):
    def nobody_reads(display: StepProgress, step: int, values: str) -> None:
        raise BrokenPipeError(32, "nobody reads the output any more")

    monkeypatch.setattr(StepProgress, "show", nobody_reads)
    assert run("verify", files["sound"], "ethanol.xyz") == 141


def test_structure_of_several_frames_says_which_is_taken(folder, files, capsys):
    ase.io.write(folder / "two.xyz", [ethanol(), ethanol()])
    assert run("verify", files["sound"], "two.xyz") == 0
    assert "the last of 2 frames in two.xyz" in capsys.readouterr().out


def test_help_says_what_the_exit_codes_mean(capsys):
    assert run("verify", "--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Exit code 0: no check failed; 1: one failed" in out
