"""The constrained n-body generator, its files, and training on its data."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import typer
from ase.constraints import FixBondLengths
from typer.testing import CliRunner

from eqcalc.cli.nbody import nbody
from eqcalc.dynamics import (
    DynamicsOptions,
    NBodyData,
    NBodySystem,
    build_dynamics,
    evaluate_dynamics,
    read_nbody,
    simulate,
    train_dynamics,
    write_nbody,
)
from eqcalc.dynamics.learned import LEARNED_DYNAMICS, complete_edges
from eqcalc.dynamics.nbody import FORCE_CLIP, total_energy
from eqcalc.errors import ConfigError, DataError, NonFiniteError, OutputExistsError

SYSTEMS = [(1, 2, 0), (2, 0, 1), (3, 2, 1)]


@pytest.fixture(scope="module")
def runs() -> dict[tuple[int, int, int], NBodyData]:
    """Return 40 trajectories of the published length for each system."""
    return {counts: simulate(NBodySystem(*counts), 40, save_every=20, seed=3) for counts in SYSTEMS}


@pytest.fixture(scope="module")
def short() -> NBodyData:
    return simulate(NBodySystem(1, 1, 1), 12, n_steps=400, seed=4)


def _closest(data):
    """Return each sample's closest approach in any frame, (n_samples,)."""
    i, j = data.system.pairs
    r = np.linalg.norm(data.positions[:, :, i] - data.positions[:, :, j], axis=-1)
    return r.min(axis=(1, 2))


# --- what a system is


def test_objects_and_rods_of_a_system_are_numbered_in_order():
    system = NBodySystem(1, 2, 2)
    objects = {kind: index.tolist() for kind, index in system.object_index.items()}
    assert objects == {
        "isolated": [0],
        "stick": [[1, 3], [2, 4]],
        "hinge": [[5, 8], [6, 9], [7, 10]],
    }
    assert system.rods.T.tolist() == [[1, 2], [3, 4], [6, 5], [7, 5], [9, 8], [10, 8]]


def test_pairs_leave_out_the_rods():
    i, j = NBodySystem(1, 1, 1).pairs
    left_out = {(a, b) for a in range(6) for b in range(a + 1, 6)} - set(
        zip(i.tolist(), j.tolist(), strict=True)
    )
    assert left_out == {(1, 2), (3, 4), (3, 5)}


# --- the initial state


def test_initial_state_has_the_stated_distribution():
    data = simulate(NBodySystem(5, 0, 0), 4000, n_steps=1, save_every=1, seed=1)
    x, v = data.positions[:, 0], data.velocities[:, 0]
    assert abs(x.mean()) < 0.02
    assert x.std() == pytest.approx(1.1, rel=0.01)
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), 0.5, rtol=1e-12)
    assert abs(v.mean()) < 0.005
    assert set(np.unique(data.charges)) == {-1.0, 1.0}
    assert abs(data.charges.mean()) < 0.03


def test_sigma_grows_with_the_number_of_particles():
    data = simulate(NBodySystem(40, 0, 0), 400, n_steps=1, save_every=1, seed=1)
    assert data.positions[:, 0].std() == pytest.approx(2.1, rel=0.01)


def test_samples_depend_on_the_seed_and_not_on_their_number():
    system = NBodySystem(1, 1, 0)
    few, many, other = (
        simulate(system, n, n_steps=20, save_every=10, seed=seed)
        for n, seed in ((3, 0), (300, 0), (3, 1))
    )
    np.testing.assert_allclose(few.positions, many.positions[:3], rtol=0.0, atol=1e-14)
    assert np.abs(few.positions - other.positions).min(axis=(0, 1, 2)).max() > 1e-3


# --- the motion


@pytest.mark.parametrize("counts", SYSTEMS, ids=str)
def test_rods_keep_their_lengths_over_a_whole_run(runs, counts):
    lengths = runs[counts].rod_lengths()
    assert lengths.shape == (40, 251, 2 * counts[2] + counts[1])
    assert np.abs(lengths - lengths[:, :1]).max() < 1e-10  # asked for: 1e-8


@pytest.mark.parametrize("counts", SYSTEMS, ids=str)
def test_velocities_do_not_stretch_the_rods(runs, counts):
    data = runs[counts]
    a, b = data.system.rods
    apart = data.positions[:, :, a] - data.positions[:, :, b]
    relative = data.velocities[:, :, a] - data.velocities[:, :, b]
    assert np.abs((apart * relative).sum(axis=-1)).max() < 1e-10


@pytest.mark.parametrize("counts", SYSTEMS, ids=str)
def test_energy_and_momentum_are_conserved(runs, counts):
    data = runs[counts]
    energies = total_energy(data)
    drift = np.abs(energies - energies[:, :1]).max(axis=1)
    calm = _closest(data) > 0.3  # in 20 steps nobody comes from there to the clip at 0.1
    assert calm.sum() >= 4
    assert drift[calm].max() < 1e-4
    momenta = data.velocities.sum(axis=2)
    assert np.abs(momenta - momenta[:, :1]).max() < 1e-9


def test_energy_error_falls_with_the_square_of_the_timestep():
    system = NBodySystem(1, 1, 1)
    drifts = []
    for timestep, stride in ((0.004, 1), (0.002, 2)):
        data = simulate(
            system, 64, n_steps=100 * stride, save_every=10 * stride, timestep=timestep, seed=5
        )
        energies = total_energy(data)
        drifts.append(np.median(np.abs(energies - energies[:, :1]).max(axis=1)))
    assert drifts[0] / drifts[1] == pytest.approx(4.0, rel=0.1)


def test_force_is_the_gradient_of_the_energy_also_where_it_is_clipped():
    system = NBodySystem(2, 0, 0)
    for r in (0.05, 0.5):
        data = NBodyData(
            system, np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 3)), np.array([[1.0, -1.0]]), 1.0, 0
        )
        data.positions[0, :, 1, 0] = r - 1e-6, r + 1e-6
        slope = float(np.diff(total_energy(data)[0])[0]) / 2e-6
        assert slope == pytest.approx(min(1.0 / r**2, FORCE_CLIP), rel=1e-6)


def test_two_charges_fall_as_newton_says():
    system = NBodySystem(2, 0, 0)
    data = simulate(system, 200, n_steps=2, save_every=1, timestep=1e-4, seed=2)
    x, v, q = data.positions, data.velocities, data.charges
    apart = x[:, 0, 0] - x[:, 0, 1]
    r = np.linalg.norm(apart, axis=-1, keepdims=True)
    expected = (q[:, :1] * q[:, 1:]) * apart / r**3
    found = (v[:, 2, 0] - v[:, 0, 0]) / 2e-4
    far = r[:, 0] > 0.5
    np.testing.assert_allclose(found[far], expected[far], rtol=0.0, atol=5e-3)


def test_force_of_very_close_charges_is_clipped():
    data = simulate(NBodySystem(2, 0, 0), 40000, n_steps=1, save_every=1, timestep=1e-6, seed=0)
    r = np.linalg.norm(data.positions[:, 0, 0] - data.positions[:, 0, 1], axis=-1)
    close = (r > 0.01) & (r < 0.095)
    assert close.sum() >= 3
    force = np.linalg.norm(data.velocities[close, 1, 0] - data.velocities[close, 0, 0], axis=-1)
    np.testing.assert_allclose(force / 1e-6, FORCE_CLIP, rtol=1e-6)


def test_a_free_stick_spins_uniformly():
    data = simulate(NBodySystem(0, 1, 0), 20, n_steps=1000, seed=6)
    x, v = data.positions, data.velocities
    r, spin = x[:, :, 0] - x[:, :, 1], v[:, :, 0] - v[:, :, 1]
    centre = x.mean(axis=2)
    drift = centre - centre[:, :1] - 0.1 * np.arange(11)[:, None] * v[:, :1].mean(axis=2)
    assert np.abs(drift).max() < 1e-12
    axis = np.cross(r, spin)
    np.testing.assert_allclose(axis, np.broadcast_to(axis[:, :1], axis.shape), atol=1e-11)
    rate = np.linalg.norm(spin[:, 0], axis=1) / np.linalg.norm(r[:, 0], axis=1)
    slow = rate < 2.0
    cosine = np.einsum("fc,fc->f", r[slow, 0], r[slow, 10]) / np.square(r[slow, 0]).sum(axis=1)
    np.testing.assert_allclose(cosine, np.cos(rate[slow]), atol=1e-5)


def test_progress_ends_at_its_total():
    told = []
    simulate(
        NBodySystem(1, 0, 0), 300, n_steps=4, save_every=2, progress=lambda *now: told.append(now)
    )
    assert told[-1] == (1200, 1200)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# --- files and atoms


def test_npz_round_trip_is_exact(short, tmp_path):
    write_nbody(tmp_path / "n.npz", short)
    again = read_nbody(tmp_path / "n.npz")
    for name in ("positions", "velocities", "charges"):
        np.testing.assert_array_equal(getattr(again, name), getattr(short, name))
    assert (again.system, again.frame_time, again.seed) == (short.system, 0.1, 4)


def test_extxyz_holds_charges_velocities_and_times(short, tmp_path):
    write_nbody(tmp_path / "n.xyz", short.samples(slice(0, 2)))
    frames = ase.io.read(tmp_path / "n.xyz", index=":")
    assert len(frames) == 10
    atoms = frames[7]
    assert (atoms.info["sample"], atoms.info["time"]) == (1, pytest.approx(0.2))
    np.testing.assert_allclose(atoms.positions, short.positions[1, 2], atol=1e-8)
    np.testing.assert_allclose(atoms.get_velocities(), short.velocities[1, 2], atol=1e-8)
    np.testing.assert_allclose(atoms.get_initial_charges(), short.charges[1])


def test_atoms_carry_mass_charge_velocity_and_rods(short):
    atoms = short.atoms(2, 1)
    np.testing.assert_array_equal(atoms.get_masses(), 1.0)
    np.testing.assert_array_equal(atoms.get_velocities(), short.velocities[2, 1])
    (constraint,) = atoms.constraints
    assert isinstance(constraint, FixBondLengths)
    assert constraint.pairs.tolist() == short.system.rods.T.tolist()
    assert simulate(NBodySystem(2, 0, 0), 1, n_steps=100).atoms(0, 0).constraints == []


# --- training


def test_edges_join_every_pair_in_both_directions():
    edges = complete_edges(4, torch.device("cpu"))
    assert sorted(map(tuple, edges.T.tolist())) == [
        (j, i) for j in range(4) for i in range(4) if i != j
    ]
    assert bool((edges[1].diff() >= 0).all())


@pytest.mark.parametrize("name", sorted(LEARNED_DYNAMICS))
def test_training_lowers_the_error_and_keeps_the_best_weights(short, name):
    torch.manual_seed(0)
    dynamics = build_dynamics(name, {"hidden_dim": 8, "num_layers": 2})
    options = DynamicsOptions(
        start_frames=(0,),
        horizon=3,
        n_epochs=40,
        batch_size=6,
        learning_rate=1e-2,
        validate_every=10,
        velocity_weight=0.5,
    )
    before = evaluate_dynamics(dynamics, short, options)
    told = []
    best = train_dynamics(dynamics, short, short, options, told.append)
    after = evaluate_dynamics(dynamics, short, options)
    assert [now.epoch for now in told] == [10, 20, 30, 40]
    assert best.validation_loss == min(now.validation_loss for now in told)
    loss = after.position_mse + 0.5 * after.velocity_mse
    assert loss < 0.7 * (before.position_mse + 0.5 * before.velocity_mse)
    assert loss == pytest.approx(best.validation_loss, rel=1e-5)


def test_gradients_are_clipped_only_when_asked(short):
    norms = {}
    for clip in (None, 1e-3):
        torch.manual_seed(0)
        dynamics = build_dynamics("gmn", {"hidden_dim": 8, "num_layers": 2})
        options = DynamicsOptions((0,), 3, n_epochs=1, gradient_clip=clip)
        train_dynamics(dynamics, short, short, options)
        gradients = [p.grad for p in dynamics.parameters() if p.grad is not None]
        norms[clip] = float(torch.nn.utils.get_total_norm(gradients))
    assert norms[None] > 1e-2
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_gmn_keeps_the_rods_in_a_batch_and_egnn_does_not(short):
    options = DynamicsOptions(start_frames=(0, 1), horizon=3, batch_size=5)
    torch.manual_seed(0)
    errors = {
        name: evaluate_dynamics(build_dynamics(name), short, options) for name in ("gmn", "egnn")
    }
    assert errors["gmn"].rod_error < 1e-5
    assert errors["egnn"].rod_error > 1e-3


@pytest.mark.parametrize("name", sorted(LEARNED_DYNAMICS))
def test_batch_gives_what_single_samples_give(short, name):
    torch.manual_seed(0)
    dynamics = build_dynamics(name, {"hidden_dim": 8, "num_layers": 2}).double()
    one, all_at_once = (
        evaluate_dynamics(dynamics, short, DynamicsOptions((0,), 3, batch_size=n)) for n in (1, 12)
    )
    np.testing.assert_allclose(one, all_at_once, rtol=1e-9, atol=1e-14)


def test_gmn_knows_that_only_products_of_charges_matter(short):
    torch.manual_seed(0)
    dynamics = build_dynamics("gmn").double()
    options = DynamicsOptions(start_frames=(0,), horizon=3)
    flipped = NBodyData(
        short.system, short.positions, short.velocities, -short.charges, short.frame_time, 0
    )
    assert evaluate_dynamics(dynamics, flipped, options) == evaluate_dynamics(
        dynamics, short, options
    )


# --- the verb


def _eqcalc(*words):
    app = typer.Typer()
    app.command()(nbody)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_verb_writes_the_data_with_progress_and_says_how_good_it_is(tmp_path):
    path = tmp_path / "n.npz"
    options = ("--isolated", 0, "--sticks", 1, "--hinges", 1, "--samples", 20, "--steps", 200)
    result = _eqcalc(path, *options)
    assert result.exit_code == 0
    for words in (
        "step 20/20",
        "20 of 5 particles, 3 frames every 0.1",
        "lengths kept to",
        "energy",
        str(path),
    ):
        assert words in result.stdout.replace("\n", " ")
    assert len(read_nbody(path)) == 20
    with pytest.raises(OutputExistsError, match=r"n\.npz' exists; pass overwrite=True to replace"):
        _eqcalc(path, *options)
    assert _eqcalc(path, *options, "--overwrite").exit_code == 0


# --- refusals


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: NBodySystem(0, 0, 0), r"at least one particle, found none"),
        (lambda: NBodySystem(1, -1, 0), r"n_sticks must be an integer >= 0, found -1"),
        (lambda: simulate(NBodySystem(1, 0, 0), 0), r"n_samples must be an integer >= 1, found 0"),
        (
            lambda: simulate(NBodySystem(1, 0, 0), 1, timestep=0.0),
            r"timestep must be a positive number, found 0\.0",
        ),
        (
            lambda: simulate(NBodySystem(1, 0, 0), 1, seed=-1),
            r"seed must be an integer >= 0, found -1",
        ),
        (
            lambda: simulate(NBodySystem(1, 0, 0), 1, n_steps=150),
            r"n_steps must be a multiple of save_every \(100\), found 150",
        ),
        (lambda: DynamicsOptions(n_epochs=0), r"n_epochs must be an integer >= 1, found 0"),
        (lambda: DynamicsOptions(learning_rate=0), r"learning_rate must be a positive number"),
        (lambda: DynamicsOptions(gradient_clip=0.0), r"gradient_clip must be a positive number"),
        (
            lambda: DynamicsOptions(velocity_weight=-1.0),
            r"velocity_weight must be 0 or positive, found -1\.0",
        ),
        (
            lambda: build_dynamics("gmn", {"layer_time": 0.0}),
            r"layer_time must be a positive number, found 0\.0",
        ),
        (lambda: build_dynamics("gnm"), r"unknown dynamics 'gnm'; .* Did you mean 'gmn'\?"),
        (
            lambda: build_dynamics("gmn", {"hiden_dim": 4}),
            r"gmn dynamics has no option 'hiden_dim'; .* Did you mean 'hidden_dim'\?",
        ),
    ],
)
def test_options_out_of_range_are_refused_by_name(call, match):
    with pytest.raises(ConfigError, match=match):
        call()


@pytest.mark.parametrize("frames", [(), (-1,), (2,)])
def test_frames_outside_the_data_are_refused(short, frames):
    with pytest.raises(ConfigError, match=r"start_frames .* do not fit data of 5 frames \(0\.\.4"):
        evaluate_dynamics(build_dynamics("gmn"), short, DynamicsOptions(frames, 3))


def test_lengths_that_cannot_be_kept_are_an_error():
    with pytest.raises(NonFiniteError, match=r"lengths cannot be kept: .* use a shorter timestep"):
        simulate(NBodySystem(0, 0, 3), 50, n_steps=100, timestep=20.0)


def test_loss_that_is_not_finite_ends_the_training(short):
    torch.manual_seed(0)
    broken = NBodyData(
        short.system, short.positions, short.velocities * np.inf, short.charges, 0.1, 0
    )
    with pytest.raises(NonFiniteError, match=r"loss became nan in epoch 1; try a learning rate"):
        train_dynamics(build_dynamics("gmn"), broken, short, DynamicsOptions((0,), 3, n_epochs=1))


def test_suffix_of_no_format_is_refused(short):
    with pytest.raises(ConfigError, match=r"'n\.csv' must end in \.npz, \.xyz, \.extxyz, found"):
        write_nbody(Path("n.csv"), short)


def test_files_that_are_no_nbody_data_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the n-body file '.*none\.npz'"):
        read_nbody(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"cannot read the n-body file '.*text\.npz'"):
        read_nbody(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", positions=np.zeros(3))
    with pytest.raises(DataError, match=r"is no n-body file: it lacks velocities, charges"):
        read_nbody(tmp_path / "other.npz")
