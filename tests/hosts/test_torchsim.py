"""Batches of the real torch-sim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from small_models import REFERENCE_ENERGIES, crystal, ethanol, export_small, potential, slab, water

from eqcalc import EqCalculator
from eqcalc.errors import (
    ConfigError,
    GraphError,
    ModelFileError,
    NonFiniteError,
    UnsupportedElementError,
)
from eqcalc.export import export_model

pytestmark = pytest.mark.hosts

TIMESTEP_FS = 0.5


@pytest.fixture(scope="module")
def ts():
    import torch_sim

    return torch_sim


def load(*arguments: object, **options: object):
    from eqcalc.hosts.torchsim import TorchSimModel

    return TorchSimModel(*arguments, device="cpu", **{"engine": "torchscript"} | options)


def state_of(ts, structures: list[Atoms], dtype: torch.dtype = torch.float64):
    return ts.io.atoms_to_state(structures, torch.device("cpu"), dtype)


def rattled(atoms: Atoms, seed: int) -> Atoms:
    moved = atoms.copy()
    moved.rattle(0.05, seed=seed)
    return moved


def test_model_passes_the_validator_of_torch_sim():
    from torch_sim.models.interface import validate_model_outputs

    model = load("sevennet-0")
    for state_dtype in (torch.float32, torch.float64):
        validate_model_outputs(model, model.device, state_dtype)


@pytest.mark.parametrize(
    "structures",
    [
        [ethanol(), Atoms("H"), water(), rattled(ethanol(), 1)],
        [crystal(), crystal() * (2, 1, 1), Atoms("C", cell=3.0 * np.eye(3), pbc=True)],
    ],
    ids=["molecules", "crystals"],
)
def test_results_are_those_of_the_calculator(ts, model, structures):
    found = load(model)(state_of(ts, structures))
    calculator = EqCalculator(model, device="cpu", engine="torchscript")
    expected = calculator.calculate_many(structures)
    energies = [result["energy"] for result in expected]
    np.testing.assert_allclose(found["energy"].numpy(), energies, rtol=0, atol=1e-10)
    forces = np.concatenate([result["forces"] for result in expected])
    np.testing.assert_allclose(found["forces"].numpy(), forces, rtol=0, atol=1e-12)
    for stress, result in zip(found["stress"].numpy(), expected, strict=True):
        if "stress" in result:
            xx, yy, zz, yz, xz, xy = result["stress"]
            tensor = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
            np.testing.assert_allclose(stress, tensor, rtol=0, atol=1e-13)
        else:
            assert np.isnan(stress).all()


def test_stress_is_the_derivative_with_respect_to_torch_sims_cell(ts, model):
    evaluate, step = load(model), 1e-5
    state = state_of(ts, [crystal()])
    expected = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1.0, -1.0):
                strained = state.clone()
                strain = torch.eye(3, dtype=torch.float64)
                strain[a, b] += sign * step
                strained.positions = state.positions @ strain.T
                strained.cell = strain @ state.cell  # columns are lattice vectors
                energies.append(float(evaluate(strained)["energy"]))
            expected[a, b] = (energies[0] - energies[1]) / (2 * step) / crystal().get_volume()
    found = evaluate(state)["stress"][0].numpy()
    np.testing.assert_allclose(found, (expected + expected.T) / 2, rtol=0, atol=1e-8)
    assert np.abs(found).max() > 1e-3


def test_slab_has_the_energy_of_the_calculator_and_no_stress(ts, model):
    state = state_of(ts, [crystal()])
    state.pbc = torch.tensor([True, True, False])  # as newer versions have it
    found = load(model)(state)
    expected = EqCalculator(model, device="cpu", engine="torchscript").calculate_many([slab()])[0]
    assert float(found["energy"][0]) == pytest.approx(expected["energy"], rel=0, abs=1e-10)
    np.testing.assert_allclose(found["forces"].numpy(), expected["forces"], rtol=0, atol=1e-12)
    assert bool(found["stress"].isnan().all())


def test_float32_states_are_evaluated_in_float64(ts, model):
    atoms = crystal()
    atoms.positions += 1000.0 * atoms.cell.array[0]
    state = state_of(ts, [atoms], torch.float32)
    found = load(model, state_dtype="float32")(state)
    assert {value.dtype for value in found.values()} == {torch.float32}
    seen = Atoms(atoms.numbers, state.positions.numpy(), cell=state.row_vector_cell[0], pbc=True)
    seen.calc = EqCalculator(model, device="cpu", engine="torchscript")
    np.testing.assert_allclose(found["forces"].numpy(), seen.get_forces(), rtol=1e-5, atol=1e-6)


def test_dictionary_of_tensors_is_a_state(ts, model):
    state = state_of(ts, [ethanol(), water()])
    evaluate = load(model)
    names = ("positions", "cell", "pbc", "atomic_numbers", "system_idx")
    found = evaluate({name: getattr(state, name) for name in names})
    assert torch.equal(found["energy"], evaluate(state)["energy"])


def test_systems_that_change_places_keep_their_results(ts, model):
    evaluate = load(model)
    first, second, third = ethanol(), water(), rattled(ethanol(), 2)
    before = evaluate(state_of(ts, [first, second, third]))
    after = evaluate(state_of(ts, [third, first]))
    # A processor's vectors hold other edges then, and torch rounds their remainder otherwise.
    same = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(after["energy"], before["energy"][[2, 0]], **same)
    forces = torch.cat([before["forces"][-9:], before["forces"][:9]])
    torch.testing.assert_close(after["forces"], forces, **same)


def test_results_hold_what_is_asked_for(ts, model):
    state = state_of(ts, [crystal()])
    assert set(load(model, compute_forces=False, compute_stress=False)(state)) == {"energy"}
    evaluate = load(model)
    assert set(evaluate(state)) == {"energy", "forces", "stress"}
    evaluate.compute_stress = evaluate.compute_forces = False
    assert set(evaluate(state)) == {"energy"}


def test_committee_gives_mean_and_spread(ts, model, tmp_path):
    other = export_small(tmp_path / "other.pt", seed=1, cutoff=3.0)
    structures = [crystal(), crystal() * (2, 1, 1)]
    found = load([model, other])(state_of(ts, structures))
    calculator = EqCalculator([model, other], device="cpu", engine="torchscript")
    expected = calculator.calculate_many(structures)
    for name, key in (("energy", "energy"), ("energy_spread", "energy_spread")):
        values = [result[key] for result in expected]
        np.testing.assert_allclose(found[name].numpy(), values, rtol=0, atol=1e-9)
    for name in ("forces", "forces_spread"):
        values = np.concatenate([result[name] for result in expected])
        np.testing.assert_allclose(found[name].numpy(), values, rtol=0, atol=1e-11)
    assert float(found["energy_spread"].min()) > 1e-3


class Counted:
    """Counts calls of an engine and the structures of each."""

    def __init__(self, engine) -> None:
        self.engine, self.n_structures = engine, []
        self.device, self.dtype = engine.device, engine.dtype

    def __call__(self, graph):
        self.n_structures.append(graph.n_structures)
        return self.engine(graph)


def test_nvt_of_32_replicas_takes_one_call_a_step(ts):
    model = load("painn-ethanol")
    counted = Counted(model.members[0].engine)
    model.members = [replace(model.members[0], engine=counted)]
    newer = hasattr(ts, "Integrator")
    torch.manual_seed(0)
    final = ts.integrate(
        system=[ethanol()] * 32,
        model=model,
        integrator=ts.Integrator.nvt_langevin if newer else ts.nvt_langevin,
        n_steps=60,
        temperature=300,
        timestep=1e-3 * TIMESTEP_FS,
    )
    assert set(counted.n_structures) == {32}
    assert 61 <= len(counted.n_structures) <= 62  # each step, and the start
    momenta, masses = final.momenta.numpy(), final.masses.numpy()
    kinetic = 0.5 * (momenta**2 / masses[:, None]).sum()
    temperature = kinetic / (1.5 * len(masses) * units.kB)
    assert 200.0 < temperature < 400.0  # 864 degrees of freedom scatter by 14 K
    replicas = [Atoms(a.numbers, a.positions) for a in final.to_atoms()]
    assert len({round(a.positions[0, 0], 6) for a in replicas}) == 32
    calculator = EqCalculator("painn-ethanol", device="cpu", engine="torchscript")
    expected = [result["energy"] for result in calculator.calculate_many(replicas)]
    np.testing.assert_allclose(final.energy.numpy(), expected, rtol=0, atol=1e-4)


def test_nve_trajectory_is_that_of_ase(ts):
    model = load("painn-ethanol", dtype="float64")
    state = state_of(ts, [ethanol(), rattled(ethanol(), 1)])
    step = torch.tensor(TIMESTEP_FS * units.fs, dtype=torch.float64)
    warm = torch.tensor(300.0 * units.kB, dtype=torch.float64)
    torch.manual_seed(0)
    if hasattr(ts, "nve_init"):
        moving = ts.nve_init(state, model, kT=warm)
        advance = lambda moving: ts.nve_step(moving, model, dt=step)  # noqa: E731
    else:
        begin, advance = ts.nve(model=model, dt=step, kT=warm)
        moving = begin(state)
    expected = [Atoms(a.numbers, a.positions) for a in state.to_atoms()]
    for k, atoms in enumerate(expected):
        here = moving.system_idx == k
        atoms.set_masses(moving.masses[here].numpy())
        atoms.set_momenta(moving.momenta[here].numpy())
        atoms.calc = EqCalculator(
            "painn-ethanol", device="cpu", dtype="float64", engine="torchscript"
        )
        VelocityVerlet(atoms, TIMESTEP_FS * units.fs).run(40)
    for _ in range(40):
        moving = advance(moving)
    positions = np.concatenate([atoms.positions for atoms in expected])
    np.testing.assert_allclose(moving.positions.numpy(), positions, rtol=0, atol=1e-9)
    assert np.abs(positions - state.positions.numpy()).max() > 0.05


# --- refusals


def test_unknown_element_is_refused_by_its_system(ts, model):
    state = state_of(ts, [water(), Atoms("NaH", [[0, 0, 0], [0, 0, 2.0]])])
    with pytest.raises(UnsupportedElementError, match=r"does not know Na \(system 1\)"):
        load(model)(state)


def test_positions_that_are_not_finite_are_refused_by_their_system(ts, model):
    state = state_of(ts, [water(), ethanol()])
    state.positions[5, 0] = torch.nan
    with pytest.raises(GraphError, match=r"system 1: positions must be finite.*on atoms 2"):
        load(model)(state)


def test_results_that_are_not_finite_are_refused_by_their_system(ts, model):
    class Broken(Counted):
        def __call__(self, graph):
            energies, gradients = self.engine(graph)
            energies = torch.where(graph.structure_index == 1, torch.nan, energies)
            return energies, gradients

    evaluate = load(model)
    member = evaluate.members[0]
    evaluate.members = [replace(member, engine=Broken(member.engine))]
    with pytest.raises(NonFiniteError, match="returned NaN or infinity for the systems 1;"):
        evaluate(state_of(ts, [water(), ethanol(), water()]))


def test_state_on_another_device_is_refused(model):
    state = SimpleNamespace(positions=torch.empty((3, 3), device="meta"))
    with pytest.raises(ConfigError, match="the state is on meta, the model on cpu"):
        load(model)(state)


def test_state_dtype_is_a_precision(model):
    with pytest.raises(ConfigError, match="unknown dtype 'float16'"):
        load(model, state_dtype="float16")


def test_skin_that_is_none_is_refused(model):
    with pytest.raises(ConfigError, match="skin must be zero or positive"):
        load(model, skin=-1.0)


def test_propagator_is_refused():
    with pytest.raises(ModelFileError, match="is a learned dynamics"):
        load("gmn-nbody")


def test_empty_committee_is_refused():
    with pytest.raises(ConfigError, match="a committee needs at least one model"):
        load([])


def test_committee_that_holds_a_model_twice_is_refused(model):
    with pytest.raises(ConfigError, match=r"needs different models, and .* is the same as"):
        load([model, model])


def test_committee_of_two_precisions_is_refused(model, tmp_path):
    single = export_small(tmp_path / "single.pt", dtype=torch.float32)
    with pytest.raises(ConfigError, match=r"differ in dtype \(torch.float32, torch.float64\)"):
        load([model, single])


def test_committee_without_a_common_element_is_refused(tmp_path):
    def only(element: str) -> Path:
        path = tmp_path / f"{element}.pt"
        export_model(potential(), path, elements={element: REFERENCE_ENERGIES[element]})
        return path

    with pytest.raises(ConfigError, match="share no element: C C; H H"):
        load([only("C"), only("H")])
