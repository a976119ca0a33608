"""Averages beside exact results: ideal gas, crystals, ballistic and random motion, oscillators."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.geometry.rdf import get_rdf

from eqcalc.analysis import (
    AverageSettings,
    DensityProfile,
    Displacements,
    PairDistances,
    Trajectory,
    Velocities,
    average,
    block_error,
    plots,
    write_averages,
)
from eqcalc.analysis.correlations import autocorrelation, mean_square_displacement
from eqcalc.analysis.rdf import half_cell
from eqcalc.errors import ConfigError, GraphError, NotEnoughMemoryError, StructureError
from eqcalc.report.charts import rdf_chart
from eqcalc.simulate import GuardSettings, MDSettings, run_md
from eqcalc.simulate.manifest import steps_gone_back_to

SKEWED = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [-1.5, 2.5, 10.0]])


def gas(rng: np.random.Generator, n: int, cell: np.ndarray, symbols: str | None = None) -> Atoms:
    """Return atoms at random places of a cell."""
    positions = rng.random((n, 3)) @ cell
    return Atoms(symbols or f"Ar{n}", positions, cell=cell, pbc=True)


def rdf_of(frames: list[Atoms], **options):
    pairs = PairDistances(frames[0], len(frames), **options)
    for frame in frames:
        pairs.add(frame)
    return pairs.result()


# Radial distribution


@pytest.mark.parametrize("cell", [np.eye(3) * 9.0, SKEWED], ids=["cube", "skewed"])
def test_ideal_gas_has_an_even_distribution(cell):
    rng = np.random.default_rng(1)
    frames = [gas(rng, 60, cell) for _ in range(100)]
    rdf = rdf_of(frames, r_max=3.6, n_bins=9)
    g, error = rdf.g["Ar", "Ar"], rdf.error["Ar", "Ar"]
    pairs = rdf.per_distance["Ar", "Ar"] * (rdf.r[1] - rdf.r[0]) * 100
    expected = 1 - 1 / 60  # the atom itself is not among its neighbours
    noise = 1 / np.sqrt(pairs)  # of counts that do not know of each other
    assert (np.abs(g - expected) < 4 * noise).all()
    assert (error[-3:] > 0).all()


def test_error_of_a_distribution_is_the_spread_of_its_estimates():
    found, errors = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rdf = rdf_of([gas(rng, 30, np.eye(3) * 9.0) for _ in range(20)], r_max=3.6, n_bins=3)
        found.append(rdf.g["Ar", "Ar"][-1])
        errors.append(rdf.error["Ar", "Ar"][-1])
    # Of 40 normal numbers the standard deviation is known to 11 %, and the mean of errors better.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(found, ddof=1), rel=0.4)


def test_volume_of_each_frame_counts():
    # The same gas, half of the frames stretched: g stays even, which one volume would not give.
    rng = np.random.default_rng(2)
    frames = []
    for k in range(200):
        frame = gas(rng, 40, np.eye(3) * 8.0)
        if k % 2:
            frame.set_cell(np.eye(3) * 16.0, scale_atoms=True)
        frames.append(frame)
    rdf = rdf_of(frames, r_max=4.0, n_bins=4)
    assert rdf.g["Ar", "Ar"][1:] == pytest.approx(1 - 1 / 40, abs=0.05)


def test_shells_of_a_crystal_hold_their_atoms():
    copper = bulk("Cu", a=3.6)  # one atom, which meets its images
    rdf = rdf_of([copper], r_max=5.0, n_bins=500)
    shells = [(3.6 / np.sqrt(2), 12), (3.6, 6), (3.6 * np.sqrt(1.5), 24)]
    found = 0
    for distance, n in shells:
        before, after = (int((distance + d) / 0.01) for d in (-0.03, 0.03))
        around = rdf.neighbours["Cu", "Cu"]
        assert around[after] - around[before] == pytest.approx(n, abs=1e-9)
        found += n
        assert around[after] == pytest.approx(found, abs=1e-9)
        assert rdf.g["Cu", "Cu"][before:after].max() > 10
    assert rdf.first_peak(("Cu", "Cu"))[0] == pytest.approx(3.6 / np.sqrt(2), abs=0.01)


def test_neighbours_of_two_elements_are_counted_from_either_side():
    salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    del salt[0]  # one sodium fewer
    rdf = rdf_of([salt], r_max=3.0, n_bins=300)
    assert rdf.neighbours["Na", "Cl"][-1] == pytest.approx(6.0)
    assert rdf.neighbours["Cl", "Na"][-1] == pytest.approx(6.0 * 3 / 4)
    assert sum(rdf.per_distance["Na", "Cl"]) * 0.01 == pytest.approx(18.0)


def test_rdf_agrees_with_that_of_ase():
    rng = np.random.default_rng(3)
    frames = [gas(rng, 30, SKEWED) for _ in range(3)]
    theirs = np.mean([get_rdf(f, 3.5, 50, no_dists=True) for f in frames], axis=0)
    ours = rdf_of(frames, r_max=3.5, n_bins=50).g["Ar", "Ar"]
    # Some versions of ASE divide by 4πr²dr, the volume of a thin shell.
    assert np.count_nonzero(ours[10:]) > 30
    np.testing.assert_allclose(ours[10:], theirs[10:], rtol=1e-3)


def test_error_of_one_frame_is_not_known():
    assert np.isnan(rdf_of([bulk("Cu")], r_max=4.0).error["Cu", "Cu"]).all()


# Displacements


def walk(rng: np.random.Generator, n_frames: int, n_atoms: int, step: float) -> np.ndarray:
    return np.cumsum(rng.normal(0, step, (n_frames, n_atoms, 3)), axis=0)


def msd_of(frames: list[Atoms], interval_fs: float = 10.0, unwrapped: bool = False, **options):
    worker = Displacements(frames[0], len(frames), is_unwrapped=unwrapped)
    for frame in frames:
        worker.add(frame)
    return worker.result(interval_fs, **options)


def test_msd_over_all_origins_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    path = walk(rng, 23, 4, 1.0) + 1e4
    found = mean_square_displacement(path, 12)
    for lag in range(12):
        expected = ((path[lag:] - path[: 23 - lag]) ** 2).sum(axis=-1).mean(axis=0)
        np.testing.assert_allclose(found[:, lag], expected, atol=1e-9)


def test_pieces_of_atoms_give_the_same(monkeypatch):
    path = walk(np.random.default_rng(0), 30, 7, 1.0)
    whole = mean_square_displacement(path, 10), autocorrelation(path, 10)
    monkeypatch.setattr("eqcalc.analysis.correlations._PIECE", 200)
    np.testing.assert_allclose(mean_square_displacement(path, 10), whole[0], rtol=1e-12)
    np.testing.assert_allclose(autocorrelation(path, 10), whole[1], rtol=1e-12)


def test_ballistic_atom_has_the_square_of_time():
    speed = 0.02  # Å/fs
    frames = [Atoms("Ar", [[speed * 10 * k, 0, 0]]) for k in range(60)]
    msd = msd_of(frames)
    np.testing.assert_allclose(msd.msd["Ar"], (speed * 1000 * msd.time_ps) ** 2, atol=1e-9)
    assert msd.diffusion["Ar"].exponent == pytest.approx(2.0)
    np.testing.assert_allclose(msd.drift, msd.msd["Ar"], atol=1e-9)
    still = msd_of(frames, remove_drift=True)
    np.testing.assert_allclose(still.msd["Ar"], 0.0, atol=1e-9)


@pytest.mark.parametrize("kind", ["open", "wrapped", "wrapped and changing"])
def test_random_walk_has_its_diffusion_coefficient(kind):
    rng = np.random.default_rng(7)
    step, n_frames, n_atoms = 0.3, 800, 40
    places = walk(rng, n_frames, n_atoms, step)
    frames = []
    for k in range(n_frames):
        if kind == "open":
            frames.append(Atoms(f"Ar{n_atoms}", places[k]))
            continue
        frame = Atoms(f"Ar{n_atoms}", places[k], cell=SKEWED, pbc=True)
        frame.wrap()
        if "changing" in kind:  # a cell that breathes by a ten-thousandth
            frame.set_cell(SKEWED * (1 + 1e-4 * np.sin(k)), scale_atoms=True)
        frames.append(frame)
    msd = msd_of(frames, interval_fs=10.0)
    expected = step**2 / (2 * 0.01)  # Å²/ps: 3 step² = 6 D interval
    found = msd.diffusion["Ar"]
    assert found.value == pytest.approx(expected, abs=4 * found.error)
    assert found.error < 0.05 * expected
    assert found.exponent == pytest.approx(1.0, abs=0.05)
    assert msd.changing_cell is ("changing" in kind)
    short = slice(1, 40)
    np.testing.assert_allclose(msd.msd["Ar"][short], 6 * expected * msd.time_ps[short], rtol=0.05)


def test_drift_is_that_of_the_centre_of_mass():
    light = walk(np.random.default_rng(0), 40, 1, 0.5)
    frames = [Atoms("HAr", [place, place * (-1.008 / 39.948)]) for place in light[:, 0]]
    plain, still = msd_of(frames), msd_of(frames, remove_drift=True)
    assert plain.drift.max() < 1e-12
    np.testing.assert_allclose(still.msd["H"], plain.msd["H"], atol=1e-9)
    moving = [Atoms("HAr", frame.positions + k) for k, frame in enumerate(frames)]
    np.testing.assert_allclose(
        msd_of(moving, remove_drift=True).msd["H"], plain.msd["H"], atol=1e-9
    )
    assert msd_of(moving).drift[1] == pytest.approx(3.0)


def test_error_of_a_diffusion_coefficient_is_the_spread_of_its_estimates():
    rng = np.random.default_rng(11)
    runs = []
    for _ in range(30):
        places = walk(rng, 300, 4, 0.3)
        msd = msd_of([Atoms("Ar4", place) for place in places])
        runs.append(msd.diffusion["Ar"])
    spread = np.std([run.value for run in runs])
    assert np.mean([run.error for run in runs]) == pytest.approx(spread, rel=0.4)


@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_shortest_steps_in_a_very_skewed_cell_are_shortest_in_space(pbc):
    cell = np.array([[10.0, 0, 0], [85.0, 10.0, 0], [0, 0, 10.0]])
    places = walk(np.random.default_rng(3), 60, 5, 0.5)
    frames = [Atoms("Ar5", place, cell=cell, pbc=pbc) for place in places]
    for frame in frames:
        frame.wrap()
    worker = Displacements(frames[0], len(frames), is_unwrapped=False)
    for frame in frames:
        worker.add(frame)
    expected = msd_of([Atoms("Ar5", place) for place in places]).msd["Ar"]
    np.testing.assert_allclose(worker.result(10.0).msd["Ar"], expected, rtol=1e-9, atol=1e-12)
    assert worker.longest_step < 0.3  # of short vectors, along which nothing is far


def test_steps_off_a_slab_are_not_taken_for_steps_along_its_skewed_open_vector():
    cell = np.array([[5.0, 0, 0], [0, 5.0, 0], [20.0, 0, 20.0]])
    places = [[0.1, 0.2, 3.2 * (k % 2)] for k in range(20)]
    worker = Displacements(Atoms("H", cell=cell, pbc=(1, 1, 0)), 20, is_unwrapped=False)
    for place in places:
        worker.add(Atoms("H", [place], cell=cell, pbc=(1, 1, 0)))
    np.testing.assert_allclose(worker.result(10.0).msd["H"][:3], [0.0, 3.2**2, 0.0], atol=1e-9)
    assert worker.longest_step == pytest.approx(0.0, abs=1e-9)


def test_unwrapped_steps_longer_than_the_cell_are_taken_as_they_are():
    frames = [Atoms("Ar", [[7.0 * k, 0, 0]], cell=[5, 5, 5], pbc=True) for k in range(20)]
    np.testing.assert_allclose(msd_of(frames, unwrapped=True).msd["Ar"][1], 49.0)
    np.testing.assert_allclose(msd_of(frames).msd["Ar"][1], 4.0)


def test_far_away_atoms_do_not_move_with_a_breathing_cell():
    # Unwrapped by a run far into its images, at rest in the cell but for its breathing.
    frames = []
    for k in range(40):
        cell = np.eye(3) * 10.0 * (1 + 0.01 * np.sin(k))
        frames.append(Atoms("Ar", [[0, 0, 100.3]] @ cell, cell=cell, pbc=True))
    raw = np.ptp([frame.positions[0, 2] for frame in frames])
    msd = msd_of(frames, unwrapped=True)
    assert raw > 10
    assert msd.msd["Ar"].max() < 0.01  # of its share 0.3 of the cell


def test_fit_that_does_not_fit_is_refused():
    frames = [Atoms("Ar", [[k, 0, 0]]) for k in range(20)]
    with pytest.raises(ConfigError, match="ends at 5 ps, and times up to half"):
        msd_of(frames, fit_ps=(0.0, 5.0))
    with pytest.raises(ConfigError, match="has fewer than three points"):
        msd_of(frames, fit_ps=(0.05, 0.06))
    for wrong in ((np.nan, 1.0), (0.1, np.inf), (-1.0, 0.2), (0.2, 0.1)):
        with pytest.raises(ConfigError, match=r"the fit of D goes from .*expected two times"):
            msd_of(frames, fit_ps=wrong)


def test_memory_is_looked_at_before_frames_are_read(monkeypatch):
    monkeypatch.setattr("eqcalc.blockwise.memory.available_memory", lambda device: 1000)
    with pytest.raises(NotEnoughMemoryError, match="the positions of 10 atoms in 100 frames take"):
        Displacements(Atoms("Ar10"), 100, is_unwrapped=True)


@pytest.mark.parametrize("is_unwrapped", [True, False])
def test_fewer_elements_need_less_memory_and_move_as_among_all(is_unwrapped, monkeypatch):
    rng = np.random.default_rng(2)
    path = np.cumsum(rng.normal(0.0, 0.2, (100, 10, 3)), axis=0)
    frames = [Atoms("OAr9", places, cell=[9.0] * 3, pbc=True) for places in path]

    def found(elements):
        worker = Displacements(frames[0], 100, elements=elements, is_unwrapped=is_unwrapped)
        for frame in frames:
            worker.add(frame)
        return worker.result(1.0, remove_drift=True).msd["O"]

    of_all = found(None)
    monkeypatch.setattr("eqcalc.blockwise.memory.available_memory", lambda device: 10_000)
    np.testing.assert_allclose(found(["O"]), of_all, rtol=1e-9)
    with pytest.raises(NotEnoughMemoryError, match=r"of 9 atoms .*fewer elements"):
        found(["Ar"])


# Velocities


def oscillators(wavenumbers: dict[str, float], n_frames: int, interval_fs: float) -> list[Atoms]:
    """Return frames of independent atoms that swing along x."""
    frames = []
    symbols = list(wavenumbers)
    for k in range(n_frames):
        frame = Atoms(symbols, np.zeros((len(symbols), 3)), info={"time_fs": k * interval_fs})
        velocities = np.zeros((len(symbols), 3))
        for a, wavenumber in enumerate(wavenumbers.values()):
            cycles = 100 * units._c * wavenumber * 1e-15 * k * interval_fs
            velocities[a, 0] = 1e-3 * np.cos(2 * np.pi * cycles + a)
        frame.set_velocities(velocities / units.fs)
        frames.append(frame)
    return frames


def vacf_of(frames: list[Atoms], interval_fs: float, **options):
    worker = Velocities(frames[0], len(frames))
    for frame in frames:
        worker.add(frame)
    return worker.result(interval_fs, **options)


def test_oscillator_has_a_cosine_and_a_peak_at_its_wavenumber():
    frames = oscillators({"H": 2000.0}, 7000, 1.0)
    vacf = vacf_of(frames, 1.0)
    cosine = np.cos(2 * np.pi * 100 * units._c * 2000.0 * 1e-12 * vacf.time_ps)
    np.testing.assert_allclose(vacf.vacf["H"], cosine, atol=0.005)
    assert vacf.resolution == pytest.approx(10.0, rel=0.01)
    assert vacf.peaks(1)[0] == pytest.approx(2000.0, abs=1.0)
    assert vacf.highest == pytest.approx(16678.2, rel=1e-4)
    total = vacf.spectrum["all"]
    width = vacf.wavenumber[1]
    assert total.sum() * width == pytest.approx(1.0, abs=0.01)
    half = np.flatnonzero(total > total.max() / 2)
    assert (half[-1] - half[0] + 1) * width == pytest.approx(vacf.resolution, rel=0.15)


def test_error_of_an_autocorrelation_is_that_of_its_form():
    frames = []
    for k in range(500):  # five blocks of five oscillations, each of another amplitude
        velocity = (1 + k // 100) * np.cos(2 * np.pi * k / 20)
        frames.append(Atoms("H", velocities=[[velocity, 0, 0]]))
    found = vacf_of(frames, 1.0)
    known = np.isfinite(found.error["H"])
    assert known.sum() > 20
    assert np.abs(found.error["H"][known]).max() < 1e-9


def test_spectrum_weights_atoms_with_their_masses():
    vacf = vacf_of(oscillators({"H": 3000.0, "C": 1000.0}, 4000, 1.0), 1.0)
    assert vacf.peaks(2) == pytest.approx([1000.0, 3000.0], abs=2.0)
    share = {e: vacf.spectrum[e].sum() * vacf.wavenumber[1] for e in ("H", "C")}
    assert share["C"] / share["H"] == pytest.approx(12.011 / 1.008, rel=0.01)
    np.testing.assert_allclose(
        vacf.spectrum["H"] + vacf.spectrum["C"], vacf.spectrum["all"], atol=1e-12
    )


def test_white_noise_forgets_itself_at_once():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 5, 3))
    found = autocorrelation(values, 50).mean(axis=0)
    assert found[0] == pytest.approx(3.0, rel=0.05)
    assert np.abs(found[1:]).max() < 0.1


def test_resting_atoms_have_no_autocorrelation():
    frames = [Atoms("Ar2", momenta=np.zeros((2, 3))) for _ in range(20)]
    with pytest.raises(StructureError, match="all velocities are zero"):
        vacf_of(frames, 1.0)


@pytest.mark.parametrize("resolution", [0.0, float("nan")])
def test_resolution_must_be_a_number_above_zero(resolution):
    with pytest.raises(ConfigError, match="the resolution must be above 0"):
        vacf_of(oscillators({"H": 1000.0}, 20, 1.0), 1.0, resolution=resolution)


# Density


def density_of(frames: list[Atoms], **options):
    worker = DensityProfile(frames[0], len(frames), **options)
    for frame in frames:
        worker.add(frame)
    return worker.result()


def test_density_is_counted_from_the_origin_of_the_cell():
    slab = Atoms("Si4", [[1, 1, z] for z in (-15, -5, 5, 15)], cell=[4, 4, 40], pbc=[1, 1, 0])
    slab.set_celldisp([0, 0, -20])  # a box of LAMMPS from -20 to 20 Å
    profile = density_of([slab], n_bins=4)
    assert profile.outside == 0
    np.testing.assert_allclose(profile.number["Si"], 1 / 160)
    slab.pbc = True
    np.testing.assert_allclose(density_of([slab], n_bins=4).number["Si"], 1 / 160)


def test_even_gas_has_an_even_density():
    rng = np.random.default_rng(5)
    frames = [gas(rng, 200, SKEWED) for _ in range(50)]
    profile = density_of(frames, n_bins=10, axis="b")
    volume = abs(np.linalg.det(SKEWED))
    np.testing.assert_allclose(profile.number["Ar"], 200 / volume, rtol=0.12)
    assert profile.number["Ar"].mean() == pytest.approx(200 / volume)
    grams = 200 * 39.948 * 1.66053907e-24
    assert profile.mass.mean() == pytest.approx(grams / (volume * 1e-24), rel=1e-6)
    height = volume / np.linalg.norm(np.cross(SKEWED[2], SKEWED[0]))
    assert profile.place[-1] == pytest.approx(height * 0.95)


def test_error_of_a_density_is_that_of_the_means_of_blocks():
    rng = np.random.default_rng(0)
    frames = [gas(rng, 6, np.eye(3) * 9.0) for _ in range(10)]
    profile = density_of(frames, n_bins=3)
    blocks = np.array([density_of([frame], n_bins=3).mass for frame in frames]).reshape(5, 2, 3)
    np.testing.assert_allclose(profile.mass, blocks.mean(axis=(0, 1)), rtol=1e-12)
    expected = blocks.mean(axis=1).std(axis=0, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(profile.error, expected, rtol=1e-9)


def test_layer_is_where_it_is_and_elements_are_told_apart():
    atoms = Atoms("CuO", [[0, 0, 2.5], [0, 0, 27.5]], cell=[4, 4, 10], pbc=True)
    profile = density_of([atoms], n_bins=10)
    # both at 2.5 and, put back, 7.5
    np.testing.assert_allclose(profile.number["Cu"], np.eye(10)[2] / 16)
    np.testing.assert_allclose(profile.number["O"], np.eye(10)[7] / 16)


@pytest.mark.parametrize("axis", ["a", "b", "c"])
@pytest.mark.parametrize(
    "crystal",
    [bulk("Fe") * (3, 3, 3), bulk("Si") * (3, 3, 3), bulk("Ti") * (2, 2, 2)],
    ids=["bcc", "diamond", "hcp"],
)
def test_atoms_on_faces_are_counted_once(crystal, axis):
    turned = crystal.copy()
    turned.rotate(33.0, (1, 2, 3), rotate_cell=True)
    for atoms in (crystal, turned):
        profile = density_of([atoms], n_bins=7, axis=axis)
        (number,) = profile.number.values()
        assert number.mean() * atoms.get_volume() == pytest.approx(len(atoms))
        assert profile.outside == 0.0


def test_atom_on_the_face_of_an_open_cell_is_inside():
    atoms = Atoms("Ar3", [[0, 0, -1e-12], [0, 0, 10 + 1e-12], [0, 0, 5]], cell=[4, 4, 10])
    atoms.pbc = [True, True, False]
    profile = density_of([atoms], n_bins=10)
    assert profile.outside == 0.0
    np.testing.assert_allclose(profile.number["Ar"], np.eye(10)[[0, 5, 9]].sum(axis=0) / 16)


def test_atoms_outside_of_an_open_cell_are_counted():
    atoms = Atoms("Ar2", [[0, 0, 5], [0, 0, 12]], cell=[4, 4, 10], pbc=[1, 1, 0])
    assert density_of([atoms]).outside == 0.5


# All together


def write_gas(path, n_frames: int = 30, *, pbc: bool = True, time: bool = True) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for k in range(n_frames):
        frame = gas(rng, 8, np.eye(3) * 9.0, "ArNe" * 4)
        frame.pbc = pbc
        frame.set_velocities(rng.normal(size=(8, 3)))
        frame.info = {"time_fs": 5.0 * k} if time else {}
        frames.append(frame)
    ase.io.write(path, frames)


def averages(path, **options):
    with Trajectory(path) as trajectory:
        return average(trajectory, AverageSettings(**options))


def test_all_quantities_are_averaged_and_written(tmp_path):
    write_gas(tmp_path / "gas.traj")
    found = averages(tmp_path / "gas.traj", skip=5, every=2)
    assert found.n_frames == 13
    assert found.interval_fs == 10.0
    assert found.left_out == {}
    paths = write_averages(tmp_path / "out", found)
    names = ["rdf", "msd", "vacf", "spectrum", "density"]
    assert [p.name for p in paths] == [
        *(f"{n}.csv" for n in names),
        "analysis.png",
        "analysis.json",
    ]
    table = np.genfromtxt(tmp_path / "out" / "rdf.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["g_Ne_Ar"], found.rdf.g["Ne", "Ar"], rtol=1e-6, atol=1e-12)
    table = np.genfromtxt(tmp_path / "out" / "msd.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["msd_Ar_A2"], found.msd.msd["Ar"], rtol=1e-6)
    content = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert content["settings"]["skip"] == 5
    assert content["trajectory"] == str(tmp_path / "gas.traj")
    assert set(content["diffusion"]) == {"Ne", "Ar"}
    for each in content["diffusion"].values():  # 1 Å²/ps is 1e-16 cm² in 1e-12 s
        assert each["D_cm2_per_s"] == pytest.approx(1e-4 * each["D_A2_per_ps"])
    assert (tmp_path / "out" / "analysis.png").read_bytes()[:4] == b"\x89PNG"


def test_columns_of_neighbours_and_the_mean_density_are_those_that_they_name(tmp_path):
    rng = np.random.default_rng(0)
    frames = [gas(rng, 9, np.eye(3) * 9.0, "ArNe2" * 3) for _ in range(2)]
    ase.io.write(tmp_path / "gas.traj", frames)
    found = averages(tmp_path / "gas.traj", quantities=("rdf", "density"), r_max=4.5)
    write_averages(tmp_path / "out", found)
    table = np.genfromtxt(tmp_path / "out" / "rdf.csv", delimiter=",", names=True)
    around_argon, around_neon = table["neighbours_Ne_around_Ar"], table["neighbours_Ar_around_Ne"]
    assert around_argon[-1] > 0
    np.testing.assert_allclose(around_argon, 2 * around_neon, rtol=1e-6)
    content = json.loads((tmp_path / "out" / "analysis.json").read_text())
    expected = frames[0].get_masses().sum() / 9.0**3 * 1.66053907  # amu/Å³ in g/cm³
    assert content["mean_density_g_per_cm3"] == pytest.approx(expected, rel=1e-7)


def test_files_of_an_older_analysis_do_not_stay(tmp_path):
    write_gas(tmp_path / "gas.traj")
    write_averages(tmp_path / "out", averages(tmp_path / "gas.traj"))
    write_averages(tmp_path / "out", averages(tmp_path / "gas.traj", quantities=("msd",)))
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["analysis.json", "analysis.png", "msd.csv"]


def test_what_frames_do_not_allow_is_left_out_unless_it_is_asked_for(tmp_path):
    write_gas(tmp_path / "f.xyz", pbc=False, time=False)
    found = averages(tmp_path / "f.xyz", volume=700.0)
    assert set(found.left_out) == {"msd", "vacf"}
    assert "give the time between two frames" in found.left_out["msd"]
    with pytest.raises(StructureError, match="which is not the time step of the dynamics"):
        averages(tmp_path / "f.xyz", quantities=("msd",))
    assert averages(tmp_path / "f.xyz", interval_fs=5.0, every=3).interval_fs == 15.0


def test_masses_that_are_not_read_are_refused(tmp_path):
    heavy = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]], cell=[5, 5, 5], pbc=True)
    heavy.set_array("mass", np.array([15.999, 2.014, 2.014]))
    ase.io.write(tmp_path / "heavy.xyz", [heavy] * 3)
    with pytest.raises(StructureError, match=r"a column 'mass' with 2\.014 for atom 1"):
        Trajectory(tmp_path / "heavy.xyz")


def test_distances_without_a_density_are_refused(tmp_path):
    write_gas(tmp_path / "f.xyz", pbc=False)
    with pytest.raises(StructureError, match="periodic along 0 of three directions"):
        averages(tmp_path / "f.xyz", quantities=("rdf",))
    assert averages(tmp_path / "f.xyz", quantities=("rdf",), volume=729.0).rdf.g is not None
    write_gas(tmp_path / "p.xyz")
    with pytest.raises(ConfigError, match="the frames are periodic and have their own"):
        averages(tmp_path / "p.xyz", volume=729.0)


def test_one_frame_has_distances_but_no_motion(tmp_path):
    write_gas(tmp_path / "f.traj", 1)
    found = averages(tmp_path / "f.traj")
    assert set(found.left_out) == {"msd", "vacf"}
    for name, words in (("msd", "mean square displacement"), ("vacf", "velocity autocorrelation")):
        with pytest.raises(StructureError, match=f"1 frames are too few for a {words}"):
            averages(tmp_path / "f.traj", quantities=(name,))


def test_frames_without_velocities_are_refused(tmp_path):
    ase.io.write(tmp_path / "f.traj", [bulk("Cu")] * 20)
    with pytest.raises(StructureError, match="have no velocities"):
        averages(tmp_path / "f.traj", quantities=("vacf",), interval_fs=1.0)
    moving = bulk("Cu")
    moving.set_velocities([[1, 0, 0]])
    frames = [moving] * 15
    worker = Velocities(moving, 15)
    worker.add(frames[0])
    with pytest.raises(StructureError, match="frame 1 of those looked at has no velocities"):
        worker.add(bulk("Cu"))
    moving.arrays["momenta"][0, 1] = np.nan
    with pytest.raises(StructureError, match="velocities of frame 1 of those looked at are NaN"):
        worker.add(moving)
    unknown = bulk("Cu")
    for name in ("vx", "vy", "vz"):
        unknown.set_array(name, np.ones(1))
    with pytest.raises(StructureError, match=r"columns 'vx', 'vy' and 'vz' of velocities, whose"):
        Velocities(unknown, 15)


def test_absent_elements_are_refused(tmp_path):
    write_gas(tmp_path / "f.traj")
    for quantity in ("rdf", "msd", "vacf", "density"):
        with pytest.raises(ConfigError, match="there is no Xe to look at; the frames have Ar, Ne"):
            averages(tmp_path / "f.traj", quantities=(quantity,), elements=("Xe",))
    with pytest.raises(ConfigError, match="there is no element to look at"):
        averages(tmp_path / "f.traj", elements=())
    found = averages(tmp_path / "f.traj", elements=("Ar",))
    assert list(found.rdf.g) == [("Ar", "Ar")]
    assert list(found.msd.msd) == list(found.density.number) == ["Ar"]


def test_distances_beyond_half_of_a_later_cell_are_said(tmp_path):
    rng = np.random.default_rng(0)
    with ase.io.Trajectory(tmp_path / "f.traj", "w") as file:
        for length in (18.0, 12.0):
            file.write(gas(rng, 20, np.eye(3) * length))
    found = averages(tmp_path / "f.traj", quantities=("rdf",), r_max=8.0)
    assert "beyond half of the smallest cell (6 Å)" in found.notes[0]
    assert averages(tmp_path / "f.traj", quantities=("rdf",), r_max=5.9).notes == []


def test_distances_beyond_half_of_the_cell_are_said(tmp_path):
    write_gas(tmp_path / "f.traj")
    assert averages(tmp_path / "f.traj", quantities=("rdf",), r_max=4.5).notes == []
    found = averages(tmp_path / "f.traj", quantities=("rdf",), r_max=8.0)
    assert "beyond half of the smallest cell (4.5 Å)" in found.notes[0]


@pytest.mark.parametrize(("pbc", "n_open"), [((True, True, False), 1), (False, 3), (True, 0)])
def test_directions_along_which_atoms_have_no_images_are_said(pbc, n_open, tmp_path):
    rng = np.random.default_rng(0)
    frames = [Atoms("Ar50", 9 * rng.random((50, 3)), cell=[9.0] * 3, pbc=pbc) for _ in range(3)]
    ase.io.write(tmp_path / "gas.traj", frames)
    volume = None if n_open == 0 else 9.0**3
    found = averages(tmp_path / "gas.traj", quantities=("rdf",), volume=volume, r_max=4.4)
    said = [text for text in found.notes if "have no images" in text]
    assert len(said) == (n_open > 0)
    assert all(text.startswith(f"along {n_open} open direction") for text in said)
    # An even gas, whose atoms find fewer others where it ends.
    g = found.rdf.g["Ar", "Ar"]
    assert (g[-50:].mean() > 0.9) == (n_open == 0)


def test_half_of_a_skewed_cell_is_half_of_its_shortest_lattice_vector(tmp_path):
    shear = np.array([[1, 0, 0], [5, 1, 0], [-3, 4, 1]])
    hexagonal = np.array([[9.0, 0.0, 0.0], [-4.5, 9.0 * np.sqrt(0.75), 0.0], [0.0, 0.0, 20.0]])
    rng = np.random.default_rng(0)
    for cell in (hexagonal, shear @ hexagonal, -shear @ hexagonal):
        ase.io.write(tmp_path / "f.traj", [gas(rng, 5, cell)])
        found = averages(tmp_path / "f.traj", quantities=("rdf",), r_max=4.5)
        assert found.notes == []
        found = averages(tmp_path / "f.traj", quantities=("rdf",))  # 5 Å
        assert "beyond half of the smallest cell (4.5 Å)" in found.notes[0]
    sheet = gas(rng, 5, np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [30.0, 20.0, 20.0]]))
    sheet.pbc = (True, True, False)
    ase.io.write(tmp_path / "f.traj", [sheet])
    options = {"quantities": ("rdf",), "volume": 500.0}
    (open_direction,) = averages(tmp_path / "f.traj", r_max=4.5, **options).notes
    assert "have no images" in open_direction  # nothing of half a cell


@pytest.mark.parametrize("quantity", ["rdf", "msd", "vacf", "density"])
def test_a_flat_cell_is_refused_with_its_frame(quantity, tmp_path):
    atoms = Atoms("Cu", cell=[[5.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 5.0]], pbc=True)
    ase.io.write(tmp_path / "f.traj", [atoms] * 3)
    with pytest.raises(GraphError, match=r"frame 1 of .*f\.traj.*linearly dependent"):
        averages(tmp_path / "f.traj", quantities=(quantity,), skip=1)


def test_half_of_a_cell_counts_where_it_repeats():
    slab = Atoms("H", cell=[4.0, 6.0, 8.0], pbc=[False, True, True])
    assert half_cell(slab) == pytest.approx(3.0)
    assert half_cell(Atoms("H", cell=[4.0, 6.0, 8.0])) == np.inf


def test_interval_that_contradicts_the_file_is_refused(tmp_path):
    write_gas(tmp_path / "f.traj")
    with pytest.raises(ConfigError, match=r"interval_fs=0.5 is said, but the file has a frame"):
        averages(tmp_path / "f.traj", interval_fs=0.5)
    assert averages(tmp_path / "f.traj", interval_fs=5.0).interval_fs == 5.0
    with pytest.raises(ConfigError, match="must be a time above 0 fs, not -1"):
        averages(tmp_path / "f.traj", interval_fs=-1.0)


def with_times(path, times: list[float | None]) -> None:
    write_gas(path, len(times))
    frames = ase.io.read(path, ":")
    for frame, time in zip(frames, times, strict=True):
        frame.info = {} if time is None else {"time_fs": time}
    ase.io.write(path, frames)


def test_last_frame_between_two_regular_ones_is_left_out(tmp_path):
    with_times(tmp_path / "f.traj", [*(10.0 * k for k in range(15)), 143.0])
    found = averages(tmp_path / "f.traj", quantities=("msd",))
    assert found.interval_fs == 10.0
    assert found.msd.time_ps[-1] == pytest.approx(0.07)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([*(10.0 * k for k in range(8)), *(75.0 + 5 * k for k in range(8))], "not evenly spaced"),
        ([0.0] * 12, "do not grow"),
        ([*(10.0 * k for k in range(8)), None, *(90.0 + 10 * k for k in range(3))], "1 of 12"),
    ],
)
def test_frames_that_are_not_evenly_spaced_are_refused(tmp_path, times, words):
    with_times(tmp_path / "f.traj", times)
    with pytest.raises(StructureError, match=words):
        averages(tmp_path / "f.traj", quantities=("msd",))
    assert words in averages(tmp_path / "f.traj").left_out["vacf"]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([10, 16, 23, 34, 49, 72, 105, 154, 226, 332, 487], "6 steps at first, but from 16 to 23"),
        ([0, 10, 20, 30, 40, 50, 0, 10, 20, 30, 40, 50], "from 50 to 0 steps"),
        ([7] * 6 + [9] * 6, "do not grow: 7, 7 steps"),
    ],
)
@pytest.mark.parametrize("name", ["timestep", "Timestep"])
def test_dumps_of_uneven_steps_are_refused(tmp_path, steps, words, name):
    frames = [Atoms("Ar", [[0.1 * k, 0, 0]], info={name: step}) for k, step in enumerate(steps)]
    ase.io.write(tmp_path / "f.xyz", frames)
    with pytest.raises(StructureError, match=words):
        averages(tmp_path / "f.xyz", quantities=("msd",), interval_fs=20.0)


_OF_IPI = "# CELL(abcABC): 9 9 9 90 90 90  Step:  {:9d}  Bead:  0 {}  cell{{angstrom}}"
_OF_IPI_WITH_ASE = (
    'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 pbc="T T T" '
    'ipi_comment="Step:  {:9d}  Bead:  0 {}"'
)
_OF_CP2K = " i = {0:8d}, time = {0:12.3f}, E = -17.1643447508"


@pytest.mark.parametrize("comment", [_OF_IPI, _OF_IPI_WITH_ASE, _OF_CP2K])
def test_frames_that_a_restart_of_another_program_repeats_are_refused(tmp_path, comment):
    def write(steps) -> None:
        said = "positions{angstrom}"
        lines = [f"1\n{comment.format(step, said)}\nAr {0.01 * step} 0 0\n" for step in steps]
        (tmp_path / "f.xyz").write_text("".join(lines))

    write([*range(0, 100, 10), *range(60, 160, 10)])
    with pytest.raises(StructureError, match="from 90 to 60 steps"):
        averages(tmp_path / "f.xyz", quantities=("msd",), interval_fs=5.0)
    write(range(0, 160, 10))
    assert averages(tmp_path / "f.xyz", quantities=("msd",), interval_fs=5.0).msd is not None


@pytest.mark.parametrize("steps", [range(5, 125, 10), [0.5] * 12])
def test_dumps_of_even_steps_and_what_counts_none_are_taken(tmp_path, steps):
    frames = [
        Atoms("Ar", [[0.1 * k, 0, 0]], info={"timestep": step}) for k, step in enumerate(steps)
    ]
    ase.io.write(tmp_path / "f.xyz", frames)
    assert averages(tmp_path / "f.xyz", quantities=("msd",), interval_fs=20.0).interval_fs == 20.0


def test_options_out_of_range_are_refused(tmp_path):
    write_gas(tmp_path / "f.traj")
    for words, options in (
        ("unknown quantity 'rfd'.* Did you mean 'rdf'", {"quantities": ("rfd",)}),
        ("skip must be 0 frames or more", {"skip": -1}),
        ("every must be 1 frame or more", {"every": 0}),
        ("r_max must be a distance above 0", {"r_max": -1.0}),
        ("n_bins must be 1 or more, not 0", {"n_bins": 0}),
        ("one of a, b, c, not 'z'", {"axis": "z"}),
    ):
        with pytest.raises(ConfigError, match=words):
            averages(tmp_path / "f.traj", **options)
    for options in (
        {"quantities": ("rdf",), "fit_ps": (1.0, 2.0)},
        {"quantities": ("rdf",), "axis": "q"},
        {"quantities": ("msd",), "r_max": 5.0},
        {"quantities": ("density", "msd"), "resolution": 0.0},
        {"quantities": ("vacf",), "remove_drift": True},
        {"quantities": ("rdf", "density"), "interval_fs": 3.0},
    ):
        with pytest.raises(ConfigError, match=r"belongs to .*, which is not asked for"):
            AverageSettings(**options)
    with pytest.raises(ConfigError, match="n_bins must be 1 or more"):
        averages(tmp_path / "f.traj", quantities=("density",), n_bins=0)
    with pytest.raises(ConfigError, match="the volume must be a number above 0"):
        averages(tmp_path / "f.traj", volume=-1.0)
    with pytest.raises(StructureError, match=r"30 frames are skipped, and '.*' has 30"):
        averages(tmp_path / "f.traj", skip=30)


def test_frames_of_which_nothing_can_be_averaged_are_refused(tmp_path):
    ase.io.write(tmp_path / "f.xyz", [Atoms("Ar", [[0, 0, 0]])] * 3)
    with pytest.raises(StructureError, match="nothing can be averaged of these frames: rdf: "):
        averages(tmp_path / "f.xyz")


def test_frames_that_lose_their_cell_are_refused(tmp_path):
    frames = [gas(np.random.default_rng(k), 4, np.eye(3) * 9.0) for k in range(15)]
    frames[11].pbc = False
    ase.io.write(tmp_path / "f.traj", frames)
    with pytest.raises(StructureError, match=r"frame 11 of .* is periodic along \[False, False"):
        averages(tmp_path / "f.traj", interval_fs=1.0)
    frames[11].pbc = True
    frames[11].cell[2] = 0.0
    ase.io.write(tmp_path / "f.traj", frames)
    with pytest.raises(GraphError, match=r"frame 11 of .*: the lattice vectors"):
        averages(tmp_path / "f.traj", quantities=("msd",), interval_fs=1.0)
    for frame in frames:
        frame.pbc = False
    ase.io.write(tmp_path / "f.traj", frames)
    with pytest.raises(StructureError, match="have no cell of three vectors"):
        averages(tmp_path / "f.traj", quantities=("density",))


def test_atoms_at_rest_have_no_diffusion_coefficient(tmp_path):
    ase.io.write(tmp_path / "f.traj", [bulk("Cu")] * 20)
    found = averages(tmp_path / "f.traj", quantities=("msd",), interval_fs=1.0)
    assert found.notes == ["Cu does not move in all times of the fit: D means nothing."]


def test_a_solid_whose_short_run_looks_diffusive_is_doubted(tmp_path):
    """Vibrations rise as time in the fit, where the curve bends, and no further after it."""
    rng, crystal, frames = np.random.default_rng(4), bulk("Si", cubic=True), []
    waves = rng.uniform(0.05, 0.30, size=(24, 8, 3))  # per step of 5 fs
    phases = rng.uniform(0, 2 * np.pi, size=(24, 8, 3))
    for k in range(201):
        moved = crystal.copy()
        moved.positions += 0.03 * np.sin(waves * k + phases).sum(axis=0)
        frames.append(moved)
    ase.io.write(tmp_path / "f.traj", frames)
    found = averages(tmp_path / "f.traj", quantities=("msd",), interval_fs=5.0)
    assert 0.8 < found.msd.diffusion["Si"].exponent < 1.3, found.msd.diffusion
    assert any("after the fit, where D would have" in text for text in found.notes)
    steps = rng.normal(scale=0.05, size=(201, 8, 3)).cumsum(axis=0)
    frames = [crystal.copy() for _ in steps]
    for frame, step in zip(frames, steps, strict=True):
        frame.positions += step
    ase.io.write(tmp_path / "f.traj", frames)
    found = averages(tmp_path / "f.traj", quantities=("msd",), interval_fs=5.0)
    assert not any("after the fit" in text for text in found.notes)


def test_slabs_and_atoms_that_are_held_are_said(tmp_path):
    slab = fcc100("Al", (2, 2, 3), vacuum=5.0)
    slab.constraints = FixAtoms(range(4))
    rng = np.random.default_rng(2)
    with ase.io.Trajectory(tmp_path / "f.traj", "w") as file:
        for _ in range(40):
            slab.set_positions(slab.positions + 0.1 * rng.normal(size=(12, 3)))
            file.write(slab)
    notes = averages(tmp_path / "f.traj", quantities=("msd",), interval_fs=1.0).notes
    assert any("periodic along 2 of three" in text and "slope / 4" in text for text in notes)
    assert "atoms that never move (4 of 12 Al) are in the mean of the msd and in D." in notes


def test_workers_without_a_frame_say_so():
    with pytest.raises(StructureError, match="no frame was added, of which distances"):
        PairDistances(bulk("Cu"), 1, r_max=4.0).result()
    with pytest.raises(StructureError, match="no frame was added, of which atoms"):
        DensityProfile(bulk("Cu"), 1).result()
    with pytest.raises(StructureError, match="have no cell of three vectors"):
        DensityProfile(Atoms("Ar"), 1)


def test_motion_of_the_whole_and_coarse_frames_are_said(tmp_path):
    frames = []
    for k in range(40):
        shifted = np.array([[0.05 * k, 0, 0], [3 + 0.05 * k, 0, 0]])
        frames.append(Atoms("Ar2", shifted, cell=[9, 9, 9], pbc=True, info={"time_fs": 1.0 * k}))
    ase.io.write(tmp_path / "f.traj", frames)
    notes = averages(tmp_path / "f.traj", quantities=("msd",)).notes
    assert any("the centre of mass itself moves" in text for text in notes)
    assert any("time to the power 2.00" in text for text in notes)
    for k, frame in enumerate(frames):
        frame.positions[0, 0] = 4.0 * (k >= 20)  # once, and neither first nor last
    ase.io.write(tmp_path / "f.traj", frames)
    notes = averages(tmp_path / "f.traj", quantities=("msd",)).notes
    assert any("moves 0.44 of the cell between two frames" in text for text in notes)


def test_frames_too_far_apart_for_vibrations_are_said(tmp_path):
    frames = oscillators({"H": 1000.0}, 40, 8.0)
    ase.io.write(tmp_path / "f.traj", frames)
    notes = averages(tmp_path / "f.traj", quantities=("vacf",)).notes
    assert "with a frame every 8 fs the spectrum ends at 2085 cm⁻¹" in notes[0]
    assert "too short for lines narrower than" in notes[1]


def test_error_of_a_correlated_mean_is_larger_than_that_of_independent_values():
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(60):
        noise = rng.normal(size=4000)
        values = np.zeros(4000)
        for k in range(1, 4000):  # remembers 20 steps
            values[k] = 0.95 * values[k - 1] + noise[k]
        means.append(values.mean())
        errors.append(block_error(values))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.4)
    naive = values.std() / np.sqrt(len(values))
    assert np.mean(errors) > 3 * naive


@pytest.mark.parametrize("trajectory_format", ["traj", "extxyz"])
def test_averages_over_a_ramp_are_said_to_be_of_one(trajectory_format, tmp_path):
    options = {"to_temperature_K": 600.0, "ramp_steps": 10, "log_every": 2}
    settings = MDSettings(n_steps=20, trajectory_format=trajectory_format, **options)
    run = run_md(bulk("Cu", cubic=True), EMT(), settings, tmp_path / "run").folder
    for skip, n_notes in ((0, 1), (4, 1), (5, 0)):
        with Trajectory(run) as frames:
            found = average(frames, AverageSettings(quantities=("density",), skip=skip))
        assert sum("change their target in these frames" in text for text in found.notes) == n_notes
    (run / "thermo.csv").unlink()
    with Trajectory(run) as frames:
        assert average(frames, AverageSettings(quantities=("density",))).notes == []


def test_motion_that_friction_slows_is_said_to_be(tmp_path):
    def notes(ensemble, quantities):
        with Trajectory(tmp_path / ensemble) as frames:
            found = average(frames, AverageSettings(quantities=quantities))
        return " ".join(found.notes)

    for ensemble in ("nve", "nvt-langevin"):
        settings = MDSettings(ensemble, n_steps=20, log_every=1, friction_per_fs=0.02)
        run_md(bulk("Cu", cubic=True), EMT(), settings, tmp_path / ensemble)
    said = "friction of 0.02/fs slows all atoms of this run: "
    # The line of an oscillator under friction has that width, 20/ps in angular frequency.
    wider = "lines of the spectrum are 106 cm⁻¹ wider"
    assert f"{said}D is too small and {wider}; " in notes("nvt-langevin", ("msd", "vacf"))
    assert f"{said}{wider}; " in notes("nvt-langevin", ("vacf",))
    assert "friction" not in notes("nvt-langevin", ("density",))
    assert "friction" not in notes("nve", ("msd", "vacf"))
    (tmp_path / "nvt-langevin" / "manifest.json").unlink()
    assert "friction" not in notes("nvt-langevin", ("msd",))


class Shaken(EMT):
    """EMT with forces out of all bounds in the call after the sixtieth."""

    n_calls = 0

    def calculate(self, *arguments):
        super().calculate(*arguments)
        self.n_calls += 1
        if self.n_calls == 61:
            self.results["forces"] = self.results["forces"] + 1000.0


def test_motion_that_guards_have_interrupted_is_said_to_be(tmp_path):
    def notes(ensemble, quantities=("msd", "vacf"), skip=0):
        with Trajectory(tmp_path / ensemble) as frames:
            found = average(frames, AverageSettings(quantities=quantities, skip=skip))
        return " ".join(found.notes)

    guards = GuardSettings(on_alarm="roll-back", every=1)
    steps = {"n_steps": 120, "log_every": 5, "checkpoint_every": 20}
    for ensemble in ("nvt-nhc", "nvt-langevin"):
        settings = MDSettings(ensemble, guards=guards, **steps)
        run_md(bulk("Cu", cubic=True) * 2, Shaken(), settings, tmp_path / ensemble)
        assert steps_gone_back_to(tmp_path / ensemble) == [40]
    assert "guards took this run back to step 40, from where it goes on" in notes("nvt-nhc")
    assert "guards took this run back" in notes("nvt-nhc", skip=8)
    assert "guards" not in notes("nvt-nhc", skip=9)
    assert "guards" not in notes("nvt-nhc", ("density",))
    assert "guards" not in notes("nvt-langevin")  # whose velocities go on


@pytest.mark.parametrize(
    ("alarms", "expected"),
    [
        ([("roll-back", 40), ("roll-back", 60), ("halve", 80)], [40, 60]),
        ([("roll-back", 40), ("roll-back", 60), ("halve", 20)], []),  # these were taken back
        ([("roll-back", 40), ("roll-back", 40), ("stop", None)], [40]),
    ],
)
def test_steps_gone_back_to_are_those_that_stayed(alarms, expected, tmp_path):
    told = [{"action": action, "back_to_step": step} for action, step in alarms]
    (tmp_path / "manifest.json").write_text(json.dumps({"guards": {"alarms": [*told, 1]}}))
    assert steps_gone_back_to(tmp_path) == expected


def many_elements(n_frames: int = 20) -> list[Atoms]:
    """Return frames of nine elements in a box, at random places and velocities."""
    rng, frames = np.random.default_rng(0), []
    symbols = ["Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn"]
    for k in range(n_frames):
        atoms = Atoms(symbols * 3, rng.uniform(0, 8, (27, 3)), cell=3 * [8.0], pbc=True)
        atoms.set_momenta(rng.normal(size=(27, 3)))
        atoms.info["time_fs"] = 2.0 * k
        frames.append(atoms)
    return frames


def test_no_element_is_left_out_of_a_picture_and_pairs_that_are_are_counted(tmp_path):
    from matplotlib.figure import Figure

    ase.io.write(tmp_path / "many.traj", many_elements())
    with Trajectory(tmp_path / "many.traj") as trajectory:
        found = average(trajectory, AverageSettings(quantities=("rdf", "msd", "vacf")))

    def panel(draw, **values):
        axes = Figure().subplots()
        draw(axes, **values)
        return axes

    elements = set(found.msd.msd)
    assert len(elements) == 9
    for draw, values in (
        (plots._draw_msd, {"msd": found.msd}),
        (plots._draw_vacf, {"vacf": found.vacf}),
        (plots._draw_spectrum, {"vacf": found.vacf}),
    ):
        lines = [line for line in panel(draw, **values).lines if line.get_label() in elements]
        assert {line.get_label() for line in lines} == elements
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9
    title = panel(plots._draw_rdf, rdf=found.rdf).get_title(loc="right")
    assert title == "the 7 highest of 45 pairs"
    assert rdf_chart(found.rdf)["title"] == f"radial distribution g(r), {title}"
