"""One rule says how many threads a model call uses, whoever makes it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ase import Atoms
from small_models import crystal, ethanol

from eqcalc import EqCalculator
from eqcalc.cli import main
from eqcalc.engines import load_model, reload_model
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import ConfigError, GraphError
from eqcalc.neighbours import build_graph
from eqcalc.threads import UsingThreads, check_threads, threads_for


@pytest.fixture(autouse=True)
def threads_of_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seen(monkeypatch) -> list[tuple[int, int]]:
    """Return (atoms, threads) of every call of the engine."""
    calls: list[tuple[int, int]] = []
    call = TorchScriptEngine.__call__

    def watched(engine: TorchScriptEngine, graph: object) -> object:
        calls.append((graph.atomic_numbers.shape[0], torch.get_num_threads()))
        return call(engine, graph)

    monkeypatch.setattr(TorchScriptEngine, "__call__", watched)
    return calls


def gas(n_atoms: int) -> Atoms:
    """Return so many atoms, far apart but for pairs."""
    positions = [[4.0 * (k // 2 % 10), 4.0 * (k // 20), 1.2 * (k % 2)] for k in range(n_atoms)]
    return Atoms(f"C{n_atoms}", positions)


@pytest.mark.parametrize(
    ("n_atoms", "torchs", "asked", "expected"),
    [
        (1, 8, None, 1),
        (192, 8, None, 1),
        (200, 8, None, 2),
        (799, 8, None, 7),
        (10_000, 8, None, 8),
        (10_000, 1, None, 1),  # OMP_NUM_THREADS=1
        (1, 8, 3, 3),
        (10_000, 2, 4, 4),
    ],
)
def test_one_thread_per_hundred_atoms_at_most_torchs_unless_asked(n_atoms, torchs, asked, expected):
    torch.set_num_threads(torchs)
    assert threads_for(n_atoms, asked) == expected


def test_every_call_obeys_the_rule_and_leaves_torch_as_it_was(models, seen):
    torch.set_num_threads(3)
    calculator = EqCalculator(models["double"], engine="torchscript", device="cpu")
    seen.clear()  # of the passport
    for n_atoms in (9, 250, 420):
        calculator.get_forces(gas(n_atoms))
        assert torch.get_num_threads() == 3
    assert seen == [(9, 1), (250, 2), (420, 3)]
    seen.clear()
    calculator.calculate_many([gas(150), gas(160)])
    assert seen == [(310, 3)]
    seen.clear()
    load_model(models["double"], engine="torchscript")(build_graph(gas(220), 4.0))
    assert seen[-1] == (220, 2)
    assert torch.get_num_threads() == 3


def test_the_number_that_is_asked_for_is_exact(models, seen):
    torch.set_num_threads(2)
    calculator = EqCalculator(models["double"], engine="torchscript", threads=3)
    for other in (calculator, copy.copy(calculator), pickle.loads(pickle.dumps(calculator))):
        seen.clear()
        other.get_forces(gas(20))
        assert seen == [(20, 3)]
    assert torch.get_num_threads() == 2
    assert calculator.todict()["threads"] == 3


def test_calculators_of_other_threads_share_no_number(models, seen):
    torch.set_num_threads(2)
    one, two = (load_model(models["double"], engine="torchscript", threads=n) for n in (1, 2))
    again = reload_model(models["double"], one.file.sha256, engine="torchscript", threads=1)
    assert again is one
    assert (one.n_threads(5), two.n_threads(5)) == (1, 2)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_a_number_of_threads_that_means_nothing_is_refused(threads, models):
    with pytest.raises(ConfigError, match=r"threads must be a whole number of at least 1, or None"):
        EqCalculator(models["double"], threads=threads)
    check_threads(None)


def test_torch_gets_its_threads_back_after_an_error(models):
    torch.set_num_threads(3)

    def fail() -> None:
        with UsingThreads(1):
            assert torch.get_num_threads() == 1
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.get_num_threads() == 3
    with pytest.raises(GraphError, match="the structure has zero atoms"):
        EqCalculator(models["double"]).get_forces(Atoms())
    assert torch.get_num_threads() == 3


def test_the_facts_say_engine_device_precision_and_threads(models):
    torch.set_num_threads(4)
    facts = EqCalculator(models["double"], device="cpu").engine_facts(250)
    why = facts.pop("not_used")
    assert facts == {"engine": "torchscript", "device": "cpu", "dtype": "float64", "threads": 2}
    assert "not compiled for cpu, float64; run: eqcalc compile" in why["inductor"]
    committee = EqCalculator([models["double"], models["other"]], device="cpu")
    facts = committee.engine_facts(9)
    assert facts["engine"] == ["torchscript", "torchscript"]
    assert sorted(facts["not_used"]) == ["inductor of double", "inductor of other"]
    assert facts["together"].startswith("one by one: not compiled together")


def test_results_do_not_depend_on_the_number_of_threads(models):
    one, three = (EqCalculator(models["double"], threads=n) for n in (1, 3))
    for atoms in (ethanol(), crystal(), gas(300)):
        np.testing.assert_allclose(one.get_forces(atoms), three.get_forces(atoms), atol=1e-12)


def test_md_of_a_real_model_says_what_runs_it(models, tmp_path, monkeypatch, capsys):
    from ase.io import write

    monkeypatch.chdir(tmp_path)
    write("ethanol.xyz", ethanol())
    torch.set_num_threads(2)
    for words, n_threads in (((), 1), (("--threads", "2"), 2)):
        with pytest.raises(SystemExit) as stop:
            main(["md", "ethanol.xyz", "-m", str(models["double"]), "-n", "20", "--device", "cpu",
                  "--overwrite", *words])  # fmt: skip
        assert not stop.value.code
        plural = "s" * (n_threads > 1)
        out = capsys.readouterr().out
        assert f"engine torchscript on cpu in float64, {n_threads} thread{plural}\n" in out
        assert "not inductor: not compiled for cpu, float64" in out
        manifest = json.loads((tmp_path / "ethanol-md" / "manifest.json").read_text())
        assert manifest["engine"]["threads"] == n_threads
        assert manifest["engine"]["engine"] == "torchscript"


FORK = """
import os, sys, torch
from ase.build import molecule
from eqcalc import EqCalculator
torch.set_num_threads(2)
torch.ones(200_000).sin().sum()  # threads that a child does not have
calculator = EqCalculator(sys.argv[1], device="cpu", threads=2)
child = os.fork()
if child == 0:
    calculator.get_forces(molecule("CH3CH2OH"))
    os._exit(calculator.engine_facts(9)["threads"])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), calculator.engine_facts(9)["threads"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_uses_one_thread_whatever_was_asked_for(models):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(models["double"])],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert done.stdout.split() == ["1", "2"], done.stderr[-800:]


def test_the_command_that_compiles_a_shipped_model_has_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path))
    why = load_model("painn-ethanol", device="cpu").not_used
    assert why["inductor"].endswith("run: eqcalc compile painn-ethanol")
