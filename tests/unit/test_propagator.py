"""Propagators: objects of atoms, the exported file, and runs in ASE."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixBondLengths
from ase.io.trajectory import Trajectory
from small_models import export_small
from torch import nn

from eqcalc import EqCalculator, load_model
from eqcalc.dynamics import (
    EGNNDynamics,
    GMNDynamics,
    Propagator,
    export_propagator,
    find_objects,
)
from eqcalc.dynamics.learned import complete_edges
from eqcalc.dynamics.propagator_file import PropagatorPassport, open_propagator_file, verify_steps
from eqcalc.errors import (
    ConfigError,
    GraphError,
    ModelFileError,
    NonFiniteError,
    OutputError,
    OutputExistsError,
    UnknownModelError,
)
from eqcalc.model_file.entries import stamp

OBJECTS = {"isolated": [0], "stick": [[1], [2]], "hinge": [[3], [4], [5]]}


def _dynamics(dtype=torch.float64, **options) -> GMNDynamics:
    torch.manual_seed(0)
    return GMNDynamics(hidden_dim=8, num_layers=2, **options).to(dtype)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Return the file of a small untrained propagator."""
    path = tmp_path_factory.mktemp("propagator") / "small.pt"
    export_propagator(
        _dynamics(),
        path,
        timestep=0.5,
        description="a test",
        training_data={"samples": 3},
        errors={"position_mse": 0.25},
        licence="MIT",
    )
    return path


@pytest.fixture(scope="module")
def loaded(path) -> Propagator:
    """Return that propagator, for tests in which it does not come to a step."""
    return Propagator(path, device="cpu")


@pytest.fixture
def atoms() -> Atoms:
    """Return one free particle, a stick and a hinge (joint 3), without constraints."""
    rng = np.random.default_rng(1)
    return Atoms(
        "X6",
        rng.normal(size=(6, 3)),
        momenta=0.3 * rng.normal(size=(6, 3)),
        charges=[1, -1, 1, 1, -1, -1],
    )


def _frames(path):
    with Trajectory(str(path)) as frames:
        return list(frames)


def _rods(atoms):
    pairs = np.array([[1, 2], [3, 4], [3, 5]])
    return np.linalg.norm(atoms.positions[pairs[:, 0]] - atoms.positions[pairs[:, 1]], axis=1)


# --- objects


def test_objects_come_from_bond_length_constraints(atoms):
    atoms.set_constraint([FixBondLengths([[2, 1]]), FixBondLengths([[4, 3], [3, 5], [3, 4]])])
    assert find_objects(atoms) == OBJECTS


def test_objects_come_from_rigid_groups(atoms):
    atoms.set_array("rigid_group", np.array([-1, 7, 7, 0, 0, -1]))
    assert find_objects(atoms) == {
        "isolated": [0, 5],
        "stick": [[1, 3], [2, 4]],
        "hinge": [[], [], []],
    }


def test_groups_and_constraints_together_make_a_hinge(atoms):
    atoms.set_array("rigid_group", np.array([-1, 7, 7, 0, 0, -1]))
    atoms.set_constraint(FixBondLengths([[3, 5]]))
    assert find_objects(atoms) == OBJECTS


def test_atoms_that_say_nothing_are_isolated(atoms):
    assert find_objects(atoms)["isolated"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("constraint", "match"),
    [
        (FixAtoms([0]), r"cannot hold the constraint FixAtoms; it knows FixBondLengths"),
        (FixBondLengths([[0, 6]]), r"FixBondLengths pair 0, 6 is out of range 0\.\.5"),
        (FixBondLengths([[-1, 2]]), r"FixBondLengths pair -1, 2 is out of range 0\.\.5"),
        (FixBondLengths([[2, 2]]), r"FixBondLengths pair 2, 2 joins an atom to itself"),
        (FixBondLengths([[0, 1], [1, 2], [2, 3]]), r"rods at atom 1 \(to 0, 2\) form neither"),
        (FixBondLengths([[0, 1], [1, 2], [0, 2]]), r"rods at atom 0 \(to 1, 2\) form neither"),
        (FixBondLengths([[0, 1], [0, 2], [0, 3]]), r"rods at atom 0 \(to 1, 2, 3\) form neither"),
    ],
)
def test_constraints_that_are_no_objects_are_refused(atoms, constraint, match):
    atoms.set_constraint(constraint)
    with pytest.raises(GraphError, match=match):
        find_objects(atoms)


def test_rigid_group_of_three_is_refused(atoms):
    atoms.set_array("rigid_group", np.array([-1, 4, 4, 4, -1, -1]))
    with pytest.raises(GraphError, match=r"rigid_group 4 holds atoms 1, 2, 3; a rigid group is"):
        find_objects(atoms)


# --- runs


def test_a_step_is_the_eager_networks_step(path, atoms):
    dynamics = _dynamics()
    objects = {kind: torch.tensor(index) for kind, index in OBJECTS.items()}
    x, v = dynamics(
        torch.from_numpy(atoms.get_initial_charges()),
        torch.from_numpy(atoms.positions.copy()),
        torch.from_numpy(atoms.get_velocities()),
        complete_edges(6, torch.device("cpu")),
        objects,
    )
    assert Propagator(path, device="cpu").run(atoms, 1, objects=OBJECTS) is True
    np.testing.assert_allclose(atoms.positions, x.detach().numpy(), rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_velocities(), v.detach().numpy(), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "allowed"), [(None, 1e-11), ("float32", 1e-4)])
def test_rods_keep_their_lengths_over_many_steps(path, atoms, dtype, allowed):
    before, start = _rods(atoms), atoms.positions.copy()
    Propagator(path, device="cpu", dtype=dtype).run(atoms, 50, objects=OBJECTS)
    assert np.abs(atoms.positions - start).max() > 1e-2
    assert np.abs(_rods(atoms) - before).max() < allowed


def test_constraints_and_an_index_give_the_same_run(path, atoms):
    held = atoms.copy()
    held.set_constraint(FixBondLengths([[1, 2], [3, 4], [3, 5]]))
    constraints = held.constraints
    Propagator(path, device="cpu").run(held, 3)
    Propagator(path, device="cpu").run(atoms, 3, objects=OBJECTS)
    np.testing.assert_array_equal(held.positions, atoms.positions)
    assert held.constraints == constraints


def test_observers_are_called_as_by_ases_dynamics(path, atoms):
    calls = {"every": [], "third": [], "once": [], "written": []}

    class Writer:
        def write(self, word):
            calls["written"].append(word)

    propagator = Propagator(path, device="cpu")
    propagator.attach(lambda: calls["every"].append(propagator.nsteps))
    propagator.attach(lambda word, end: calls["third"].append(word + end), 3, "a", end="b")
    propagator.attach(lambda: calls["once"].append(propagator.get_time()), interval=-2)
    propagator.attach(Writer(), 4, "w")
    propagator.run(atoms, 5, objects=OBJECTS)
    propagator.run(atoms, 2, objects=OBJECTS)
    assert calls == {
        "every": [0, 1, 2, 3, 4, 5, 6, 7],
        "third": ["ab"] * 3,
        "once": [1.0],
        "written": ["w"] * 2,
    }
    assert (propagator.nsteps, propagator.get_number_of_steps()) == (7, 7)
    assert propagator.get_time() == 3.5


def test_irun_yields_before_and_after_every_step(path, atoms):
    propagator = Propagator(path, device="cpu")
    seen = [(propagator.nsteps, done) for done in propagator.irun(atoms, 3, objects=OBJECTS)]
    assert seen == [(0, False), (1, False), (2, False), (3, True)]
    assert list(propagator.irun(atoms, 0, objects=OBJECTS)) == [True]


def test_another_structure_starts_at_step_zero(path, atoms):
    propagator = Propagator(path, device="cpu")
    other = atoms.copy()
    propagator.run(atoms, 4, objects=OBJECTS)
    propagator.run(other, 1, objects=OBJECTS)
    assert propagator.nsteps == 1
    assert propagator.atoms is other


def test_trajectory_holds_every_frame_with_velocities(path, atoms, tmp_path):
    file = tmp_path / "run.traj"
    Propagator(path, device="cpu", trajectory=file, loginterval=2).run(atoms, 4, objects=OBJECTS)
    frames = _frames(file)
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[-1].positions, atoms.positions)
    np.testing.assert_array_equal(frames[-1].get_velocities(), atoms.get_velocities())
    Propagator(path, device="cpu", trajectory=file, append_trajectory=True).run(
        atoms, 1, objects=OBJECTS
    )
    assert len(_frames(file)) == 5
    Propagator(path, device="cpu", trajectory=str(file)).run(atoms, 1, objects=OBJECTS)
    assert len(_frames(file)) == 2


def test_open_trajectories_can_be_given_or_attached(path, atoms, tmp_path):
    names = [str(tmp_path / name) for name in ("a.traj", "b.traj")]
    with Trajectory(names[0], "w") as given, Trajectory(names[1], "w", atoms) as attached:
        propagator = Propagator(path, device="cpu", trajectory=given)
        propagator.attach(attached)
        propagator.run(atoms, 2, objects=OBJECTS)
    assert [len(_frames(name)) for name in names] == [3, 3]


def test_a_single_particle_moves_straight_on(path):
    atoms = Atoms("X", [[1.0, 2.0, 3.0]], momenta=[[0.1, 0.0, 0.0]], charges=[1])
    Propagator(path, device="cpu").run(atoms, 1)
    np.testing.assert_allclose(atoms.positions[0, 1:], [2.0, 3.0], atol=1e-14)
    assert np.isfinite(atoms.positions).all()


def test_todict_names_the_model_and_the_timestep(path):
    assert Propagator(path, device="cpu").todict() == {
        "type": "molecular-dynamics",
        "md-type": "Propagator",
        "model": "small",
        "timestep": 0.5,
    }


# --- the file


def test_running_a_propagator_imports_neither_networks_nor_training():
    code = (
        "import sys, eqcalc.dynamics; eqcalc.dynamics.Propagator; "
        "print([n for n in ('architectures', 'potential', 'training', 'dynamics.learned') "
        "if f'eqcalc.{n}' in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_card_says_what_the_propagator_is(path):
    card = Propagator(path, device="cpu").card
    assert (card.kind, card.architecture, card.timestep) == ("propagator", "gmn", 0.5)
    assert card.config == {"hidden_dim": 8, "num_layers": 2, "learnable": False, "layer_time": 1.0}
    assert (card.objects, card.charges) == (["isolated", "stick", "hinge"], [-1.0, 1.0])
    page = card.to_markdown()
    for words in (
        "# small",
        "a test",
        "**gmn**: hidden_dim = 8",
        "timestep: 0.5",
        "-1, +1",
        "no energy",
        "samples: 3",
        "position_mse: 0.25",
        "licence: MIT",
    ):
        assert words in page


def test_file_is_listed_and_read_like_any_models(path):
    from eqcalc.model_file import read_card

    assert read_card(path) == Propagator(path, device="cpu").card


FRESH_PROCESS = """
import json, sys

class OnlyTorch:
    blocked = {"ase", "eqcalc", "numpy.lib.recfunctions", "safetensors", "vesin"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.blocked:
            raise ImportError(f"{name} is blocked")
        return None

sys.meta_path.insert(0, OnlyTorch())
import warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
extra = {"passport.json": ""}
model = torch.jit.load(sys.argv[1], _extra_files=extra)
worst = 0.0
for frame in json.loads(extra["passport.json"])["frames"]:
    state = [torch.tensor(frame[name], dtype=torch.float64)
             for name in ("charges", "positions", "velocities")]
    objects = {kind: torch.tensor(index, dtype=torch.int64)
               for kind, index in frame["objects"].items()}
    for _ in range(3):
        x, v = model(*state, objects)
    for found, name in ((x, "next_positions"), (v, "next_velocities")):
        worst = max(worst, float((found - torch.tensor(frame[name])).abs().max()))
print(worst)
"""


def test_file_runs_in_a_fresh_process_that_has_only_torch(path):
    found = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 1e-6  # the expected values are read as float32


def test_export_leaves_the_dynamics_as_it_was(tmp_path):
    dynamics = _dynamics(torch.float32).train()
    export_propagator(dynamics, tmp_path / "a.pt", timestep=1.0)
    assert dynamics.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in dynamics.parameters())


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exports_of_every_kind_pass_their_own_passport(tmp_path, dtype, learnable):
    export_propagator(_dynamics(dtype, learnable=learnable), tmp_path / "a.pt", timestep=1.0)
    for working in ("float32", "float64"):
        propagator = Propagator(tmp_path / "a.pt", device="cpu", dtype=working)
        assert propagator.card.dtype == str(dtype).removeprefix("torch.")


def test_layer_time_is_the_time_that_a_layer_moves_over(tmp_path, atoms):
    dynamics = _dynamics(layer_time=0.25)
    q, x, v = (
        torch.from_numpy(values.copy())
        for values in (atoms.get_initial_charges(), atoms.positions, atoms.get_velocities())
    )
    objects = {kind: torch.tensor(index) for kind, index in OBJECTS.items()}
    edges = complete_edges(6, x.device)
    found = dynamics(q, x, v, edges, objects)
    products = (q[edges[0]] * q[edges[1]]).unsqueeze(1)
    speeds = torch.sqrt(v.square().sum(dim=1, keepdim=True) + 1e-8)
    degree = torch.full((6,), 5.0, dtype=x.dtype)
    expected = dynamics.network(speeds, x, 0.25 * v, edges, degree, objects, products)
    torch.testing.assert_close(found[0], expected[0], rtol=0.0, atol=1e-13)
    torch.testing.assert_close(found[1], 4.0 * expected[1], rtol=0.0, atol=1e-13)
    export_propagator(dynamics, tmp_path / "a.pt", timestep=0.5)
    Propagator(tmp_path / "a.pt", device="cpu").run(atoms, 1, objects=OBJECTS)
    np.testing.assert_allclose(atoms.positions, found[0].detach().numpy(), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_an_exported_egnn_makes_the_eager_networks_steps(tmp_path, atoms, dtype, allowed):
    torch.manual_seed(0)
    dynamics = EGNNDynamics(hidden_dim=8, num_layers=2).to(dtype)
    card = export_propagator(dynamics, tmp_path / "a.pt", timestep=0.5, objects=["isolated"])
    assert (card.architecture, card.config) == ("egnn", {"hidden_dim": 8, "num_layers": 2})
    state = [atoms.get_initial_charges(), atoms.positions.copy(), atoms.get_velocities()]
    q, x, v = (torch.tensor(values, dtype=dtype) for values in state)
    start = atoms.positions.copy()
    for _ in range(3):
        x, v = dynamics(q, x, v, complete_edges(6, x.device), {})
    Propagator(tmp_path / "a.pt", device="cpu").run(atoms, 3)
    assert np.abs(atoms.positions - start).max() > 1e-2
    for found, expected in ((atoms.positions, x), (atoms.get_velocities(), v)):
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0.0, atol=allowed)


def test_name_is_the_folders_or_the_files(tmp_path):
    for file, name in (("gmn-x/model.pt", "gmn-x"), ("mine.pt", "mine")):
        assert export_propagator(_dynamics(), tmp_path / file, timestep=1.0).name == name


# --- refusals of a run


def _changed(atoms, **changes):
    for name, values in changes.items():
        getattr(atoms, f"set_{name}")(values)
    return atoms


@pytest.mark.parametrize(
    ("objects", "match"),
    [
        ({**OBJECTS, "stick": [[1], [6]]}, r"object_index\['stick'\] must lie in 0\.\.5, found 6"),
        ({**OBJECTS, "stick": [[1], [3]]}, r"objects overlap at atoms 3 \(atom 3: 'stick' column"),
        ({**OBJECTS, "hinge": [[3], [4], [4]]}, r"object_index\['hinge'\] column 0 repeats"),
        ({**OBJECTS, "stick": [[1.0], [2.0]]}, r"object_index\['stick'\] must hold integers"),
        ({"isolated": [0]}, r"found none for atoms 1, 2, 3, 4, 5"),
    ],
)
def test_bad_object_indices_are_refused(loaded, atoms, objects, match):
    with pytest.raises(GraphError, match=match):
        loaded.run(atoms, 1, objects=objects)


@pytest.mark.parametrize(
    ("constraint", "match"),
    [
        (FixAtoms([0]), r"cannot hold the constraint FixAtoms"),
        (FixBondLengths([[4, 5]]), r"holds the pair 4, 5, which is no rod of the objects given"),
    ],
)
def test_constraints_that_the_objects_do_not_keep_are_refused(loaded, atoms, constraint, match):
    atoms.set_constraint(constraint)
    with pytest.raises(GraphError, match=match):
        loaded.run(atoms, 1, objects=OBJECTS)


def test_zero_length_rods_are_refused(loaded, atoms):
    atoms.positions[2] = atoms.positions[1]
    with pytest.raises(GraphError, match=r"column 0 is a rod of zero length: atoms 1, 2"):
        loaded.run(atoms, 1, objects=OBJECTS)


@pytest.mark.parametrize(
    ("error", "changes", "match"),
    [
        (GraphError, {"pbc": True}, r"knows no box; this structure has pbc=\[True, True, True\]"),
        (
            GraphError,
            {"positions": np.full((6, 3), np.nan)},
            r"positions of atoms 0, 1, 2, 3, 4, 5 are NaN or infinite",
        ),
        (GraphError, {"momenta": np.full((6, 3), np.inf)}, r"velocities of atoms 0, 1, 2"),
        (
            ConfigError,
            {"initial_charges": [0, 1, 1, -1, 1, 0.5]},
            r"trained on charges of -1\.0, 1\.0; atoms 0, 5 have 0\.0, 0\.5\. Set them with "
            r"atoms\.set_initial_charges",
        ),
        (ConfigError, {"masses": [1, 1, 2, 1, 1, 1]}, r"masses of 1\.0; atoms 2 have 2\.0"),
    ],
)
def test_states_unlike_the_training_data_are_refused(loaded, atoms, error, changes, match):
    before = _changed(atoms, **changes).copy()
    with pytest.raises(error, match=match):
        loaded.run(atoms, 1, objects=OBJECTS)
    np.testing.assert_array_equal(atoms.positions, before.positions)


def test_no_atoms_are_refused(loaded):
    with pytest.raises(GraphError, match=r"needs at least one atom, found none"):
        loaded.run(Atoms(), 1)


def test_objects_that_were_not_in_the_training_data_are_refused(tmp_path, atoms):
    export_propagator(_dynamics(), tmp_path / "a.pt", timestep=1.0, objects=["isolated", "stick"])
    propagator = Propagator(tmp_path / "a.pt", device="cpu")
    with pytest.raises(ConfigError, match=r"not trained on objects of kind 'hinge' \(atoms 3, 4"):
        propagator.run(atoms, 1, objects=OBJECTS)
    propagator.run(atoms, 1, objects={"isolated": [0, 1, 2, 3], "stick": [[4], [5]]})


def test_step_without_a_run_is_refused(path):
    with pytest.raises(ConfigError, match=r"step needs the atoms of a run; call run or irun"):
        Propagator(path, device="cpu").step()


@pytest.mark.parametrize(("options", "call"), [({"loginterval": 0}, None), ({}, -1)])
def test_negative_counts_are_refused(path, atoms, options, call):
    match = r"steps must be an integer >= 0, found -1" if call else r"loginterval must be an int"
    with pytest.raises(ConfigError, match=match):
        Propagator(path, device="cpu", **options).run(atoms, call, objects=OBJECTS)


def test_nan_from_the_model_is_an_error_that_leaves_the_atoms(tmp_path, atoms):
    class Exploding(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(
            self,
            charges: torch.Tensor,
            positions: torch.Tensor,
            velocities: torch.Tensor,
            edge_index: torch.Tensor,
            object_index: dict[str, torch.Tensor],
        ) -> tuple[torch.Tensor, torch.Tensor]:
            far = positions.abs().max() > 100.0
            bad = torch.where(far, torch.full_like(positions, float("nan")), positions)
            return bad * self.weight, velocities

    export_propagator(Exploding(), tmp_path / "a.pt", timestep=1.0)
    atoms.positions[0] = 1000.0
    before = atoms.copy()
    with pytest.raises(NonFiniteError, match=r"'a' returned NaN or infinity at step 1"):
        Propagator(tmp_path / "a.pt", device="cpu").run(atoms, 1)
    assert atoms == before


# --- refusals of a file


def test_potentials_are_refused_with_the_class_that_takes_them(tmp_path):
    with pytest.raises(ModelFileError, match=r"is a potential \(painn\), not a propagator: use it"):
        Propagator(export_small(tmp_path / "potential.pt"), device="cpu")


def test_a_shipped_potential_is_refused():
    with pytest.raises(ModelFileError, match=r"painn-ethanol.* is a potential \(painn\), not"):
        Propagator("painn-ethanol", device="cpu")


@pytest.mark.parametrize("load", [EqCalculator, load_model])
def test_a_propagator_is_refused_as_a_potential(path, load):
    match = (
        r"'.*small\.pt' is a learned dynamics \(gmn\), not a potential: it has no energy and no "
        r"forces\. Run it with eqcalc\.dynamics\.Propagator"
    )
    with pytest.raises(ModelFileError, match=match):
        load(path)
    with pytest.raises(ModelFileError, match=match):
        EqCalculator([path, path])


def test_missing_files_are_refused():
    with pytest.raises(UnknownModelError, match=r"unknown model: 'gmn-nobody'"):
        Propagator("gmn-nobody", device="cpu")


def _rewritten(path, target, passport):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, passport if name.endswith("/extra/passport.json") else content)
    target.write_bytes(stamp(target.read_bytes()))
    return target


def test_unreadable_passports_are_refused(path, tmp_path):
    with pytest.raises(ModelFileError, match=r"the passport inside '.*a\.pt' is not readable"):
        Propagator(_rewritten(path, tmp_path / "a.pt", '{"frames": 3}'), device="cpu")


def test_a_passport_that_is_not_reproduced_is_refused(path, tmp_path):
    file, _ = open_propagator_file(path)
    passport = json.loads(file.passport)
    passport["frames"][1]["next_velocities"][2][0] += 1e-3
    changed = _rewritten(path, tmp_path / "a.pt", json.dumps(passport))
    match = r"not reproduce its own passport\. Frame 1: velocities differ by 0\.001"
    with pytest.raises(ModelFileError, match=match):
        Propagator(changed, device="cpu")


def test_a_passport_with_nan_is_not_reproduced(path):
    file, _ = open_propagator_file(path)
    with pytest.raises(ModelFileError, match=r"positions differ by nan"):
        verify_steps(
            PropagatorPassport.from_json(file.passport),
            lambda q, x, v, o: (x * torch.nan, v),
            torch.float64,
            torch.device("cpu"),
            "here",
        )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timestep": 0.0}, r"timestep must be a positive number, found 0\.0"),
        ({"objects": []}, r"objects must name some of isolated, stick, hinge, found \[\]"),
        ({"objects": ["sticks"]}, r"found \['sticks'\]\. Did you mean 'stick'\?"),
        ({"charges": []}, r"charges must hold at least one value"),
        ({"licence": None}, r"card cannot hold .* licence: expected a text, found 'None'"),
        ({"errors": {"mse": math.nan}}, r"card cannot hold .* not JSON compliant"),
    ],
)
def test_export_refuses_options_out_of_range(tmp_path, options, match):
    with pytest.raises(ConfigError, match=match):
        export_propagator(_dynamics(), tmp_path / "a.pt", **{"timestep": 1.0, **options})
    assert not (tmp_path / "a.pt").exists()


class _Unscriptable(_dynamics().__class__):
    def forward(self, *state):  # TorchScript takes no variable arguments
        return super().forward(*state)


class _FailsInScript(_dynamics().__class__):
    def forward(
        self,
        charges: torch.Tensor,
        positions: torch.Tensor,
        velocities: torch.Tensor,
        edge_index: torch.Tensor,
        object_index: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.jit.is_scripting():
            raise RuntimeError("not here")
        return positions, velocities


@pytest.mark.parametrize("kind", [_Unscriptable, _FailsInScript])
def test_export_refuses_what_torchscript_cannot_run(tmp_path, kind):
    with pytest.raises(ConfigError, match=r"cannot be exported, because TorchScript cannot run it"):
        export_propagator(kind(8, 2), tmp_path / "a.pt", timestep=1.0)


def test_export_replaces_a_file_only_when_told_to(path, tmp_path):
    export_propagator(_dynamics(), tmp_path / "a.pt", timestep=1.0)
    with pytest.raises(OutputExistsError, match=r"a\.pt' exists; pass overwrite=True"):
        export_propagator(_dynamics(), tmp_path / "a.pt", timestep=2.0)
    export_propagator(_dynamics(), tmp_path / "a.pt", timestep=2.0, overwrite=True)
    assert Propagator(tmp_path / "a.pt", device="cpu").card.timestep == 2.0


def test_export_into_a_file_as_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot create the folder of '.*file/a\.pt'"):
        export_propagator(_dynamics(), tmp_path / "file" / "a.pt", timestep=1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p["tolerances"].update(float32=float("inf")), "tolerance of float32"),
        (lambda p: p["tolerances"].update(float32="1"), "tolerance of float32"),
        (lambda p: p.update(frames=[]), "it holds no frames"),
        (lambda p: p["frames"][0]["positions"].pop(), "positions of frame 0"),
        (lambda p: p["frames"][0]["charges"].__setitem__(0, None), "charges of frame 0"),
        (lambda p: p["frames"][0]["objects"].update(stick=[[0], [99]]), "atoms that are not there"),
    ],
)
def test_a_passport_with_a_value_that_no_propagator_has_is_refused(change, reason, path, tmp_path):
    content = json.loads(open_propagator_file(path)[0].passport)
    change(content)
    changed = _rewritten(path, tmp_path / "a.pt", json.dumps(content))
    with pytest.raises(ModelFileError, match=rf"passport inside .* not readable: .*{reason}"):
        Propagator(changed, device="cpu")


def test_a_passport_without_a_tolerance_for_the_precision_is_refused(path, tmp_path):
    content = json.loads(open_propagator_file(path)[0].passport)
    del content["tolerances"]["float64"]
    changed = _rewritten(path, tmp_path / "a.pt", json.dumps(content))
    with pytest.raises(ModelFileError, match="no tolerance for float64; it knows float32"):
        Propagator(changed, device="cpu", dtype="float64")


def test_autocast_and_another_default_device_change_nothing(path, atoms):
    expected, found = atoms.copy(), atoms.copy()
    Propagator(path, dtype="float32").run(expected, 3)
    propagator = Propagator(path, dtype="float32")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        propagator.run(found, 3)
        Propagator(path, dtype="float32")  # its passport holds here too
    np.testing.assert_array_equal(found.positions, expected.positions)
    with torch.device("meta"):  # stands for a GPU
        again = Propagator(path, dtype="float32")
    found = atoms.copy()
    again.run(found, 3)
    np.testing.assert_array_equal(found.positions, expected.positions)


def test_a_run_that_another_one_has_interrupted_does_not_go_on_in_it(path, atoms):
    propagator, other = Propagator(path), atoms.copy()
    first = propagator.irun(atoms, 5)
    next(first)
    next(first)
    propagator.run(other, 2)
    there = other.positions.copy()
    with pytest.raises(ConfigError, match="another run of this propagator has begun meanwhile"):
        next(first)
    np.testing.assert_array_equal(other.positions, there)
