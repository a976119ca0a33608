"""A committee in one pass: the answers of its members, its package, its fallbacks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from small_models import REFERENCE_ENERGIES, crystal, ethanol, slab, small_options

from eqcalc import EqCalculator
from eqcalc.architectures import build
from eqcalc.cli import main
from eqcalc.engines import CommitteeEngine, Target, full_precision, load_committee, load_model
from eqcalc.engines.packages import _key, find_package
from eqcalc.errors import ConfigError, DataWarning, EngineError, ModelFileError
from eqcalc.export import compile_committee, export_model
from eqcalc.graph import AtomicGraph
from eqcalc.hosts.lammps.prepare import ticket
from eqcalc.model_file import open_model_file
from eqcalc.native.package_cache import PackageCache, cache_folder
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential

CPU = torch.device("cpu")
# Of the package, of the call, and the tolerance. Each package takes half a minute.
PRECISIONS = [
    pytest.param(torch.float64, torch.float64, 1e-11, id="float64"),
    pytest.param(torch.float32, torch.float32, 2e-5, id="float32", marks=pytest.mark.slow),
]
TARGET = Target(CPU, torch.float64)
NAMES = ("short", "schnet")  # another cutoff, another architecture


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))


def export_schnet(path: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build("schnet", **small_options("schnet"))
    export_model(Potential(network.double(), REFERENCE_ENERGIES), path, elements=REFERENCE_ENERGIES)


@pytest.fixture(scope="module")
def members(models, tmp_path_factory) -> list[Path]:
    path = tmp_path_factory.mktemp("members") / "schnet.pt"
    export_schnet(path, seed=3)
    return [models.get(name, path) for name in NAMES]


@pytest.fixture(scope="module")
def package_of(members, kernels, session_folder) -> Callable[[torch.dtype], Path]:
    """Return the committee's package in a precision, compiled once for all processes."""
    cache, files = PackageCache(session_folder / "packages"), [open_model_file(p) for p in members]

    def package(dtype: torch.dtype) -> Path:
        key = {"model": "committee", "dtype": str(dtype)}
        return cache.make(key, lambda path: compile_committee(files, path, CPU, dtype))

    return package


@pytest.fixture
def compiled(request, members, package_of) -> list[Path]:
    """Return the members, their package in the cache: float64, unless the test says another."""
    dtype = getattr(request, "param", torch.float64)
    key = _key([open_model_file(path) for path in members], Target(CPU, dtype))
    content = package_of(dtype).read_bytes()
    PackageCache().make(key, lambda path: path.write_bytes(content))
    return members


def structures() -> dict[str, Atoms]:
    return {
        "molecule": ethanol(),
        "crystal": crystal(),
        "slab": slab(),
        "one atom": Atoms("O"),
        "two apart": Atoms("CO", [[0, 0, 0], [0, 0, 9.0]]),
    }


def last_line(calculator: EqCalculator) -> str:
    return calculator.engine_report().splitlines()[-1]


# --- numbers -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("compiled", "dtype", "atol"), PRECISIONS, indirect=["compiled"])
def test_each_slice_is_the_answer_of_that_member(dtype, atol, compiled):
    files = [open_model_file(path) for path in compiled]
    together = CommitteeEngine.load(files, Target(CPU, dtype))
    name = str(dtype).removeprefix("torch.")
    alone = [load_model(path, dtype=name, engine="torchscript") for path in compiled]
    for label, atoms in structures().items():
        graph = build_graph(atoms, 4.0, dtype=dtype)
        for n_owned in (graph.n_owned, graph.n_owned // 2):
            part = graph._replace(n_owned=n_owned)
            energies, gradients = together(part)
            assert energies.shape == (2, len(atoms))
            assert gradients.shape == (2, graph.edge_index.shape[1], 3)
            for member, model in enumerate(alone):
                expected_energies, expected_gradients = model(part)
                where = f"{label}, member {member}"
                torch.testing.assert_close(
                    energies[member], expected_energies, rtol=0, atol=atol, msg=where
                )
                torch.testing.assert_close(
                    gradients[member], expected_gradients, rtol=0, atol=atol, msg=where
                )


@pytest.mark.slow
@pytest.mark.parametrize(("compiled", "dtype", "atol"), PRECISIONS, indirect=["compiled"])
def test_results_of_one_pass_are_those_of_one_by_one(dtype, atol, compiled):
    name = str(dtype).removeprefix("torch.")
    one_pass = EqCalculator(compiled, dtype=name)
    one_by_one = EqCalculator(compiled, dtype=name, engine="torchscript")
    assert last_line(one_pass) == (
        f"all 2 in one pass: inductor on cpu in {name}, passports reproduced"
    )
    assert last_line(one_by_one) == "one by one: torchscript was asked for"
    for label, atoms in structures().items():
        properties = ["stresses"] if atoms.pbc.all() else ["energy"]
        one_pass.calculate(atoms, properties)
        one_by_one.calculate(atoms, properties)
        assert one_pass.results.keys() == one_by_one.results.keys()
        for key, value in one_by_one.results.items():
            np.testing.assert_allclose(
                one_pass.results[key], value, rtol=0, atol=atol, err_msg=f"{label}, {key}"
            )


@pytest.mark.slow
def test_one_pass_calls_the_package_once_and_no_member(compiled, monkeypatch):
    calculator, calls = EqCalculator(compiled), []
    together = calculator._together
    assert together is not None
    calculator._together = lambda *tensors: calls.append(1) or together(*tensors)  # type: ignore
    for model in calculator.models:
        monkeypatch.setattr(model.engine, "_module", None)  # a call of it would fail
    calculator.get_forces(crystal())
    calculator.get_forces(ethanol())
    assert calls == [1, 1]


@pytest.mark.slow
def test_copies_run_in_one_pass_too(compiled):
    twin = copy.deepcopy(EqCalculator(compiled))
    assert last_line(twin).startswith("all 2 in one pass")


def test_one_pass_is_made_outside_of_autocast_and_in_full_precision(members):
    calculator, seen = EqCalculator(members), []
    expected = calculator.get_forces(ethanol())

    def together(graph: AtomicGraph) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((torch.is_autocast_enabled("cpu"), full_precision._get("cpu")))
        energies, gradients = zip(*(model(graph) for model in calculator.models), strict=True)
        return torch.stack(energies), torch.stack(gradients)

    calculator._together = together  # type: ignore
    calculator.reset()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_allclose(calculator.get_forces(ethanol()), expected, atol=1e-12)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen in ([(False, "ieee")], [(False, "highest")])  # since torch 2.9, and before


# --- fallbacks ---------------------------------------------------------------------------


def test_members_that_were_not_compiled_together_run_one_by_one(members):
    calculator = EqCalculator(members[:2], dtype="float32")
    assert calculator._together is None
    paths = f"{members[0]} {members[1]}"
    assert last_line(calculator) == (
        "one by one: not compiled together for cpu, float32; "
        f"run: eqcalc compile {paths} --dtype float32"
    )
    assert not cache_folder().exists()


def test_members_of_one_name_are_told_apart_by_their_files(tmp_path):
    paths = [tmp_path / seed / "water.pt" for seed in ("1", "2")]
    for path in paths:
        path.parent.mkdir()
        export_schnet(path, seed=int(path.parent.name))
    calculator = EqCalculator(paths, dtype="float32")
    for path in paths:
        assert f"water ({path}): torchscript on cpu" in calculator.engine_report()
    assert f"inductor of water ({paths[1]})" in calculator.engine_facts(9)["not_used"]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["order", "number"])
def test_a_package_belongs_to_its_members_in_their_order(change, compiled, models):
    third = next(path for path in models.values() if path not in compiled)
    other = {"order": compiled[::-1], "number": [*compiled, third]}
    assert "not compiled together" in last_line(EqCalculator(other[change]))


@pytest.mark.slow
def test_a_slice_that_fails_its_passport_is_not_used(compiled, package_of):
    """The right package under the key of another order: the slices are exchanged."""
    files = [open_model_file(path) for path in compiled[::-1]]
    content = package_of(torch.float64).read_bytes()
    PackageCache().make(_key(files, TARGET), lambda path: path.write_bytes(content))
    with pytest.raises(ModelFileError, match=r"in a committee: the model does not reproduce"):
        CommitteeEngine.load(files, TARGET)
    calculator = EqCalculator(compiled[::-1])
    assert "one by one" in last_line(calculator)
    assert "does not reproduce its own passport" in last_line(calculator)
    expected = EqCalculator(compiled).get_forces(ethanol())
    np.testing.assert_allclose(calculator.get_forces(ethanol()), expected, rtol=0, atol=1e-11)


def test_a_package_that_torch_cannot_load_is_not_used(members):
    files = [open_model_file(path) for path in members]
    PackageCache().make(_key(files, TARGET), lambda path: path.write_bytes(b"no"))
    with pytest.raises(EngineError, match="cannot load the compiled package"):
        CommitteeEngine.load(files, TARGET)
    assert "one by one: torch" in last_line(EqCalculator(members))


def fail(*arguments: object) -> None:
    raise RuntimeError("no compiler\nand a long trace")


@pytest.mark.usefixtures("library_built")
def test_a_committee_that_cannot_be_compiled_says_why(members, monkeypatch):
    monkeypatch.setattr("eqcalc.compiling.compile_committee", fail)
    files = [open_model_file(path) for path in members[:2]]
    message = r"'short', 'schnet' cannot be compiled together for cpu, float64: no compiler$"
    with pytest.raises(EngineError, match=message):
        CommitteeEngine.prepare(files, TARGET)
    assert find_package(files, TARGET) is None


def copied(package: Path) -> Callable[..., None]:
    def quick(files: object, path: Path, *target: object) -> None:
        path.write_bytes(package.read_bytes())

    return quick


@pytest.mark.slow
@pytest.mark.usefixtures("library_built")
def test_asking_for_inductor_compiles_the_committee_at_the_first_use(
    members, package_of, monkeypatch
):
    monkeypatch.setattr("eqcalc.compiling.compile_committee", copied(package_of(torch.float64)))
    models = [load_model(path) for path in members]
    together, why = load_committee(models, "inductor")
    assert together is not None
    assert why.startswith("all 2 in one pass")


@pytest.mark.usefixtures("library_built")
def test_a_committee_asked_for_that_cannot_be_compiled_is_refused(members, monkeypatch):
    monkeypatch.setattr("eqcalc.compiling.compile_committee", fail)
    models = [load_model(path) for path in members]
    with pytest.raises(EngineError, match=r"cannot be compiled together .*: no compiler"):
        load_committee(models, "inductor")


def test_a_model_alone_has_no_committee(models):
    calculator = EqCalculator([models["double"]])
    assert calculator._together is None
    assert "one by one" not in calculator.engine_report()


# --- the verb ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("library_built")
def test_the_verb_compiles_members_and_committee(members, package_of, capsys, monkeypatch):
    compiled_alone = []

    def alone(file: object, path: Path, *target: object) -> None:
        compiled_alone.append(file)
        path.write_bytes(b"no package")  # the members run with torchscript then

    monkeypatch.setattr("eqcalc.compiling.compile_model", alone)
    monkeypatch.setattr("eqcalc.compiling.compile_committee", copied(package_of(torch.float64)))
    for n_compiled in (3, 0):  # the second time, all is there
        with pytest.raises(SystemExit) as stop:
            main(["compile", *map(str, members)])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert out.count("compiled in") == n_compiled
        assert out.count("package /") >= 3
        assert "all 2 in one pass: inductor on cpu in float64" in " ".join(out.split())
    assert len(compiled_alone) == 2


def test_the_verb_refuses_members_of_mixed_precision(models, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compile", str(models["double"]), str(models["single"])])
    assert stop.value.code == 2
    assert "the models differ in dtype; give --dtype float32 or" in capsys.readouterr().err


def test_lammps_is_given_no_committee_of_twins(models, tmp_path):
    (tmp_path / "copy.pt").write_bytes(models["double"].read_bytes())
    pair = [str(models["double"]), str(tmp_path / "copy.pt")]
    with pytest.raises(ConfigError, match=r"copy\.pt' is the same as .*double\.pt'"):
        list(ticket(pair, engine="torchscript"))


def test_members_that_count_from_different_zeros_are_named():
    calculator = EqCalculator(["painn-ethanol", "sevennet-0"], device="cpu", dtype="float64")
    with pytest.warns(DataWarning, match="more than 5 eV per atom: they count from different"):
        calculator.get_potential_energy(ethanol())
