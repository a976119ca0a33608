"""Compiled packages: the cache that keeps them, the engine that runs them, its fallbacks."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from small_models import ETHANOL_FRAMES, crystal, ethanol, potential, slab
from test_cuda_graph import StandInRecorder, assert_same_results, breathing

from eqcalc import EqCalculator
from eqcalc.bench import BenchCalculator, measure, ready_engines
from eqcalc.cli import main
from eqcalc.engines import Target, cuda_graph, load_model, packages
from eqcalc.engines.cuda_graph import CudaGraphEngine
from eqcalc.engines.inductor import InductorEngine
from eqcalc.engines.packages import make_package
from eqcalc.errors import CacheError, ConfigError, EngineError, ModelFileError, OutputError
from eqcalc.export import compile_model, rebuild_potential
from eqcalc.model_file import open_model_file
from eqcalc.native import build, package_cache
from eqcalc.native.package_cache import PackageCache, cache_folder
from eqcalc.neighbours import build_graph

CPU = torch.device("cpu")
KEY = {"model": "abc", "torch": "2"}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def package(models, session_folder) -> Path:
    """Return the compiled package of the model "double", made once for all processes."""
    file = open_model_file(models["double"])

    def compile_to(path: Path) -> None:
        compile_model(file, path, CPU, torch.float64)

    return PackageCache(session_folder / "packages").make({"model": "double"}, compile_to)


@pytest.fixture
def compiled(models, package) -> Path:
    """Return the model "double", its package in the cache."""
    key = packages._key([open_model_file(models["double"])], Target(CPU, torch.float64))
    PackageCache().make(key, lambda path: path.write_bytes(package.read_bytes()))
    return models["double"]


# --- cache -------------------------------------------------------------------------------


def test_the_cache_folder_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("EQCALC_CACHE", "/a/b")
    assert cache_folder() == Path("/a/b")
    monkeypatch.delenv("EQCALC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_folder() == Path("/c/eqcalc")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "eqcalc"


@pytest.mark.parametrize("name", ["EQCALC_CACHE", "XDG_CACHE_HOME"])
def test_a_cache_that_is_another_folder_in_every_folder_is_refused(name, models, monkeypatch):
    monkeypatch.delenv("EQCALC_CACHE")
    monkeypatch.setenv(name, "cache")
    with pytest.raises(CacheError, match=rf"{name} must be an absolute path, and 'cache.* as '/"):
        cache_folder()
    model = load_model(models["double"])
    assert model.engine.name == "torchscript"
    assert f"{name} must be an absolute path" in model.not_used["inductor"]


def test_a_package_is_made_once_and_found_again():
    cache, calls = PackageCache(), []

    def compile_to(path: Path) -> None:
        calls.append(path)
        path.write_bytes(b"code")

    assert cache.find(KEY) is None
    path = cache.make(KEY, compile_to)
    assert cache.make(KEY, compile_to) == cache.find(KEY) == path
    assert path.read_bytes() == b"code"
    assert len(calls) == 1
    assert {p.suffix for p in cache.folder.iterdir()} == {".pt2", ".json", ".lock"}


class FileOf(NamedTuple):
    sha256: str


def test_everything_that_changes_the_code_changes_the_key(monkeypatch):
    cache, one, other = PackageCache(), FileOf("0" * 64), FileOf("1" * 64)

    def key_of(*files: FileOf, dtype: torch.dtype = torch.float32) -> dict[str, str]:
        return packages._key(files, Target(CPU, dtype))

    before = key_of(one)
    others = [key_of(other), key_of(one, dtype=torch.float64), key_of(one, other)]
    for place, value in (
        ("torch.__version__", "9.9"),
        ("torch.backends.cpu.get_cpu_capability", lambda: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, value)
            others.append(key_of(one))
    paths = {cache.path(key) for key in [before, *others]}
    assert len(paths) == 6
    assert key_of(one) == before


def test_a_package_serves_any_number_of_threads(monkeypatch):
    before = packages._key([FileOf("0" * 64)], Target(CPU, torch.float32))
    monkeypatch.setattr("torch.get_num_threads", lambda: 77)
    assert packages._key([FileOf("0" * 64)], Target(CPU, torch.float32)) == before


@pytest.mark.parametrize("damage", ["package", "entry", "no entry", "another key"])
def test_a_stale_or_damaged_entry_is_not_found_and_is_made_again(damage):
    cache = PackageCache()
    path = cache.make(KEY, lambda path: path.write_bytes(b"code"))
    entry = path.with_suffix(".json")
    if damage == "package":
        path.write_bytes(b"c0de")
    elif damage == "entry":
        entry.write_text("{")
    elif damage == "no entry":
        entry.unlink()
    else:
        entry.write_text(json.dumps(json.loads(entry.read_text()) | {"key": {}}))
    assert cache.find(KEY) is None
    assert cache.make(KEY, lambda path: path.write_bytes(b"new")).read_bytes() == b"new"
    assert cache.find(KEY) == path


def test_a_compilation_that_fails_leaves_nothing_to_be_found():
    cache = PackageCache()

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        cache.make(KEY, fail)
    assert cache.find(KEY) is None
    assert [p.suffix for p in cache.folder.iterdir()] == [".lock"]
    assert cache.make(KEY, lambda path: path.write_bytes(b"code")).exists()


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot keep compiled models in .*set EQCALC_CACHE"):
        PackageCache(tmp_path / "file" / "cache").make(KEY, lambda path: None)


def test_a_package_of_a_folder_that_can_only_be_read_is_found(monkeypatch):
    path = PackageCache().make(KEY, lambda path: path.write_bytes(b"code"))

    def read_only(lock: Path) -> None:
        raise PermissionError(13, "Permission denied", str(lock))

    monkeypatch.setattr(package_cache, "FileLock", read_only)
    assert PackageCache().make(KEY, lambda path: None) == path
    with pytest.raises(OutputError, match=r"Permission denied.*set EQCALC_CACHE"):
        PackageCache().make({"model": "other"}, lambda path: None)


def slow_make(folder: Path, log: Path) -> None:
    def compile_to(path: Path) -> None:
        with open(log, "a") as file:
            file.write("compiled\n")
        time.sleep(0.5)
        path.write_bytes(b"code")

    PackageCache(folder).make(KEY, compile_to)


def test_two_processes_compile_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "cache", tmp_path / "log")
    processes = [context.Process(target=slow_make, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "compiled\n"


# --- engine ------------------------------------------------------------------------------


def structures() -> dict[str, Atoms]:
    return {
        "molecule": ethanol(),
        "crystal": crystal(),
        "slab": slab(),
        "one atom": Atoms("O"),
        "two apart": Atoms("CO", [[0, 0, 0], [0, 0, 9.0]]),
        "a pair": Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]),
        "one atom in a small cell": Atoms("C", cell=[2.5] * 3, pbc=True),
    }


@pytest.mark.slow
def test_the_package_gives_what_the_eager_network_gives(compiled):
    eager = rebuild_potential(open_model_file(compiled))
    calculator = EqCalculator(compiled)
    assert calculator.models[0].engine.name == "inductor"
    for name, atoms in structures().items():
        expected = eager.evaluate(build_graph(atoms, 4.0))
        found = calculator.get_forces(atoms)
        np.testing.assert_allclose(found, expected.forces, rtol=0, atol=1e-11, err_msg=name)
        energies = calculator.get_potential_energies(atoms)
        np.testing.assert_allclose(energies, expected.energies, rtol=0, atol=1e-11, err_msg=name)
        if atoms.pbc.all():
            full = expected.stress[0].numpy()
            voigt = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            np.testing.assert_allclose(calculator.get_stress(atoms), voigt, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_forces_of_the_package_are_the_gradient_of_its_energy(compiled):
    calculator, atoms, h = EqCalculator(compiled), crystal(), 1e-4
    forces = calculator.get_forces(atoms)
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        energy = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * h
            energy.append(calculator.get_potential_energy(moved))
        assert -(energy[0] - energy[1]) / (2 * h) == pytest.approx(forces[atom, axis], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("max_edges", [1, 20_000])
def test_many_structures_through_the_package_are_those_one_by_one(max_edges, compiled):
    fast, slow = EqCalculator(compiled), EqCalculator(compiled, engine="torchscript")
    together = fast.calculate_many(structures().values(), max_edges=max_edges)
    for found, (name, atoms) in zip(together, structures().items(), strict=True):
        slow.calculate(atoms)
        for key, value in slow.results.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.slow
def test_bench_takes_the_package_once_it_is_there(compiled):
    assert ready_engines(compiled, device="cpu") == (["inductor", "torchscript"], {})
    timed = BenchCalculator(compiled, engine="inductor", device="cpu")
    assert measure(timed, crystal(), "crystal", seconds=1e-3).engine == "inductor"


@pytest.mark.slow
def test_ghost_atoms_carry_messages_and_no_energy(compiled):
    graph = build_graph(ethanol(), 4.0)
    fast, slow = (load_model(compiled, engine=name) for name in ("auto", "torchscript"))
    for n_owned in (0, 4, 9):
        part = graph._replace(n_owned=n_owned)
        energies, gradients = fast(part)
        expected_energies, expected_gradients = slow(part)
        torch.testing.assert_close(energies, expected_energies, rtol=0, atol=1e-11)
        torch.testing.assert_close(gradients, expected_gradients, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_a_thousand_different_sizes_need_one_package(compiled):
    fast = EqCalculator(compiled)
    slow = EqCalculator(compiled, engine="torchscript")
    frame = ase.io.read(ETHANOL_FRAMES, index=0)
    for repeat in range(1, 6):
        atoms = frame.copy()
        for k in range(1, repeat):
            other = frame.copy()
            other.positions += (5.0 * k, 0.3 * k, 0)
            atoms += other
        np.testing.assert_allclose(fast.get_forces(atoms), slow.get_forces(atoms), atol=1e-11)


LOADS = """
import sys
from ase.build import molecule
from eqcalc import EqCalculator

calculator = EqCalculator(sys.argv[1])
calculator.get_forces(molecule("CH3CH2OH"))
assert calculator.models[0].engine.name == "inductor", calculator.engine_report()
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.slow
def test_a_package_is_run_without_torchs_compiler_and_its_folder(compiled, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", LOADS, compiled], env=environment, check=True)
    assert list(temporary.iterdir()) == []  # nor is anything left of the package


@pytest.mark.slow
def test_weights_are_made_anew_only_where_a_count_changes(compiled):
    engine = load_model(compiled).engine
    for n_atoms, n_owned in ((9, 9), (9, 4), (7, 4), (7, 0), (0, 0), (9, 9)):
        weights = engine._weights_of(n_atoms, n_owned)
        assert weights.dtype == torch.float64
        assert weights.tolist() == [1.0] * n_owned + [0.0] * (n_atoms - n_owned)
        assert engine._weights_of(n_atoms, n_owned) is weights


@pytest.mark.slow
def test_where_graphs_are_captured_the_package_is_what_is_replayed(compiled, monkeypatch):
    plain = EqCalculator(compiled, engine="torchscript")
    monkeypatch.setattr(CudaGraphEngine, "device_types", ("cpu",))
    monkeypatch.setattr(cuda_graph, "CudaRecorder", StandInRecorder)
    replaying = EqCalculator(compiled, device="cpu")
    report = "cudagraph over inductor on cpu in float64, passport reproduced"
    assert replaying.engine_report() == report
    for atoms in [*structures().values(), *breathing(12), *structures().values()]:
        assert_same_results(replaying, plain, atoms)
    graph = build_graph(ethanol(), 4.0)
    before = replaying.models[0].engine.n_captures
    for n_owned in (0, 4, 9, 4):  # weights, unlike a count, are not frozen in
        found = replaying.models[0](graph._replace(n_owned=n_owned))
        expected = plain.models[0](graph._replace(n_owned=n_owned))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    assert replaying.models[0].engine.n_captures == before


# --- choice and fallbacks ----------------------------------------------------------------


def test_auto_compiles_nothing_and_says_how_to(models):
    model = load_model(models["double"])
    assert model.engine.name == "torchscript"
    assert "not inductor: not compiled for cpu, float64; run: eqcalc compile" in (
        model.engine_report()
    )
    assert not cache_folder().exists()


@pytest.mark.slow
def test_auto_takes_the_package_of_the_right_precision(compiled, monkeypatch):
    assert load_model(compiled).engine_report() == "inductor on cpu in float64, passport reproduced"
    single = load_model(compiled, dtype="float32")
    assert single.engine.name == "torchscript"
    assert (
        "not compiled for cpu, float32 (the package that is there was made for float64); run: "
    ) in single.not_used["inductor"]
    assert "--dtype float32" in single.engine_report()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert load_model(compiled).engine.name == "inductor"


@pytest.mark.parametrize("changed", packages._MAKE_A_PACKAGE)
def test_a_package_depends_on_every_source_that_makes_it(changed, tmp_path, monkeypatch):
    before = packages._sources()
    for name in packages._MAKE_A_PACKAGE:
        source = packages._EQCALC / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    monkeypatch.setattr(packages, "_EQCALC", tmp_path)
    assert packages._sources.__wrapped__() == before
    path = tmp_path / changed
    with (path if path.is_file() else max(path.rglob("*.py"))).open("a") as file:
        file.write("# another state\n")
    assert packages._sources.__wrapped__() != before


MAKER = r"\d[^)]*, sources [0-9a-f]{12}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("torch.__version__", "9.9", rf"was made with torch {re.escape(torch.__version__)}\)"),
        ("eqcalc.engines.packages.__version__", "7", rf"was made with eqcalc {MAKER}\)"),
        ("eqcalc.engines.packages._sources", lambda: "x", rf"was made with eqcalc {MAKER}\)"),
        ("torch.backends.cpu.get_cpu_capability", lambda: "x", r"was made for another processor"),
        (
            "eqcalc.engines.packages.library_checksum",
            lambda: "x",
            r"was made with another version of eqcalc's C\+\+ library",
        ),
    ],
)
def test_a_package_that_was_made_otherwise_is_named(place, value, words, compiled, monkeypatch):
    monkeypatch.setattr(place, value)
    model = load_model(compiled)
    assert model.engine.name == "torchscript"
    assert re.search(words, model.not_used["inductor"])


@pytest.mark.parametrize("other", [("NVIDIA A100", (8, 0)), ("NVIDIA H100", (8, 0))])
def test_a_package_of_another_card_is_named_and_made_again(other, models, monkeypatch):
    cards = [("NVIDIA H100", (9, 0))]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: cards[device.index or 0][0])
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: cards[device.index or 0][1]
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    made = []

    def quick(files: object, path: Path, *target: object) -> None:
        made.append(cards[0])
        path.write_bytes(b"code")

    monkeypatch.setattr(packages, "_compiler", lambda: quick)
    files, target = [open_model_file(models["double"])], Target(torch.device("cuda"), torch.float64)
    first = packages.make_package(files, target)
    key = packages._key(files, target)
    assert not packages.is_stale(key)
    cards.insert(0, other)
    assert not packages.is_stale(key)  # both are there
    assert packages.find_package(files, target) is None
    assert packages.find_package(files, target._replace(device=torch.device("cuda:1"))) == first
    assert re.search(
        r"not compiled for cuda, float64 \(the package that is there was made for another "
        r"processor\); run: eqcalc compile \S+double.pt --device cuda",
        packages.why_no_package(files, target),
    )
    second = packages.make_package(files, target)
    assert packages.find_package(files, target) == second != first
    assert made == [cards[1], cards[0]]
    cards.pop()
    assert packages.is_stale(key)


@pytest.mark.slow
def test_a_committee_reports_every_member(compiled, models):
    report = EqCalculator([compiled, models["other"]]).engine_report().splitlines()
    assert report[0] == "double: inductor on cpu in float64, passport reproduced"
    assert report[1] == "other: torchscript on cpu in float64, passport reproduced"
    assert report[-1].startswith("one by one: not compiled together for cpu, float64")


@pytest.mark.slow
def test_a_damaged_package_is_not_run(compiled):
    key = packages._key([open_model_file(compiled)], Target(CPU, torch.float64))
    path = PackageCache().path(key)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    model = load_model(compiled)
    assert model.engine.name == "torchscript"
    assert (
        "the package that is there is damaged); run: eqcalc compile" in (model.not_used["inductor"])
    )


def test_a_package_that_torch_cannot_load_is_not_run(models):
    key = packages._key([open_model_file(models["double"])], Target(CPU, torch.float64))
    PackageCache().make(key, lambda path: path.write_bytes(b"no package"))
    report = load_model(models["double"]).engine_report()
    assert "torchscript on cpu" in report
    assert "cannot load the compiled package" in report


@pytest.mark.slow
def test_a_package_that_fails_the_passport_is_not_run(models, package):
    # The package of one model under the key of another: its numbers are wrong.
    key = packages._key([open_model_file(models["other"])], Target(CPU, torch.float64))
    PackageCache().make(key, lambda path: path.write_bytes(package.read_bytes()))
    model = load_model(models["other"])
    assert model.engine.name == "torchscript"
    assert "does not reproduce its own passport" in model.not_used["inductor"]


@pytest.mark.usefixtures("library_built")
def test_where_the_compiler_fails_the_engine_that_was_asked_for_is_refused(models, monkeypatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("g++: command not found\nand a long trace")

    monkeypatch.setattr("eqcalc.compiling.compile_model", fail)
    message = (
        r"engine 'inductor' cannot run 'double': 'double' cannot be compiled .* g\+\+: command not "
        r"found; or take engine='auto' or 'torchscript'"
    )
    with pytest.raises(EngineError, match=message):
        load_model(models["double"], engine="inductor")
    with pytest.raises(EngineError, match=r"cannot be compiled for cpu, float64: g\+\+"):
        make_package([open_model_file(models["double"])], Target(CPU, torch.float64))
    assert load_model(models["double"]).engine.name == "torchscript"


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_compiler(models, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match=r"cannot keep compiled models .* set EQCALC_CACHE"):
        load_model(models["double"], engine="inductor")


@pytest.mark.usefixtures("library_built")
def test_what_eqcalc_refuses_while_it_compiles_keeps_its_own_error(models, monkeypatch):
    def fail(*arguments: object) -> None:
        raise OutputError("cannot write '/full/disk'")

    monkeypatch.setattr("eqcalc.compiling.compile_model", fail)
    with pytest.raises(OutputError, match="cannot write '/full/disk'"):
        make_package([open_model_file(models["double"])], Target(CPU, torch.float64))


def test_an_installation_without_its_entry_point_says_so(models, monkeypatch):
    monkeypatch.setattr(packages, "entry_points", lambda **_: [])
    with pytest.raises(EngineError, match=r"has not registered its compiler; install eqcalc again"):
        load_model(models["double"], engine="inductor")


@pytest.mark.slow
@pytest.mark.usefixtures("library_built")
def test_asking_for_the_engine_compiles_at_the_first_use(models, package, monkeypatch):
    calls = []

    def quick(file: object, path: Path, *target: object) -> None:
        calls.append(target)
        path.write_bytes(package.read_bytes())

    monkeypatch.setattr("eqcalc.compiling.compile_model", quick)
    for _ in range(2):
        assert load_model(models["double"], engine="inductor").engine.name == "inductor"
    assert calls == [(CPU, torch.float64)]


def test_an_unknown_engine_is_refused(models):
    with pytest.raises(ConfigError, match=r"unknown engine 'indutor'; .* mean 'inductor'"):
        load_model(models["double"], engine="indutor")


def test_a_network_that_cannot_be_rebuilt_is_refused(models, monkeypatch):
    file = open_model_file(models["double"])
    file.card.config["embeding"] = 3
    with pytest.raises(ModelFileError, match=r"cannot be rebuilt .* painn has no option 'embed"):
        rebuild_potential(file)


def test_a_potential_is_rebuilt_wherever_the_process_makes_its_tensors(models):
    file = open_model_file(models["double"])
    expected = dict(rebuild_potential(file).named_parameters())
    with torch.device("meta"):  # stands for a GPU
        found = dict(rebuild_potential(file).named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_a_rebuilt_potential_is_the_exported_one(models):
    rebuilt, original = rebuild_potential(open_model_file(models["double"])), potential()
    graph = build_graph(crystal(), 4.0)
    expected = original.evaluate(graph)
    found = rebuilt.evaluate(graph)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=0)
    torch.testing.assert_close(found.energies, expected.energies, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("library_built")
def test_the_verb_compiles_and_reports(models, package, capsys, monkeypatch):
    def quick(file: object, path: Path, *target: object) -> None:
        path.write_bytes(package.read_bytes())

    monkeypatch.setattr("eqcalc.compiling.compile_model", quick)
    for expected in ("compiled in", "package "):
        with pytest.raises(SystemExit) as stop:
            main(["compile", str(models["double"])])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(expected)
        assert "inductor on cpu in float64, passport reproduced" in out


@pytest.mark.parametrize("damage", [os.unlink, lambda library: library.write_bytes(b"half")])
def test_the_verb_builds_a_library_that_is_gone_beside_its_package(
    damage, models, capsys, monkeypatch
):
    def quick(file: object, path: Path, *target: object) -> None:
        path.write_bytes(b"code")

    monkeypatch.setattr("eqcalc.compiling.compile_model", quick)
    monkeypatch.setattr("eqcalc.compiling.load_library", lambda: True)
    monkeypatch.setattr(build, "_loaded", [])  # this process may have another one
    monkeypatch.setattr("eqcalc.engines.inductor.load_library", lambda: True)
    file, target = open_model_file(models["single"]), Target(CPU, torch.float32)
    make_package([file], target)
    library = build.find_library()
    assert InductorEngine.can_run(file, target) is None
    damage(library)
    why = "C++ library, which the package calls, is not there; run eqcalc compile again"
    assert why in InductorEngine.can_run(file, target)
    with pytest.raises(SystemExit, match="0"):
        main(["compile", str(models["single"])])
    assert capsys.readouterr().out.startswith("compiled in")
    assert build.find_library() == library
    assert InductorEngine.can_run(file, target) is None


@pytest.mark.usefixtures("library_built")
def test_the_verb_ends_with_an_error_where_the_compiler_fails(models, capsys, monkeypatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("eqcalc.compiling.compile_model", fail)
    with pytest.raises(SystemExit) as stop:
        main(["compile", str(models["double"])])
    assert stop.value.code == 2
    assert "'double' cannot be compiled for cpu, float64: no compiler" in (capsys.readouterr().err)
