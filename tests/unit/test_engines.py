"""Engines: devices, precisions, and the passport that every load replays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from rarely import rarely_but
from small_models import (
    POTENTIALS,
    REFERENCE_ENERGIES,
    crystal,
    ethanol,
    potential,
    small_options,
    water,
)
from test_model_file import rewrite

import eqcalc
from eqcalc import EqCalculator
from eqcalc.architectures import build
from eqcalc.compiling import compile_package
from eqcalc.devices import resolve_device, resolve_dtype
from eqcalc.engines import CommitteeEngine, Target, load_model
from eqcalc.engines.packages import Traced
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.engines.traced import FusedEngine, TritonEngine
from eqcalc.errors import (
    ConfigError,
    DeviceError,
    EngineError,
    ModelFileError,
    PerformanceWarning,
)
from eqcalc.export import export_model
from eqcalc.model_file import PASSPORT, open_potential
from eqcalc.model_file.passport import Passport, Tolerance, verify
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential


def tampered(models, tmp_path, change, name="double"):
    """Return a copy of a model whose passport was changed in place by ``change``."""

    def edit(text: bytes) -> bytes:
        content = json.loads(text)
        change(content)
        return json.dumps(content).encode()

    return rewrite(models[name], tmp_path / "tampered.pt", {PASSPORT: edit})


def energies_of(model, atoms) -> torch.Tensor:
    graph = build_graph(atoms, model.card.cutoff, dtype=model.dtype)
    return model(graph)[0]


# --- calls -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error::eqcalc.errors.PerformanceWarning")
def test_who_computes_for_long_without_a_package_is_told_once(models, monkeypatch):
    monkeypatch.setattr("eqcalc.engines.patience._LIMIT_S", 1e-9)
    calculator = EqCalculator(models["double"])
    what = (
        r"^'double' has computed for a minute by its slowest engine, torchscript: not compiled "
        r"for cpu, float64; run: eqcalc compile .*double\.pt$"
    )
    with pytest.warns(PerformanceWarning, match=what):
        calculator.get_potential_energy(crystal())
    calculator.get_potential_energy(crystal() * (2, 1, 1))


@pytest.mark.filterwarnings("error::eqcalc.errors.PerformanceWarning")
@pytest.mark.parametrize(
    ("limit", "engine"), [(1e-9, "torchscript"), (60.0, "auto")], ids=["asked for", "short"]
)
def test_nobody_is_told_who_asked_for_the_engine_or_computes_shortly(
    limit, engine, models, monkeypatch
):
    monkeypatch.setattr("eqcalc.engines.patience._LIMIT_S", limit)
    calculator = EqCalculator(models["double"], engine=engine)
    assert np.isfinite(calculator.get_potential_energy(ethanol()))


def test_every_call_of_a_program_gives_the_bits_of_the_first():
    """Where torch rewrites a program after two calls, later ones round otherwise."""
    engine = TorchScriptEngine.load(
        open_potential("painn-ethanol"), Target(torch.device("cpu"), torch.float32)
    )
    graphs = [build_graph(atoms, 4.0, dtype=torch.float32) for atoms in (ethanol(), water())]
    first = [engine(graph) for graph in graphs]
    for _ in range(4):
        for graph, expected in zip(graphs, first, strict=True):
            for found, values in zip(engine(graph), expected, strict=True):
                assert torch.equal(found, values)
    assert torch._C._get_graph_executor_optimize()  # as it was, for the user's own programs


# --- names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cdua", "Did you mean 'cuda'"),
        ("gpu", "known: auto, cpu, cuda, cuda:N"),
        ("cuda:x", "cuda"),
        ("", "unknown device ''"),
        ("cuda:-1", "unknown device"),
        (0, "unknown device '0'"),
    ],
)
def test_an_unknown_device_is_refused(name, hint):
    with pytest.raises(ConfigError, match=hint):
        resolve_device(name)


def test_cuda_that_is_not_there_is_refused(monkeypatch, models):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match=rf"device '{name}' .* sees 0 CUDA devices"):
            load_model(models["double"], device=name)
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_cuda_index_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = r"device 'cuda:3' .* sees 2 CUDA devices here\. Use one of 'cuda:0', 'cuda:1'; CUDA_V"
    with pytest.raises(DeviceError, match=message):
        resolve_device("cuda:3")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["float16", "double", "Float32", None])
def test_an_unknown_dtype_is_refused(name):
    with pytest.raises(ConfigError, match=rf"unknown dtype '{name}'; known: float32, float64"):
        resolve_dtype(name)


def test_an_unknown_dtype_is_refused_at_load(models):
    with pytest.raises(ConfigError, match=r"unknown dtype 'flaot32'.*Did you mean 'float32'"):
        load_model(models["double"], dtype="flaot32")


def test_an_unknown_engine_is_refused(models):
    with pytest.raises(
        ConfigError, match=r"unknown engine 'torchscipt'; known: auto, .*Did you mean 'torchscript'"
    ):
        load_model(models["double"], engine="torchscipt")


# --- loading -----------------------------------------------------------------------------


def test_a_loaded_model_says_where_and_how_it_runs(models):
    assert eqcalc.load_model is load_model
    model = load_model(models["single"], device="cpu", engine="torchscript")
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert model.engine.name == "torchscript"
    assert model.file.path == models["single"]
    assert model.card.name == "single"
    assert load_model(models["double"], device="cpu").dtype == torch.float64


@pytest.mark.parametrize(("name", "dtype"), [("single", "float64"), ("double", "float32")])
def test_a_dtype_cast_keeps_reference_energies_in_float64(name, dtype, models):
    own = load_model(models[name], device="cpu")
    cast = load_model(models[name], device="cpu", dtype=dtype)
    assert cast.dtype == getattr(torch, dtype)
    difference = energies_of(cast, ethanol()) - energies_of(own, ethanol())
    # One float32 rounding of a reference energy alone would be 6e-5 eV.
    assert float(difference.abs().max()) < 2e-6
    assert float(difference.abs().max()) > 0


@pytest.mark.parametrize("stored", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reference_energies_are_exact_in_every_dtype(dtype, stored, tmp_path):
    silent = potential(stored)
    for parameter in silent.architecture.readout.parameters():
        torch.nn.init.zeros_(parameter)
    export_model(silent, tmp_path / "model.pt", elements="CHO")
    model = load_model(tmp_path / "model.pt", device="cpu", dtype=dtype)
    expected = [REFERENCE_ENERGIES[symbol] for symbol in ethanol().symbols]
    np.testing.assert_array_equal(energies_of(model, ethanol()), expected)


def test_one_load_does_not_change_another(models):
    single = load_model(models["single"], device="cpu")
    before = energies_of(single, crystal())
    load_model(models["single"], device="cpu", dtype="float64")
    assert torch.equal(energies_of(single, crystal()), before)


def test_a_file_that_torch_cannot_read_is_refused_with_both_versions(models, tmp_path):
    path = rewrite(models["double"], tmp_path / "model.pt", {"/version": lambda _: b"99\n"})
    here = torch.__version__.split("+")[0]
    reason = rf"torch {here}.* cannot load '.*model\.pt', written with torch {here}"
    with pytest.raises(ModelFileError, match=reason):
        load_model(path)


# --- passport ----------------------------------------------------------------------------


def _one_force(passport: dict) -> None:
    passport["frames"][1]["forces"][2][0] += 1e-3


def _one_energy(passport: dict) -> None:
    passport["frames"][0]["energy"] += 1e-3


@pytest.mark.parametrize(
    ("change", "frame", "quantity"), [(_one_force, 1, "forces"), (_one_energy, 0, "energy")]
)
@pytest.mark.parametrize(("name", "dtype"), [("double", "float64"), ("single", "float32")])
def test_numbers_that_differ_from_the_passport_are_refused(
    change, frame, quantity, name, dtype, models, tmp_path
):
    path = tampered(models, tmp_path, change, name)
    with pytest.raises(
        ModelFileError,
        match=rf"tampered\.pt: the model does not reproduce its own passport\. Frame {frame} "
        rf"\(6 atoms\): {quantity} differs by 0\.00.* allowed .* on cpu in {dtype} with torch 2\.",
    ):
        load_model(path, device="cpu")


def test_a_difference_within_the_tolerance_is_accepted(models, tmp_path):
    def nudge(passport: dict) -> None:
        passport["frames"][1]["forces"][2][0] += 5e-9

    assert load_model(tampered(models, tmp_path, nudge), device="cpu").card.name == "double"


def test_a_model_that_returns_nan_fails_its_passport(models):
    model = load_model(models["double"], device="cpu")
    passport = Passport.from_json(model.file.passport)

    def broken(graph):
        energies, gradients = model(graph)
        return energies, gradients * torch.nan

    with pytest.raises(ModelFileError, match=r"forces differs by nan eV/Å"):
        verify(passport, broken, 4.0, torch.float64, torch.device("cpu"), "a broken model")


def _nan_force(passport: dict) -> None:
    passport["frames"][1]["forces"][2][0] = float("nan")


def _nan_energy(passport: dict) -> None:
    passport["frames"][1]["energy"] = float("nan")


@pytest.mark.parametrize("change", [_nan_force, _nan_energy])
def test_a_passport_of_nan_is_refused_as_such(change, models, tmp_path):
    with pytest.raises(
        ModelFileError,
        match=r"tampered\.pt: .* passport, whose numbers are not finite \(frame 1\)\. .* diverged",
    ):
        load_model(tampered(models, tmp_path, change), device="cpu")


def test_a_dtype_without_tolerance_is_refused(models):
    model = load_model(models["double"], device="cpu")
    whole = Passport.from_json(model.file.passport)
    passport = Passport(whole.frames, {"float64": Tolerance(1e-9, 1e-8, 1e-10)})
    with pytest.raises(ModelFileError, match=r"no tolerance for float32; it knows float64"):
        verify(passport, model, 4.0, torch.float32, torch.device("cpu"), "a model")


def test_a_passport_survives_its_json(models):
    passport = Passport.from_json(load_model(models["double"]).file.passport)
    assert Passport.from_json(passport.to_json()) == passport


def _no_frames(passport: dict) -> None:
    passport["frames"] = []


def _no_forces(passport: dict) -> None:
    del passport["frames"][0]["forces"]


def _short_forces(passport: dict) -> None:
    passport["frames"][0]["forces"].pop()


def _no_tolerances(passport: dict) -> None:
    del passport["tolerances"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_no_frames, "it holds no frames"),
        (_no_forces, "forces"),
        (_no_tolerances, "tolerances"),
        (_short_forces, r"forces of frame 0 are not \(6, 3\)"),
    ],
)
def test_an_unreadable_passport_is_refused(change, reason, models, tmp_path):
    path = tampered(models, tmp_path, change)
    with pytest.raises(ModelFileError, match=rf"passport inside '.*' is not readable: .*{reason}"):
        load_model(path, device="cpu")


def test_a_passport_that_is_no_json_is_refused(models, tmp_path):
    path = rewrite(models["double"], tmp_path / "model.pt", {PASSPORT: lambda _: b"{]"})
    with pytest.raises(ModelFileError, match=r"passport inside '.*' is not readable"):
        load_model(path, device="cpu")


def test_the_engine_differentiates_where_grad_is_off(models):
    model = load_model(models["double"], device="cpu")
    graph = build_graph(ethanol(), 4.0)
    _, expected = model(graph)
    with torch.no_grad():
        _, found = model(graph)
    np.testing.assert_array_equal(found, expected)


# --- on a GPU, as far as a CPU can show it -----------------------------------------------


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(TritonEngine, "device_types", ("cpu",))
    monkeypatch.setattr("eqcalc.engines.traced.has_triton", lambda: True)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_tables_in_double_precision_are_refused(models):
    message = r"engine 'triton' cannot run 'double': tables are for float32, this is float64"
    with pytest.raises(EngineError, match=message):
        load_model(models["double"], device="cpu", engine="triton")


@pytest.mark.usefixtures("as_on_a_gpu")
def test_without_triton_its_kernels_are_refused(models, monkeypatch):
    monkeypatch.setattr("eqcalc.engines.traced.has_triton", lambda: False)
    with pytest.raises(EngineError, match=r"Triton, which comes with torch for CUDA on Linux, is"):
        load_model(models["single"], device="cpu", engine="triton")


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_network_without_tables_is_refused(tmp_path):
    path = tmp_path / "egnn.pt"
    network = build("egnn", **small_options("egnn"))
    export_model(Potential(network, REFERENCE_ENERGIES), path, elements="CHO")
    with pytest.raises(EngineError, match=r"'egnn' has no form with tables"):
        load_model(path, device="cpu", engine="triton")


@pytest.mark.usefixtures("as_on_a_gpu")
def test_kernels_that_cannot_run_are_told(models, monkeypatch):
    def trace(file, target, *, only_tables):
        def program(*inputs):
            raise RuntimeError("ptxas is not there")

        return Traced(program, ())

    monkeypatch.setattr("eqcalc.engines.traced.trace_program", trace)
    message = r"cannot run what triton makes of 'single' for cpu in float32: ptxas is not there"
    with pytest.raises(EngineError, match=message):
        load_model(models["single"], device="cpu", engine="triton")


def test_members_of_a_committee_are_not_compiled_together_for_a_gpu(models, tmp_path):
    files = [open_potential(models[name]) for name in ("single", "single")]
    target = Target(torch.device("cuda"), torch.float32)
    with pytest.raises(EngineError, match=r"on a GPU the members of a committee run one by one"):
        compile_package(files, tmp_path / "package", target)


def test_members_of_a_committee_run_one_by_one_on_a_gpu(models):
    files = [open_potential(models["single"])]
    with pytest.raises(EngineError, match=r"on a GPU the members of a committee run one by one"):
        CommitteeEngine.load(files, Target(torch.device("cuda"), torch.float32))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_network_that_cannot_be_rebuilt_runs_with_another_engine(models, monkeypatch):
    def rebuild(file):
        raise ModelFileError("'mine' is no architecture that is known here.")

    monkeypatch.setattr("eqcalc.export.compile.rebuild_potential", rebuild)
    with pytest.raises(EngineError, match=r"'mine' is no architecture"):
        load_model(models["single"], device="cpu", engine="triton")
    assert load_model(models["single"], device="cpu").engine.name == "torchscript"


def test_ranks_exchange_features_on_a_cpu_alone(models, tmp_path):
    target = Target(torch.device("cuda"), torch.float32)
    with pytest.raises(EngineError, match=r"ranks exchange features on a CPU; found .* cuda"):
        compile_package([open_potential(models["single"])], tmp_path / "package", target, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", rarely_but(("painn", "egnn"), POTENTIALS))
def test_a_program_that_torch_fuses_in_this_process_is_the_model(name, monkeypatch, tmp_path):
    """As on a GPU; without eqcalc's kernels."""
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path))
    monkeypatch.setattr(FusedEngine, "device_types", ("cpu",))
    path = tmp_path / "model.pt"
    network = build(name, **small_options(name)).double()
    export_model(Potential(network, REFERENCE_ENERGIES), path, elements="CHO")
    target = Target(torch.device("cpu"), torch.float64)
    fused = FusedEngine.load(open_potential(path), target)
    plain = load_model(path, device="cpu", engine="torchscript")
    for atoms in (ethanol(), crystal(), water(), Atoms("O")):
        graph = build_graph(atoms, plain.card.cutoff)
        for found, expected in zip(fused(graph), plain(graph), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_what_torch_cannot_fuse_is_told(models, monkeypatch, tmp_path):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path))
    monkeypatch.setattr(FusedEngine, "device_types", ("cpu",))

    def compile_nothing(program, **options):
        raise RuntimeError("no backend")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    target = Target(torch.device("cpu"), torch.float64)
    with pytest.raises(EngineError, match=r"what inductor makes of .double. .*: no backend"):
        FusedEngine.load(open_potential(models["double"]), target)
