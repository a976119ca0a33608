"""The verb bench."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ase.io
import pytest
import torch
from command_line import run
from fake_clock import Clock
from small_models import crystal

import eqcalc.bench
from eqcalc.engines.torchscript import TorchScriptEngine


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with crystal.xyz; no compiled package anywhere."""
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    ase.io.write("crystal.xyz", crystal())
    return tmp_path


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Return the stopwatches' clock, on which a call takes 3 ms, the network alone 1 ms."""
    clock, call = Clock(tick=1e-6), TorchScriptEngine.__call__
    monkeypatch.setattr(eqcalc.bench.measurement, "time", clock)

    def timed_call(*arguments):
        clock.sleep(3e-3)
        return call(*arguments)

    def timed_energies(engine, graph):
        clock.sleep(1e-3)
        return graph.edge_vectors

    monkeypatch.setattr(TorchScriptEngine, "__call__", timed_call)
    monkeypatch.setattr(TorchScriptEngine, "energies", timed_energies)
    return clock


def bench(*words: object) -> int:
    """Return the exit code of ``eqcalc bench WORDS``, which takes as little time as it can."""
    return run("bench", *words, "--seconds", "0.001", "--device", "cpu")


def test_bench_prints_a_row_for_each_structure_and_why_an_engine_is_missing(
    models, folder, clock, capsys
):
    assert bench(models["double"], "ethanol", "crystal.xyz") == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    (header,) = [line for line in lines if line.startswith("structure")]
    assert header.split() == [
        "structure",
        "atoms",
        "engine",
        "ms/step",
        "min..max",
        "list",
        "transfer",
        "model",
        "gradient",
        "host",
        "ASE",
        "µs/atom",
    ]
    rows = [line.split() for line in lines[lines.index(header) + 1 :][:2]]
    assert [row[:3] for row in rows] == [
        ["ethanol", "9", "torchscript"],
        ["crystal.xyz", "8", "torchscript"],
    ]
    for row in rows:
        low, high = map(float, row[4].split(".."))
        assert 3 <= low <= float(row[3]) <= high < 3.1
        _, transfer, model, gradient = map(float, row[5:9])
        assert (transfer, model, gradient) == (0, 3.0, 2.0)
    assert "not inductor: not compiled for cpu" in out
    assert f"torch    {torch.__version__}" in out
    assert "step 14/14  crystal.xyz, torchscript" in out
    assert list(folder.glob("*.png")) + list(folder.glob("*.json")) == []


def test_bench_over_sizes_writes_numbers_and_a_picture(models, folder, capsys):
    words = (models["double"], "crystal.xyz", "--sizes", "1,2,4")
    assert bench(*words, "--plot", "growth.png", "--json", "times.json", "--skin", 0.3) == 0
    out = capsys.readouterr().out
    content = json.loads((folder / "times.json").read_text())
    found = content["measurements"]
    assert [one["n_atoms"] for one in found] == [8, 16, 32]
    assert [one["structure"] for one in found] == [f"crystal.xyz x{n}" for n in (1, 2, 4)]
    for one in found:
        timing = one["step_ms"]
        assert 0 < timing["low"] <= timing["median"] <= timing["high"]
        assert one["n_edges"] == found[0]["n_edges"] * one["n_atoms"] // 8
    exponent = content["growth_exponents"]["torchscript"]
    assert f"torchscript: time grows as atoms^{exponent:.2f}" in out
    assert content["model"]["name"] == "double"
    assert content["options"]["skin"] == 0.3
    assert content["machine"]["torch"] == torch.__version__
    assert (folder / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_bench_takes_the_engines_that_are_named_once_each(models, folder, capsys):
    assert (
        bench(
            models["double"],
            "ethanol",
            "--engine",
            "torchscript",
            "--engine",
            "torchscript",
            "--json",
            "t.json",
        )
        == 0
    )
    content = json.loads((folder / "t.json").read_text())
    assert [one["engine"] for one in content["measurements"]] == ["torchscript"]
    assert content["not_used"] == {}


def test_bench_says_which_of_several_frames_it_times(models, folder, capsys):
    ase.io.write("two.xyz", [crystal(), crystal()])
    assert bench(models["double"], "two.xyz", "--engine", "torchscript") == 0
    assert "structure: the last of 2 frames in two.xyz\n" in capsys.readouterr().out


def test_bench_sets_the_threads(models, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert bench(models["double"], "ethanol", "--threads", 2) == 0
    assert asked[0] == 2
    asked.clear()
    assert bench(models["double"], "ethanol") == 0
    assert asked == [1]


def test_bench_takes_the_number_of_threads_that_it_is_given(models, folder, monkeypatch):
    monkeypatch.undo()  # of torch.set_num_threads
    monkeypatch.chdir(folder)
    seen, call = set(), TorchScriptEngine.__call__

    def watched(engine, graph):
        seen.add(torch.get_num_threads())
        return call(engine, graph)

    monkeypatch.setattr(TorchScriptEngine, "__call__", watched)
    before = torch.get_num_threads()
    try:
        assert bench(models["double"], "ethanol", "--threads", 2, "--engine", "torchscript") == 0
    finally:
        torch.set_num_threads(before)
    assert seen == {2}


def test_bench_says_when_others_use_the_machine(models, folder, capsys, monkeypatch):
    monkeypatch.setattr(eqcalc.bench.measurement, "_BUSY", 0.0)
    assert bench(models["double"], "ethanol") == 0
    assert "unreliable" not in capsys.readouterr().out
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    assert bench(models["double"], "ethanol") == 0
    assert "unreliable: the load average was 99.0 on" in capsys.readouterr().out
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(eqcalc.bench.measurement, "_BUSY", 1e9)
    assert bench(models["double"], "ethanol") == 0
    assert "unreliable: during 1 of 1 measurements another process" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("ethanl",), "Did you mean 'ethanol'?"),
        (("missing.xyz",), "no structure file 'missing.xyz'"),
        (("cu32",), "does not know Cu (in 'cu32'); it was trained on H, C, O."),
        (("ethanol", "--sizes", "1,2"), "'ethanol' is open in all directions"),
        (("water24", "--sizes", "2"), "--sizes takes two or more different numbers of cells"),
        (("water24", "crystal.xyz", "--sizes", "1,2"), "--sizes takes one structure, found 2"),
        (("ethanol", "ethanol"), "'ethanol' stands twice among the structures"),
        (("ethanol", "--plot", "a.png"), "--plot draws times over sizes; give --sizes too"),
        (("ethanol", "--engine", "inducto"), "Did you mean 'inductor'?"),
        (("ethanol", "--device", "gpu"), "unknown device 'gpu'"),
        (("ethanol", "--dtype", "float16"), "unknown dtype 'float16'"),
        (("ethanol", "--skin", "-1"), "skin must be zero or positive"),
        (("ethanol", "--json", "crystal.xyz"), "'crystal.xyz' exists; pass --overwrite"),
        (("ethanol", "--json", "run/manifest.json"), "would be a file of the run in 'run'"),
        (("ethanol", "--json", "no/t.json"), "cannot write 'no/t.json': there is no folder 'no'"),
    ],
)
def test_bench_explains_a_wrong_option(words, reason, models, folder, capsys):
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "manifest.json").write_text('{"kind": "md"}')
    assert run("bench", models["double"], *words, "--seconds", "0.001") == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert "ms/step" not in captured.out


def test_bench_replaces_outputs_when_told(models, folder, capsys):
    (folder / "t.json").write_text("old")
    assert bench(models["double"], "ethanol", "--json", "t.json", "--overwrite") == 0
    assert json.loads((folder / "t.json").read_text())["model"]["name"] == "double"


def test_bench_of_an_unknown_model_says_which_there_are(folder, capsys):
    assert bench("painn-ethanl", "ethanol") == 2
    assert "Did you mean 'painn-ethanol'?" in capsys.readouterr().err


def test_bench_without_a_model_takes_the_shipped_one_for_the_structure(folder, capsys):
    assert bench("ethanol", "--engine", "torchscript") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "model painn-ethanol: shipped, trained on C2H6O" in out
    assert bench("cu32", "--engine", "torchscript") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "model sevennet-0 (shipped), universal: PBE (+U), MPtrj; 89 elements" in out


def test_bench_of_a_model_alone_asks_for_a_structure(models, folder, capsys):
    for model in ("painn-ethanol", models["double"]):
        assert bench(model) == 2
        assert "is a model; name a structure to time it on" in capsys.readouterr().err
    assert bench("nix.xyz") == 2
    assert "'nix.xyz' is no structure and no model: there is no" in capsys.readouterr().err
