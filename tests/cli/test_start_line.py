"""What runs is what the start line says, and it says what would be faster."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
import torch
from command_line import run
from small_models import crystal, ethanol

from eqcalc.cli.engine_lines import thread_advice
from eqcalc.engines.loading import ENGINES, faster_and_ready, load_model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Engine, atoms and torch's threads of each model call."""
    made: list[tuple[str, int, int]] = []
    for name, engine in ENGINES.items():

        def spy(self, graph, *, name=name, call=engine.__call__):
            made.append((name, graph.atomic_numbers.shape[0], torch.get_num_threads()))
            return call(self, graph)

        monkeypatch.setattr(engine, "__call__", spy)
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    ase.io.write("ethanol.xyz", ethanol())
    return tmp_path


@pytest.fixture(autouse=True)
def threads():
    """Take back what ``--threads`` set in this process."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def engine_line(out: str) -> str:
    return next(line for line in out.splitlines() if line.startswith("engine "))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_engine_and_threads_of_the_start_line_run(n_threads, folder, models, calls, capsys):
    assert run("md", "ethanol.xyz", "-m", models["double"], "-n", 4, "--threads", n_threads) == 0
    out = capsys.readouterr().out
    plural = "s" * (n_threads > 1)
    assert engine_line(out) == f"engine torchscript on cpu in float64, {n_threads} thread{plural}"
    assert (
        f"not inductor: not compiled for cpu, float64; run: eqcalc compile {models['double']}"
        in out
    )
    steps = calls[-5:]  # 0 to 4; the passport was replayed before
    assert steps == [("torchscript", 9, n_threads)] * 5
    manifest = json.loads((folder / "ethanol-md" / "manifest.json").read_text())
    assert manifest["engine"]["engine"] == "torchscript"
    assert manifest["engine"]["threads"] == n_threads


@pytest.mark.slow
def test_compiled_engine_runs_where_it_is_said_and_is_missed_where_not(
    library_built, folder, models, calls, capsys
):
    """Compiling takes a minute."""
    words = ("md", "ethanol.xyz", "-m", models["single"], "-n", 4, "--overwrite")
    assert run("compile", models["single"]) == 0
    assert faster_and_ready(load_model(models["single"], engine="inductor")) == []
    assert run(*words, "--threads", 2) == 0
    assert "engine inductor on cpu in float32, 2 threads\n" in capsys.readouterr().out
    assert calls[-5:] == [("inductor", 9, 2)] * 5
    assert run(*words, "--engine", "torchscript") == 0
    out = capsys.readouterr().out
    assert "engine torchscript on cpu in float32, 1 thread\n" in out
    assert "  not inductor: it is ready and faster (a new run takes it with --engine auto" in out
    assert calls[-5:] == [("torchscript", 9, 1)] * 5


def test_faster_engine_that_is_not_compiled_is_not_ready(models):
    assert faster_and_ready(load_model(models["single"], engine="torchscript")) == []


@pytest.mark.parametrize(
    ("n_atoms", "n_threads", "n_cores", "advice"),
    [
        (9, 1, 8, None),
        (1000, 8, 8, None),
        (250, 2, 8, None),
        (1000, 4, 8, "more threads may be faster, if 8 cores are idle: --threads 8"),
        (300, 1, 8, "more threads may be faster, if 3 cores are idle: --threads 3"),
        (9, 4, 8, "4 threads are many for 9 atoms, and may wait for each other: one per 100"),
        (5000, 16, 4, "16 threads share 4 cores, and wait for each other: --threads 4"),
        (9, 2, 1, "2 threads share 1 core, and wait for each other: --threads 1"),
    ],
)
def test_advice_on_threads(n_atoms, n_threads, n_cores, advice):
    found = thread_advice(n_atoms, n_threads, n_cores)
    assert found is None if advice is None else found.startswith(advice)


def test_advice_on_threads_is_given_at_the_start(folder, models, capsys, monkeypatch):
    monkeypatch.setattr("eqcalc.cli.engine_lines.usable_cores", lambda: 2)
    ase.io.write("large.xyz", crystal() * (3, 3, 3))
    assert run("md", "large.xyz", "-m", models["single"], "-n", 1) == 0
    assert (
        "  more threads may be faster, if 2 cores are idle: --threads 2\n"
        in capsys.readouterr().out
    )
