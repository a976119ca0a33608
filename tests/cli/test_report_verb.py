"""The verb report, and the page at the end of md: it never spoils the run."""

from __future__ import annotations

import json
import signal

import pytest
from command_line import run

import eqcalc.report
from eqcalc.cli.progress import StepProgress
from eqcalc.errors import OutputError


def test_md_writes_a_report_at_its_end_and_says_where(folder, capsys):
    assert run("md", "ethanol.xyz", "--steps", 20) == 0
    assert "report: ethanol-md/report.html\n" in capsys.readouterr().out
    text = (folder / "ethanol-md" / "report.html").read_text()
    assert "nequip-ethanol" in text


def test_no_report_leaves_it_out(folder, capsys):
    assert run("md", "ethanol.xyz", "--steps", 20, "--no-report") == 0
    assert "report" not in capsys.readouterr().out
    assert not (folder / "ethanol-md" / "report.html").exists()


def test_overwriting_a_run_removes_its_report(folder):
    assert run("md", "ethanol.xyz", "--steps", 20) == 0
    assert run("md", "ethanol.xyz", "--steps", 20, "--overwrite", "--no-report") == 0
    assert not (folder / "ethanol-md" / "report.html").exists()


def test_resuming_without_a_report_leaves_no_old_one(folder):
    assert run("md", "ethanol.xyz", "--steps", 20) == 0
    assert run("md", "--resume", "ethanol-md", "--steps", 40, "--no-report") == 0
    assert not (folder / "ethanol-md" / "report.html").exists()


def test_resumed_run_has_a_report_of_all_of_it(folder):
    assert run("md", "ethanol.xyz", "--steps", 20) == 0
    assert run("md", "--resume", "ethanol-md", "--steps", 40) == 0
    assert "1 times, after step 20" in (folder / "ethanol-md" / "report.html").read_text()


def test_refused_run_does_not_touch_the_report_of_the_older_one(folder):
    assert run("md", "ethanol.xyz", "--steps", 20) == 0
    page = folder / "ethanol-md" / "report.html"
    page.write_text("older")
    assert run("md", "ethanol.xyz", "--steps", 30) == 2
    assert page.read_text() == "older"


def test_run_that_a_signal_stops_has_a_report(folder, monkeypatch):
    show = StepProgress.show

    def send(self, step, values):
        show(self, step, values)
        if step == 10:  # not by a clock: before the run began it would end this process
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(StepProgress, "show", send)
    assert run("md", "ethanol.xyz", "--steps", 1_000_000, "-q") == 143
    assert "stopped early" in (folder / "ethanol-md" / "report.html").read_text()


@pytest.mark.parametrize("error", [OutputError("disk full"), MemoryError("none left")])
def test_report_that_cannot_be_written_is_a_note_and_the_run_a_success(
    folder, capsys, monkeypatch, error
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(eqcalc.report, "write_report", fail)
    assert run("md", "ethanol.xyz", "--steps", 20) == 0
    assert f"its report could not be written: {error}" in capsys.readouterr().out
    assert (folder / "ethanol-md" / "final.xyz").exists()


def test_stopping_while_the_report_is_written_leaves_the_run_a_success(folder, capsys, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(eqcalc.report, "write_report", stop)
    assert run("md", "ethanol.xyz", "--steps", 20) == 0
    assert "eqcalc report ethanol-md writes it" in capsys.readouterr().out


def test_report_verb_writes_the_page_where_it_is_told(folder, capsys):
    assert run("md", "ethanol.xyz", "--steps", 20, "--no-report") == 0
    capsys.readouterr()
    assert run("report", "ethanol-md", "--output", "page.html", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": "page.html"}
    assert (folder / "page.html").stat().st_size > 500_000


def test_report_replaces_no_file_that_is_there(folder, capsys):
    assert run("md", "ethanol.xyz", "--steps", 20, "--no-report") == 0
    (folder / "notes.txt").write_text("kept")
    assert run("report", "ethanol-md", "-o", "notes.txt") == 2
    assert "'notes.txt' exists; pass --overwrite" in capsys.readouterr().err
    assert (folder / "notes.txt").read_text() == "kept"
    assert run("report", "ethanol-md", "-o", "notes.txt", "--overwrite") == 0
    assert run("report", "ethanol-md") == run("report", "ethanol-md") == 0  # its own page


def test_report_of_no_run_is_refused(folder, capsys):
    assert run("report", "nowhere") == 2
    assert "'nowhere' is no folder of a run" in capsys.readouterr().err


def test_report_into_a_missing_folder_is_refused(folder, capsys):
    assert run("md", "ethanol.xyz", "--steps", 20, "--no-report") == 0
    assert run("report", "ethanol-md", "-o", "none/page.html") == 2
    assert "cannot write 'none/page.html'" in capsys.readouterr().err
