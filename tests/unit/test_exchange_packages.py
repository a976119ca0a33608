"""Compiled packages for ranks that exchange features: how they are kept, and what they find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Ranks, share_out, slices
from rarely import rarely_but
from small_models import crystal
from test_exchange import CUTOFF, ELEMENTS, NETWORKS, assert_same, lonely, network, silicon, whole

from eqcalc import compiling
from eqcalc.cli import main
from eqcalc.engines import Target, inductor
from eqcalc.engines import exchange as engine
from eqcalc.engines.exchange import ExchangePackage
from eqcalc.engines.packages import (
    find_exchange_package,
    find_package,
    make_exchange_package,
    make_package,
    why_no_exchange_package,
    why_no_package,
)
from eqcalc.errors import EngineError, ModelFileError
from eqcalc.export import export_model, rebuild_potential
from eqcalc.model_file import ModelFile, open_model_file
from eqcalc.neighbours import build_graph
from eqcalc.nn.zbl import ZBL
from eqcalc.potential import Potential

pytestmark = pytest.mark.usefixtures("exchange")

CPU = torch.device("cpu")
DOUBLE = Target(CPU, torch.float64)


@pytest.fixture(autouse=True)
def library_in_its_cache(library_built):
    return library_built


@pytest.fixture
def quickly(monkeypatch):
    """Compile nothing, prove nothing, and return the list of what was asked for."""
    asked: list[str] = []

    def compile_to(kind: str):
        def compile_quickly(file: ModelFile, path: Path, *target: object) -> None:
            asked.append(kind)
            path.write_bytes(kind.encode())

        return compile_quickly

    monkeypatch.setattr(compiling, "compile_exchange", compile_to("exchange"))
    monkeypatch.setattr(compiling, "compile_model", compile_to("model"))
    monkeypatch.setattr(compiling, "ExchangePackage", lambda *arguments: None)
    monkeypatch.setattr(compiling, "verify_exchange", lambda *arguments: asked.append("proof"))
    return asked


# --- where they are kept -----------------------------------------------------------------


def test_packages_for_ranks_are_others_than_those_of_one_process(models, quickly):
    file = open_model_file(models["double"])
    why = "not compiled for ranks that exchange features for cpu, float64; run: eqcalc compile "
    assert why_no_exchange_package(file, DOUBLE).startswith(why)
    assert why_no_exchange_package(file, DOUBLE).endswith("double.pt --exchange")
    path = make_exchange_package(file, DOUBLE)
    assert make_exchange_package(file, DOUBLE) == find_exchange_package(file, DOUBLE) == path
    assert path.read_bytes() == b"exchange"
    assert quickly == ["exchange", "proof"]
    assert find_package([file], DOUBLE) is None
    assert "made" not in why_no_package([file], DOUBLE)
    assert make_package([file], DOUBLE).read_bytes() == b"model"
    assert find_exchange_package(file, Target(CPU, torch.float32)) is None
    assert "(the package that is there was made for float64)" in why_no_exchange_package(
        file, Target(CPU, torch.float32)
    )


def test_the_command_makes_packages_for_ranks(models, quickly, capsys):
    words = ["compile", str(models["double"]), str(models["single"])]
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            main([*words, "--exchange", "--dtype=float64"])
    lines = capsys.readouterr().out.splitlines()
    assert quickly == ["exchange", "proof"] * 2
    assert [line.split()[0] for line in lines] == ["compiled", "package"] * 2 + ["package"] * 2
    path = find_exchange_package(open_model_file(models["single"]), DOUBLE)
    assert str(path) in lines[-1]


def test_a_package_that_does_not_reproduce_the_passport_is_not_kept(models, quickly, monkeypatch):
    def fail(*arguments: object) -> None:
        raise ModelFileError("the model does not reproduce its own passport")

    monkeypatch.setattr(compiling, "verify_exchange", fail)
    file = open_model_file(models["double"])
    with pytest.raises(ModelFileError, match="does not reproduce"):
        make_exchange_package(file, DOUBLE)
    assert find_exchange_package(file, DOUBLE) is None


def test_a_package_that_is_not_there_is_named(models):
    with pytest.raises(EngineError, match=r"not compiled for ranks .* --exchange$"):
        ExchangePackage.load(open_model_file(models["double"]), DOUBLE)


def test_a_package_without_the_library_is_not_loaded(models, monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "load_library", lambda: False)
    with pytest.raises(EngineError, match=r"C\+\+ library, .* is not there; run eqcalc compile"):
        ExchangePackage(tmp_path / "package", open_model_file(models["double"]))


@pytest.mark.parametrize(("n_owned", "n_ghosts"), [(0, 0), (0, 3), (1, 0), (1, 2), (3, 2)])
@pytest.mark.parametrize("n_edges", [0, 1])
def test_a_rank_with_few_atoms_or_edges_has_two_dummies_before_its_ghosts(
    n_owned, n_ghosts, n_edges, models, monkeypatch
):
    seen: list[torch.Tensor] = []

    def package(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        seen[:] = tensors
        return torch.arange(len(tensors[0])), torch.arange(3 * len(tensors[1])).view(-1, 3)

    n_edges = min(n_edges, n_owned * n_ghosts)
    monkeypatch.setattr(engine, "load_package", lambda path: package)
    file = open_model_file(models["double"])
    index = torch.tensor([[n_owned], [0]])[:, :n_edges]  # the first ghost sends
    energies, gradients = ExchangePackage(Path("package"), file)(
        torch.full((n_owned,), 6),
        torch.ones(n_edges, 3, dtype=torch.float64),
        index,
        torch.ones(n_owned, dtype=torch.float64),
        torch.zeros(n_owned + n_ghosts, dtype=torch.int64),
    )
    numbers, vectors, index, weights, all_atoms = seen
    n = n_owned
    assert len(energies) == n
    assert len(gradients) == n_edges
    assert numbers[:n].tolist() == [6] * n
    assert numbers[n:].tolist() == [1, 1]  # H, which the model knows
    assert weights.tolist() == [1.0] * n + [0.0] * 2
    assert len(all_atoms) == n + 2 + n_ghosts
    assert index.tolist() == [[n + 2] * n_edges + [n + 1, n], [0] * n_edges + [n, n + 1]]
    assert (vectors[n_edges:].norm(dim=1) > file.card.cutoff).all()


# --- what they find ----------------------------------------------------------------------


def packages_of(file: ModelFile, target: Target, n_ranks: int, patch) -> list[ExchangePackage]:
    """Return a package for each rank: one serves one call at a time, and ranks wait in theirs."""
    make_exchange_package(file, target)
    packages = []
    for _ in range(n_ranks):
        patch.setattr(inductor, "_loaded", {})
        packages.append(ExchangePackage.load(file, target))
    return packages


def exported(name: str, dtype: torch.dtype, folder: Path) -> ModelFile:
    zbl = ZBL(1.6, elements=["H", "O"], pair_cutoffs=[[1.2, 1.5], [1.5, 1.6]])
    potential = Potential(network(name).to(dtype), dict.fromkeys(ELEMENTS, -1.0), zbl=zbl).eval()
    export_model(potential, folder / "model.pt", elements=ELEMENTS)
    return open_model_file(folder / "model.pt")


# In float64 tests/lammps compiles and runs them. What is exhaustive here is compiled there, or by
# the contract.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    rarely_but(
        [(name, torch.float32) for name in ("egnn", "gvp", "schnet")],
        [("painn", torch.float64), *((name, torch.float32) for name in NETWORKS)],
    ),
)
def test_compiled_ranks_find_what_one_process_finds(name, dtype, tmp_path, monkeypatch):
    file = exported(name, dtype, tmp_path)
    packages = packages_of(file, Target(CPU, dtype), 4, monkeypatch)
    exact = rebuild_potential(file).double()
    energy, relative = (1e-10, 1e-10) if dtype == torch.float64 else (1e-4, 1e-4)
    one_by_one = np.r_[np.zeros(6), 1, 3].astype(int)  # six atoms, one, none, one
    for atoms, rank_of in (
        (silicon(), slices(silicon(), 4)),
        (lonely(), slices(lonely(), 4, axis=2)),
        (crystal(), one_by_one),
        (crystal(), np.zeros(8, dtype=int)),
    ):
        ranks = Ranks(share_out(atoms, CUTOFF, rank_of, 4, dtype))
        found = ranks.run(packages, len(atoms))
        assert_same(found, whole(exact, atoms, torch.float64), energy, relative)
        names = [call for call, _ in ranks.calls]
        assert names.count("reverse") == (file.card.n_hops - 1) * (1 + (name == "egnn"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", rarely_but([torch.float64], [torch.float64, torch.float32]))
def test_what_goes_wrong_inside_a_package_is_an_error(dtype, tmp_path, monkeypatch):
    file = exported("painn", dtype, tmp_path)
    packages = packages_of(file, Target(CPU, dtype), 2, monkeypatch)
    shares = share_out(silicon(), CUTOFF, slices(silicon(), 2), 2, dtype)
    for number in range(4):  # with that of ZBL, three forward and one back

        def breaks(call: int, number: int = number) -> None:
            if call == number:
                raise ZeroDivisionError(f"in call {call}")

        with pytest.raises(ZeroDivisionError, match=f"in call {number}"):
            Ranks(shares, breaks).run(packages, 16)
    with pytest.raises(RuntimeError, match="ghost atoms, and no host"):
        packages[0](*shares[0].tensors)
    # After all that they still work; one rank without ghosts needs no host.
    found = Ranks(shares).run(packages, 16)
    assert_same(
        found, whole(rebuild_potential(file).double(), silicon(), torch.float64), 1e-4, 1e-4
    )
    graph = build_graph(crystal(), CUTOFF, dtype=dtype)
    numbers, weights = graph.atomic_numbers, torch.ones(8, dtype=torch.float64)
    energies, _ = packages[0](numbers, graph.edge_vectors, graph.edge_index, weights, numbers)
    expected = rebuild_potential(file)(graph)[0].detach()
    torch.testing.assert_close(energies, expected, rtol=0, atol=1e-4)


@pytest.mark.exhaustive
def test_ranks_find_what_one_process_finds_with_a_universal_potential(monkeypatch):
    file = open_model_file("sevennet-0")
    packages = packages_of(file, Target(CPU, torch.float32), 2, monkeypatch)
    atoms, cutoff = silicon() * (1, 2, 1), file.card.cutoff
    ranks = Ranks(share_out(atoms, cutoff, slices(atoms, 2), 2, torch.float32))
    found = ranks.run(packages, len(atoms))
    exact = rebuild_potential(file).double()
    assert_same(found, whole(exact, atoms, torch.float64, cutoff), 1e-4, 1e-4)
    assert [call for call, _ in ranks.calls].count("reverse") == file.card.n_hops - 1
