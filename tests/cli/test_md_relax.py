"""The verbs md and relax, and what the command line does around them."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_type_hints

import ase.io
import fake_models
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from command_line import run
from fake_models import ASKED_FOR, SHIPPED, SIZES, UNIVERSAL, fakes

import eqcalc.cli
from eqcalc.blockwise import MemoryForecast
from eqcalc.cli import main
from eqcalc.cli.md import md
from eqcalc.cli.model_choice import choose_model
from eqcalc.cli.relax import relax
from eqcalc.elements import trained_on
from eqcalc.errors import ConfigError, EngineError, StructureError
from eqcalc.simulate import MDSettings, RelaxSettings, run_md
from eqcalc.simulate.settings import ENSEMBLES, OPTIMIZERS, TRAJECTORY_SUFFIXES

HERE = Path(__file__).parent


def test_md_with_defaults_takes_the_shipped_model(folder, capsys):
    assert run("md", "ethanol.xyz", "--steps", 100) == 0
    out = capsys.readouterr().out
    assert "model nequip-ethanol: shipped, trained on C2H6O (isomers are not told apart)\n" in out
    assert "note:" not in out
    assert "step 0/100" in out
    assert "step 100/100" in out
    assert out.count("ns/day") == 11  # a line every 10 %, and the summary
    assert "ethanol-md" in out
    assert ASKED_FOR == [
        {
            "model": "nequip-ethanol",
            "device": "auto",
            "dtype": None,
            "engine": "auto",
            "skin": 0.5,
            "max_edges": None,
            "threads": None,
        }
    ]
    manifest = json.loads((folder / "ethanol-md" / "manifest.json").read_text())
    assert manifest["structure"] == "ethanol.xyz"
    assert manifest["model"]["name"] == "nequip-ethanol"
    assert manifest["model"]["sha256"] == "9a12"
    assert sorted(p.name for p in (folder / "ethanol-md").iterdir()) == [
        "checkpoint",
        "checkpoint.previous",
        "final.xyz",
        "manifest.json",
        "plot.png",
        "report.html",
        "thermo.csv",
        "trajectory.traj",
    ]


def test_md_options_reach_the_settings_and_the_calculator(folder, capsys):
    words = "md ethanol.xyz -m nequip-ethanol -e nve -T 50 -t 0.25 -n 8 --seed 3 --log-every 4"
    words += " --format extxyz -o there --device cpu --dtype float64 --engine jit --skin 0"
    words += " --max-edges 5000"
    assert run(*words.split()) == 0
    out = capsys.readouterr().out
    assert "model nequip-ethanol (models/nequip-ethanol/model.pt)" in out
    assert "E_tot" in out
    assert "velocities from" not in out
    settings = json.loads((folder / "there" / "manifest.json").read_text())["settings"]
    expected = MDSettings("nve", 50.0, 0.25, 8, 3, log_every=4, trajectory_format="extxyz")
    assert settings == asdict(expected)
    assert ASKED_FOR == [
        {
            "model": "nequip-ethanol",
            "device": "cpu",
            "dtype": "float64",
            "engine": "jit",
            "skin": 0.0,
            "max_edges": 5000,
            "threads": None,
        }
    ]
    assert len(ase.io.read(folder / "there" / "trajectory.xyz", ":")) == 3


def test_summary_leaves_out_numbers_that_a_short_run_cannot_give(folder, capsys):
    short = "md ethanol.xyz -e nve --log-every 100 --overwrite -n"
    assert run(*short.split(), 1998) == 0
    out = capsys.readouterr().out
    assert "energy drift" not in out
    assert "mean temperature" in out  # 21 frames
    assert run(*short.split(), 1800, "-t", 1) == 0
    out = capsys.readouterr().out
    assert "energy drift" in out
    assert "mean temperature" not in out


@pytest.mark.parametrize(
    ("ensemble", "effect"),
    [
        ("nve", "--temperature and --seed have no effect"),
        ("nvt-langevin", "--temperature only sets the thermostat, --seed only seeds the noise"),
        ("nvt-nhc", "--temperature only sets the thermostat, --seed has no effect"),
    ],
)
def test_velocities_of_the_file_are_announced(folder, capsys, ensemble, effect):
    assert run("md", "ethanol.xyz", "-n", 2, "-e", "nve", "-T", 587) == 0
    capsys.readouterr()
    first = ase.io.read(folder / "ethanol-md" / "trajectory.traj", 0)
    ase.io.write("moving.xyz", first)
    assert run("md", "moving.xyz", "-n", 2, "-e", ensemble) == 0
    kelvin = {"nvt-langevin": 514}.get(ensemble, 587)  # spread over 24 instead of 21
    assert f"velocities from the file ({kelvin} K); {effect}\n" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["md", "relax"])
@pytest.mark.parametrize(
    ("forecast", "line"),
    [
        (None, None),
        (MemoryForecast(1_200_000_000, 20_000_000_000, 1, 1.0), "about 1.2 GB of 20 GB"),
        (
            MemoryForecast(60_000_000_000, 20_000_000_000, 8, 2.71),
            "about 60 GB, 20 GB are available: evaluated in 8 blocks, 2.7 times the work",
        ),
    ],
)
def test_memory_of_large_structures_is_foretold(verb, forecast, line, folder, capsys, monkeypatch):
    monkeypatch.setattr(fake_models, "FORECAST", forecast)
    assert run(verb, "ethanol.xyz", "-n", 2) == 0
    out = capsys.readouterr().out
    assert f"\nmemory: {line}\n" in out if line else "memory" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-e nvt-langevin --pressure 1", "--pressure belongs to npt, not nvt-langevin."),
        ("-e nve --friction 1", "--friction belongs to nvt-langevin, not nve."),
        ("--thermostat-time 5", "--thermostat-time belongs to nvt-nhc and npt, not nvt-langevin."),
        ("-e nvt-nhc --barostat-time 5", "--barostat-time belongs to npt, not nvt-nhc."),
        (
            "-e nve --to-temperature 400",
            "--to-temperature belongs to nvt-langevin, nvt-nhc and npt, not nve.",
        ),
        ("--to-pressure 1", "--to-pressure belongs to npt, not nvt-langevin."),
        (
            "--ramp-steps 5",
            "--ramp-steps is of a ramp: give --to-temperature or --to-pressure as well.",
        ),
        (
            "--log-every-fs 0.7",
            "--log-every-fs must be a multiple of the timestep of 0.5 fs, not "
            "0.7 fs; near it is 0.5 or 1 fs.",
        ),
        (
            "--log-every 3 --log-every-fs 5",
            "--log-every 3 and --log-every-fs 5 do not go together: give steps or a time.",
        ),
        (
            "--minimize-fmax 0.1",
            "--minimize-fmax goes together with --minimize, which is not given.",
        ),
    ],
)
def test_option_of_another_ensemble_is_refused(folder, capsys, words, message):
    assert run("md", "ethanol.xyz", *words.split()) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_minimization_before_a_run_is_told(folder, capsys):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    ase.io.write("rattled.xyz", atoms)
    assert run("md", "rattled.xyz", "-n", 2, "--minimize", "--json") == 0
    captured = capsys.readouterr()
    assert "minimizing ...\n" in captured.err
    assert "\nminimized in " in captured.err
    assert "velocities" not in captured.err
    assert json.loads(captured.out)["minimization"]["converged"] is True
    words = "--minimize --minimize-steps 1 --minimize-fmax 0.001 --overwrite"
    assert run("md", "rattled.xyz", "-n", 2, *words.split()) == 0
    out = capsys.readouterr().out
    assert "note: the minimization did not converge in 1 step: energy lower by" in out
    assert "and 0.001 was asked for; the run begins from there. More steps: --minim" in out
    ase.io.write("moving.xyz", ase.io.read("rattled-md/final.xyz"))
    assert run("md", "moving.xyz", "-n", 2, "--minimize") == 0
    out = capsys.readouterr().out
    assert "velocities of the file belong to other positions: new ones are drawn\n" in out


@pytest.mark.parametrize("verb", ["md", "relax"])
def test_frame_of_a_file_with_several_is_chosen_and_told(verb, folder, capsys):
    frames = [molecule("CH3CH2OH") for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.positions[:, 0] += 10.0 * k
    ase.io.write("three.xyz", frames)
    place = f"three-{verb}"
    for words, line, frame, x in (
        ([], "the last of 3 frames in three.xyz (--index)", -1, 20.0),
        (["--index", "1"], "frame 1 of 0 to 2 in three.xyz", 1, 10.0),
        (["--index", "-3"], "frame 0 of 0 to 2 in three.xyz", -3, 0.0),
    ):
        assert run(verb, "three.xyz", "-n", 2, "--overwrite", *words) == 0
        assert f"structure: {line}\n" in capsys.readouterr().out
        assert json.loads((folder / place / "manifest.json").read_text())["frame"] == frame
        first = ase.io.read(folder / place / "trajectory.traj", 0)
        assert first.positions[:, 0].mean() == pytest.approx(
            frames[0].positions[:, 0].mean() + x, abs=1e-6
        )


def test_ramp_is_summarised(folder, capsys):
    words = "md ethanol.xyz -n 10 -T 100 --to-temperature 300 --overwrite"
    assert run(*words.split()) == 0
    assert "  thermostat  100 → 300 K over 10 steps\n" in capsys.readouterr().out
    assert run(*words.split(), "--ramp-steps", 4) == 0
    assert "  thermostat  100 → 300 K over the first 4 steps\n" in capsys.readouterr().out
    assert run(*words.split(), "--ramp-steps", 40) == 0
    assert "100 → 300 K over 40 steps, of which 10 were made\n" in capsys.readouterr().out
    assert run("md", "--resume", "ethanol-md", "-n", 50) == 0
    out = capsys.readouterr().out
    assert "the ramp is one of 40 steps; its end is held afterwards\n" in out


def test_mean_over_a_ramp_is_said_to_be_one(folder, capsys):
    words = "md ethanol.xyz -n 40 --log-every 1 -T 100 --to-temperature 300 --overwrite"
    for ramp_steps, is_ramped in ((40, True), (25, True), (20, False)):
        assert run(*words.split(), "--ramp-steps", ramp_steps) == 0
        means = re.findall(
            r"mean temperature  \d+ K over the second half(.*)", capsys.readouterr().out
        )
        assert means == [", of a ramp" if is_ramped else ""]
        assert run(*words.split(), "--ramp-steps", ramp_steps, "--json") == 0
        assert json.loads(capsys.readouterr().out)["means_of_a_ramp"] is is_ramped


def test_frames_are_spaced_by_a_time(folder):
    assert run("md", "ethanol.xyz", "-n", 8, "--log-every-fs", 2) == 0
    steps = [a.info["step"] for a in ase.io.read(folder / "ethanol-md" / "trajectory.traj", ":")]
    assert steps == [0, 4, 8]


def test_option_of_the_ensemble_reaches_the_settings(folder):
    words = "md ethanol.xyz -n 2 -e nvt-nhc --thermostat-time 50"
    assert run(*words.split()) == 0
    settings = json.loads((folder / "ethanol-md" / "manifest.json").read_text())["settings"]
    assert settings["thermostat_time_fs"] == 50.0


@pytest.mark.parametrize(
    ("model", "known"),
    [("painn-water", "H2O, H128O64"), ("mine.pt", "compositions that its card does not name")],
)
def test_model_trained_on_something_else_runs_with_a_note(folder, capsys, model, known):
    assert run("md", "ethanol.xyz", "-m", model, "-n", 2) == 0
    assert f"note: it was trained on {known}, not on C2H6O" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("md nowhere.xyz", "error: no structure file 'nowhere.xyz'"),
        ("md ethanol.xyz -e nvt", "error: --ensemble must be one of nve, nvt-langevin"),
        ("md ethanol.xyz -e npt", "error: ensemble 'npt' changes the cell"),
        ("md ethanol.xyz --index 0:5", "error: --index takes the number of one frame (0 the"),
        ("md ethanol.xyz --index 1", "error: 'ethanol.xyz' has one frame and none with the"),
        ("md ethanol.xyz --index -2", "error: 'ethanol.xyz' has one frame and none with the"),
        (
            "relax ethanol.xyz --optimizer newton",
            "error: --optimizer must be one of bfgs, lbfgs,",
        ),
        ("relax ethanol.xyz --cell", "error: relaxing the cell changes the cell"),
    ],
)
def test_error_is_one_line_without_traceback(folder, capsys, words, message):
    assert run(*words.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err + captured.out


def test_debug_shows_the_traceback(folder, monkeypatch):
    monkeypatch.setenv("EQCALC_DEBUG", "1")
    with pytest.raises(StructureError, match="no structure file"):
        main(["md", "nowhere.xyz"])


def test_package_of_another_version_is_one_line(folder, monkeypatch, capsys):
    """As where ASE is older than the checkout: 'cannot import name ...'."""
    monkeypatch.setitem(sys.modules, "eqcalc.simulate", None)
    assert run("md", "ethanol.xyz", "-n", 2) == 2
    captured = capsys.readouterr()
    assert re.match(
        r"error: import of eqcalc\.simulate .*'eqcalc doctor' says which\.$", captured.err
    )
    assert captured.err.count("\n") == 1


def test_folder_with_a_run_is_refused_before_the_model_is_loaded(folder, capsys):
    assert run("md", "ethanol.xyz", "-n", 2) == 0
    ASKED_FOR.clear()
    assert run("md", "ethanol.xyz", "-n", 2) == 2
    assert "'ethanol-md' already holds a run" in capsys.readouterr().err
    assert ASKED_FOR == []
    assert run("md", "ethanol.xyz", "-n", 2, "--overwrite") == 0


def test_relax_converges_and_says_so(folder, capsys):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    ase.io.write("rattled.xyz", atoms)
    assert run("relax", "rattled.xyz", "--fmax", 1e-6) == 0
    out = capsys.readouterr().out
    assert "converged in" in out
    assert "fmax" in out
    assert "fmax 0.0000 " not in out
    assert (folder / "rattled-relax" / "relaxed.xyz").exists()


def test_relax_that_does_not_converge_exits_with_one(folder, capsys):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    ase.io.write("rattled.xyz", atoms)
    assert run("relax", "rattled.xyz", "--steps", 1) == 1
    assert "not converged after 1 steps" in capsys.readouterr().out
    assert (folder / "rattled-relax" / "relaxed.xyz").exists()


def test_ctrl_c_exits_with_130_and_says_where_the_files_are(folder):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "fake_models.py"), "md", "ethanol.xyz", "-n", "1000000"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    table, deadline = folder / "ethanol-md" / "thermo.csv", time.monotonic() + 600
    while not (table.exists() and table.read_bytes().count(b"\n") > 3):  # the run has begun
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert (
        "of 1000000; everything up to there is in ethanol-md; eqcalc md --resume ethanol-md" in out
    )
    assert (folder / "ethanol-md" / "plot.png").exists()


def test_choose_model_lists_what_there_is(folder):
    with pytest.raises(ConfigError, match=r"trained on CH4.*painn-water \(H2O, H128O64\).*--model"):
        choose_model([molecule("CH4")])
    assert choose_model([molecule("H2O")]) == "painn-water"


def test_choose_model_takes_the_smaller_of_two(folder, monkeypatch):
    monkeypatch.setitem(SHIPPED, "a-water", ["H2O"])
    for size, chosen in ((999, "a-water"), (1001, "painn-water")):
        monkeypatch.setitem(SIZES, "a-water", size)
        assert choose_model([molecule("H2O")]) == chosen


def test_choose_model_never_offers_a_propagator(folder, monkeypatch):
    monkeypatch.setitem(SHIPPED, "gmn-nbody", ["CH4"])
    with pytest.raises(ConfigError, match=r"trained on CH4\. Shipped are: painn-water") as caught:
        choose_model([molecule("CH4")])
    assert "gmn-nbody" not in str(caught.value)


@pytest.fixture
def universal(monkeypatch):
    monkeypatch.setitem(SHIPPED, "anything", [])
    monkeypatch.setitem(UNIVERSAL, "anything", ["H", "C", "O", "Cu"])


def test_choose_model_takes_a_universal_one_where_none_was_trained(folder, universal):
    assert choose_model([molecule("H2O")]) == "painn-water"
    assert choose_model([molecule("CH4")]) == "anything"
    with pytest.raises(ConfigError, match=r"anything does not know Al, N\. Choose one, or a model"):
        choose_model([bulk("AlN", "wurtzite", a=3.1)])


def test_choose_model_looks_at_every_structure(folder, universal):
    both = [molecule("H2O"), molecule("CH4")]
    assert choose_model([*both, *both]) == "anything"
    with pytest.raises(ConfigError, match=r"trained on H2O, N2\. .*anything does not know N\."):
        choose_model([molecule("H2O"), molecule("N2")])


def test_a_universal_model_says_what_it_is_and_has_no_note(folder, universal, monkeypatch, capsys):
    monkeypatch.setitem(SHIPPED, "nequip-ethanol", [])
    assert run("md", "ethanol.xyz", "-n", 2) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "model anything (shipped), universal: PBE, MPtrj; 4 elements; not good for mole" in out
    assert "it was trained on" not in out


def test_trained_on_compares_crystals_of_any_size():
    known = ["H2O", "H128O64"]
    assert trained_on(known, molecule("H2O", cell=[5, 5, 5], pbc=True) * (3, 1, 1))
    assert not trained_on(known, bulk("Cu"))
    dimer = molecule("H2O")
    dimer.extend(molecule("H2O"))
    assert not trained_on(known, dimer)


@pytest.mark.parametrize(("words", "n_threads"), [((), 1), (("--threads", 3), 3)])
@pytest.mark.parametrize("verb", ["md", "relax"])
def test_the_start_and_the_manifest_say_engine_threads_and_device(
    verb, words, n_threads, folder, capsys
):
    run(verb, "ethanol.xyz", "--steps", 20, *words)
    out = capsys.readouterr().out
    plural = "s" * (n_threads > 1)
    assert f"engine springs on cpu in float64, {n_threads} thread{plural}\n" in out
    assert "  not inductor: springs are not compiled\n" in out
    manifest = json.loads((folder / f"ethanol-{verb}" / "manifest.json").read_text())
    assert manifest["engine"] == {
        "engine": "springs",
        "device": "cpu",
        "dtype": "float64",
        "threads": n_threads,
        "not_used": {"inductor": "springs are not compiled"},
    }
    assert manifest["calculator"]["threads"] == (n_threads if words else None)


@pytest.mark.parametrize(
    ("verb", "settings", "names"),
    [
        (
            md,
            MDSettings(),
            {
                "ensemble": "ensemble",
                "temperature": "temperature_K",
                "timestep": "timestep_fs",
                "steps": "n_steps",
                "seed": "seed",
                "friction": "friction_per_fs",
                "thermostat_time": "thermostat_time_fs",
                "barostat_time": "barostat_time_fs",
                "pressure": "pressure_gpa",
                "log_every": "log_every",
                "to_temperature": "to_temperature_K",
                "to_pressure": "to_pressure_gpa",
                "ramp_steps": "ramp_steps",
                "trajectory_format": "trajectory_format",
                "checkpoint_every": "checkpoint_every",
                "minimize": "minimize",
                "minimize_fmax": "minimize_fmax",
                "minimize_steps": "minimize_steps",
            },
        ),
        (
            relax,
            RelaxSettings(),
            {
                "fmax": "fmax",
                "steps": "max_steps",
                "cell": "cell",
                "pressure": "pressure_gpa",
                "optimizer": "optimizer",
                "trajectory_format": "trajectory_format",
            },
        ),
    ],
)
def test_defaults_of_the_verb_are_those_of_the_settings(verb, settings, names):
    # Those of the guards are in test_guard_options.py.
    assert {*names.values(), "guards"} == {f.name for f in fields(settings)}
    parameters = inspect.signature(verb).parameters
    hints = get_type_hints(verb, include_extras=True)
    for option, field in names.items():
        default = parameters[option].default
        expected = getattr(settings, field)
        if default is None and expected is None:
            continue
        if default is None:  # to tell whether it was given; the help says the settings' own
            help_text = hints[option].__metadata__[0].help
            assert f"Default: {expected:g}." in help_text
        else:
            assert default == expected, option


@pytest.mark.parametrize(
    ("verb", "option", "known"),
    [
        (md, "ensemble", ENSEMBLES),
        (md, "trajectory_format", tuple(TRAJECTORY_SUFFIXES)),
        (relax, "optimizer", OPTIMIZERS),
    ],
)
def test_help_names_every_choice(verb, option, known):
    annotation = get_type_hints(verb, include_extras=True)[option]
    help_text = annotation.__metadata__[0].help
    assert f"{', '.join(known[:-1])} or {known[-1]}." in help_text


def test_help_shows_an_example_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom eqcalc.cli import main\n"
        "try:\n    main(['md', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'ase', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "eqcalc md examples/ethanol.xyz" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_version_and_verbs(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("eqcalc ")
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "relax" in out


def test_missing_verb_module_does_not_break_the_others(monkeypatch, capsys):
    monkeypatch.setattr(eqcalc.cli, "VERBS", ("md", "not_written_yet"))
    assert run("--help") == 0
    assert "not_written_yet" not in capsys.readouterr().out


def test_unknown_option_is_refused(folder, capsys):
    assert run("md", "ethanol.xyz", "--stepz", "3") == 2
    assert "--stepz" in capsys.readouterr().err


def test_resumed_run_leaves_what_an_uninterrupted_one_leaves(folder, capsys):
    words = "md ethanol.xyz -m nequip-ethanol --device cpu --engine jit --log-every 4"
    assert run(*words.split(), "-n", "10", "-o", "parts") == 0
    assert run("md", "--resume", "parts", "--steps", "20", "--quiet") == 0
    assert run(*words.split(), "-n", "20", "-o", "whole") == 0
    for name in ("thermo.csv", "trajectory.traj", "final.xyz"):
        assert (folder / "parts" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert run("md", "--resume", "parts", "--steps", "24") == 0
    assert "going on at step 20 of 24" in capsys.readouterr().out


def test_resumed_run_asks_for_the_engine_that_ran(folder, monkeypatch, capsys):
    """Or a package that was compiled meanwhile would go on with other last digits."""
    assert (
        run(
            *[
                "md",
                "ethanol.xyz",
                "-m",
                "nequip-ethanol",
                "-n",
                "4",
                "-o",
                "there",
                "--skin",
                "0.3",
                "-q",
            ]
        )
        == 0
    )
    assert ASKED_FOR[-1]["engine"] == "auto"
    assert run("md", "--resume", "there", "--steps", "8", "-q") == 0
    assert ASKED_FOR[-1] == {**ASKED_FOR[-1], "engine": "springs", "skin": 0.3}
    made = fakes()["eqcalc.calculator"].EqCalculator

    def without(model, *, engine, **options):
        if engine == "springs":
            raise EngineError("not compiled")
        return made(model, engine=engine, **options)

    monkeypatch.setattr(sys.modules["eqcalc.calculator"], "EqCalculator", without)
    assert run("md", "--resume", "there", "--steps", "12", "-q") == 0
    assert ASKED_FOR[-1]["engine"] == "auto"


def test_engine_that_the_user_asked_for_and_is_gone_is_named(folder, monkeypatch, capsys):
    words = "md ethanol.xyz -m nequip-ethanol -n 4 -o there --engine springs -q"
    assert run(*words.split()) == 0

    def gone(model, **options):
        raise EngineError("there is no package any more")

    monkeypatch.setattr(sys.modules["eqcalc.calculator"], "EqCalculator", gone)
    assert run("md", "--resume", "there", "--steps", "8") == 2
    assert "there is no package any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("md", "md needs a structure file, or --resume and the folder of a run"),
        ("md --resume nowhere", "there is no folder 'nowhere'; give the folder of the run"),
        ("md --resume .", "there is no checkpoint in '.'"),
        ("md --resume there -T 400", "--temperature does not go together with --resume"),
        ("md --resume there --index 0", "--index does not go together with --resume"),
        ("md ethanol.xyz --resume there", "a structure file does not go together with --resume"),
        ("md --resume there", "is at step 4 of 4: nothing is left to do. Give --steps, "),
        ("md --resume there --steps 2", "is at step 4 of 4: nothing of 2 is left to do"),
    ],
)
def test_resuming_what_cannot_go_on_is_refused(folder, words, message, capsys):
    assert (
        run(
            *[
                "md",
                "ethanol.xyz",
                "-m",
                "nequip-ethanol",
                "-n",
                "4",
                "-o",
                "there",
                "--device",
                "cpu",
                "-q",
            ]
        )
        == 0
    )
    assert run(*words.split()) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_hours_that_are_over_end_a_run_with_142(folder, capsys):
    words = "md ethanol.xyz -m nequip-ethanol -n 1000000 --device cpu --max-hours 1e-5 -o there"
    assert run(*words.split()) == 142
    assert "eqcalc md --resume there goes on from there" in " ".join(
        capsys.readouterr().out.split()
    )


def test_lines_say_the_time_left_and_whether_it_fits(folder, capsys):
    words = "md ethanol.xyz -m nequip-ethanol -n 100 --device cpu --max-hours 1"
    assert run(*words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert steps[1].startswith("step 10/100")
    assert all(line.endswith(" left") for line in steps[1:-1])
    assert not steps[-1].endswith(" left")
    (verdict,) = [line for line in lines if "--max-hours" in line]
    assert verdict.startswith("the run fits into --max-hours: ")


def test_run_that_was_started_from_python_is_resumed_there(folder, capsys):
    run_md(bulk("Cu"), EMT(), MDSettings("nve", n_steps=2), folder / "own")
    assert run("md", "--resume", "own", "--steps", "4") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "was started from Python, and only there its calculator is known" in said
