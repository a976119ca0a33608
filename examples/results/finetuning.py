"""Fine-tune a model on few frames, and train on the same frames for the same time from scratch.

    python examples/results/finetuning.py --start-from sevennet-0 [--minutes 20] [--part 0/2]

Silicon (mlearn, PBE) and liquid water (revPBE0-D3), 20, 50 and 100 frames drawn from the training
sets, a fifth of them for validation. Three trainings each, of as many minutes: the model's weights
to begin with, the same network from random weights, and a small PaiNN. All are judged on the whole
test sets and by dynamics. A run that was stopped is resumed, a finished one is not repeated;
``--part k/n`` makes every n-th run, so that n processes can share the work: times are those that a
core spent, whoever else is on the machine. All results are kept in finetuning.json, by model.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.optimize import FIRE
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullLocator
from training_progress import Progress

from eqcalc import EqCalculator, architectures
from eqcalc.data import read_dataset
from eqcalc.errors import EqcalcError, NonFiniteError
from eqcalc.files import write_whole
from eqcalc.model_file import read_card
from eqcalc.simulate import MDProgress, MDRun, MDSettings
from eqcalc.training.config import read_config
from eqcalc.training.finish import export_run
from eqcalc.training.reports import Report
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder

HERE = Path(__file__).parent
TABLE, PICTURE, RESULTS = (HERE / f"finetuning{suffix}" for suffix in (".md", ".png", ".json"))
DATA = Path("../shared/data")

N_FRAMES = (20, 50, 100)
SEED = 1
BATCH_SIZE = 2
TUNED, SAME, SMALL = "fine-tuned", "same network", "small PaiNN"
PAINN = {"name": "painn", "embedding_dim": 64, "num_blocks": 3, "cut_off": 5.0}
LEARNING_RATES = {TUNED: 3e-4, SAME: 2e-3, SMALL: 2e-3}
LEARNING_RATES_OF_NETWORKS = {"nequip": 1e-2}  # whose weights are normalised

N_EPOCHS_TIMED = 2
N_STEPS_RELAXED = 50  # before the dynamics
TOO_HOT, TOO_CLOSE = 2.0, 0.75  # of the thermostat's temperature, and the data's shortest distance


class System(NamedTuple):
    """What is learnt, and how its dynamics is run."""

    name: str
    temperature_K: float
    timestep_fs: float


SYSTEMS = (System("silicon", 600.0, 1.0), System("water", 330.0, 0.5))


class Run(NamedTuple):
    """One training."""

    system: System
    n_frames: int
    way: str

    @property
    def name(self) -> str:
        """Name of folder and model."""
        return f"{self.system.name}-{self.n_frames}-{self.way.lower().replace(' ', '-')}"


def main() -> None:
    """Train what is not done yet; rewrite table and picture after every run."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    part, n_parts = (int(word) for word in arguments.part.split("/"))
    output = arguments.output / arguments.name
    runs = [
        Run(system, n_frames, way)
        for n_frames in arguments.frames
        for system in SYSTEMS
        for way in (TUNED, SAME, SMALL)
    ]
    for run in runs[part::n_parts]:
        result = output / run.name / "result.json"
        if arguments.only in run.name and not result.exists():
            found = make(run, output, arguments)
            write_whole(result, (json.dumps(found, indent=1) + "\n").encode())
            write_report(output, arguments)
    write_report(output, arguments)


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start-from", required=True, help="a shipped model's name or a file")
    parser.add_argument("--minutes", type=float, default=20.0, help="of a core, for each training")
    parser.add_argument("--frames", type=int, nargs="+", default=list(N_FRAMES))
    parser.add_argument("--compile", action="store_true", help="compile loss and gradients")
    parser.add_argument("--engine", default="inductor", help="of the dynamics")
    parser.add_argument("--md-ps", type=float, default=5.0, help="length of the dynamics")
    parser.add_argument("--part", default="0/1", help="k/n: every n-th run from k")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument("--output", type=Path, default=Path("runs/finetuning"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trust", action="store_true", help="of a model of one's own")
    arguments = parser.parse_args()
    path = Path(arguments.start_from)
    if path.exists():
        arguments.start_from = str(path.resolve())
    arguments.name = read_card(arguments.start_from).name
    return arguments


def make(run: Run, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on with it, and return errors on the test set and the time of the dynamics."""
    folder = TrainingFolder(output / run.name / "run")
    rows = write_rows(run, output, arguments.data)
    seconds = seconds_per_frame(run, output, arguments) * run.n_frames
    n_epochs = max(1, round(60.0 * arguments.minutes / seconds))
    print(f"{run.name}: {seconds:.1f} s for an epoch, {n_epochs} epochs", flush=True)
    source = write_training_file(run, output, rows, n_epochs, arguments)
    resume = folder.last_checkpoint.exists()
    begun = time.process_time()
    train(
        read_config(source),
        folder.path,
        resume=resume,
        overwrite=not resume,
        progress=Progress(run.name),
        trust=arguments.trust,
    )
    minutes = (time.process_time() - begun) / 60.0
    finished = export_run(folder, output / run.name / "model", overwrite=True)
    stable = dynamics(run, finished.path, arguments)
    return {
        "system": run.system.name,
        "frames": run.n_frames,
        "way": run.way,
        "architecture": finished.card.architecture,
        "epochs": n_epochs,
        "minutes": None if resume else round(minutes, 1),
        "budget_minutes": arguments.minutes,
        "errors": finished.card.errors,
        "stable_ps": stable,
        "md_ps": arguments.md_ps,
    }


def write_rows(run: Run, output: Path, data: Path) -> Path:
    """Write the rows to train and validate on; those of 20 frames are among those of 50."""
    source = (data / run.system.name / "train.xyz").resolve()
    order = np.random.default_rng(SEED).permutation(read_dataset(source).n_rows)
    path = output / run.name / "rows.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(f"{row}\n" for row in sorted(order[: run.n_frames])).encode())
    return path


def seconds_per_frame(run: Run, output: Path, arguments: argparse.Namespace) -> float:
    """Return a core's time for a frame and an epoch: of the second epoch on the fewest frames."""
    path = output / f"{run.system.name}-{run.way.lower().replace(' ', '-')}-seconds.json"
    if not path.exists():
        few = run._replace(n_frames=min(arguments.frames))
        ends: list[float] = []

        def note(report: Report) -> None:
            if report.batch == 0 and not report.event:
                ends.append(time.process_time())

        rows = write_rows(few, output, arguments.data)
        source = write_training_file(few, output, rows, N_EPOCHS_TIMED, arguments)
        with tempfile.TemporaryDirectory() as folder:
            train(read_config(source), Path(folder) / "run", progress=note, trust=arguments.trust)
        seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
        write_whole(path, json.dumps(seconds / few.n_frames).encode())
    return float(json.loads(path.read_text()))


def write_training_file(
    run: Run, output: Path, rows: Path, n_epochs: int, arguments: argparse.Namespace
) -> Path:
    """Write the training file of a run."""
    folder = (arguments.data / run.system.name).resolve()
    options = network_of(run.way, arguments.start_from)
    rate = LEARNING_RATES_OF_NETWORKS.get(options.get("name", ""), LEARNING_RATES[run.way])
    start = f"start_from = {json.dumps(arguments.start_from)}" if run.way == TUNED else ""
    section = "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())
    path = output / run.name / "train.toml"
    write_whole(
        path,
        f"""\
name = "{run.name}"
seed = {SEED}

[data]
path = "{folder / "train.xyz"}"
train_rows = "{rows.resolve()}"
validation_fraction = 0.2
test_path = "{folder / "test.xyz"}"

{"[architecture]" if section else ""}
{section}
[training]
{start}
batch_size = {BATCH_SIZE}
max_epochs = {n_epochs}
learning_rate = {rate}
energy_weight = 100.0
schedule = "cosine"
compile = {json.dumps(arguments.compile)}
""".encode(),
    )
    return path


def network_of(way: str, start_from: str) -> dict[str, Any]:
    """Return the section [architecture]: nothing where the file has it."""
    if way == TUNED:
        return {}
    if way == SMALL:
        return PAINN
    card = read_card(start_from)
    options_class = architectures.config_class(card.architecture)
    built: Any = architectures.build_of_card(card.architecture, card.config)
    default = asdict(options_class())
    left_out = ("elements", "avg_num_neighbors", "pair_cutoffs")  # counted from the frames
    options = {
        key: value
        for key, value in asdict(built.config).items()
        if key not in left_out and value != default[key]
    }
    return {"name": card.architecture, **options}


class Unstable(Exception):
    """The dynamics left what the data know."""


def dynamics(run: Run, model: Path, arguments: argparse.Namespace) -> float:
    """Return for how many ps a structure of the test set lives, at most all of them.

    It ends where two atoms are much closer than ever in the data, or the thermostat cannot
    hold the temperature. Water's frames have quantum nuclei, whose energy would heat a classical
    run at once: the structure is relaxed first.
    """
    frames = read_dataset(arguments.data / run.system.name / "test.xyz").frames
    closest = min(shortest_distance(frame.atoms) for frame in frames)
    start = max((frame.atoms for frame in frames), key=len)
    settings = MDSettings(
        "nvt-langevin",
        temperature_K=run.system.temperature_K,
        timestep_fs=run.system.timestep_fs,
        n_steps=max(1, round(1000.0 * arguments.md_ps / run.system.timestep_fs)),
        seed=SEED,
    )
    calculator = EqCalculator(model, engine=arguments.engine)
    start.calc = calculator
    try:
        FIRE(start, logfile=None).run(fmax=0.05, steps=N_STEPS_RELAXED)
    except EqcalcError as error:  # as atoms that fell onto each other
        print(f"{run.name}: no relaxation, so no dynamics: {error}", flush=True)
        return 0.0
    dynamics_run = MDRun(start, calculator, settings)
    reached, printed = 0.0, time.monotonic()

    def look(now: MDProgress) -> None:
        nonlocal reached, printed
        is_hot = now.thermo.temperature_K > TOO_HOT * run.system.temperature_K
        is_close = shortest_distance(dynamics_run.atoms) < TOO_CLOSE * closest
        if is_hot or is_close:
            raise Unstable
        reached = now.thermo.step * run.system.timestep_fs / 1000.0
        if time.monotonic() - printed > 20.0:
            printed = time.monotonic()
            print(f"{run.name}: {reached:.2f} ps of dynamics", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        try:
            dynamics_run.run(Path(folder) / "md", progress=look)
        except (Unstable, NonFiniteError):
            pass
        except EqcalcError as error:  # as a structure so wild that no step is possible
            print(f"{run.name}: the dynamics ended: {error}", flush=True)
    print(f"{run.name}: stable for {reached:.2f} of {arguments.md_ps:g} ps", flush=True)
    return round(reached, 3)


def shortest_distance(atoms: Atoms) -> float:
    """Return the shortest distance of two atoms, Å."""
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    return float(distances[np.triu_indices(len(atoms), k=1)].min())


def write_report(output: Path, arguments: argparse.Namespace) -> None:
    """Write all results that were ever found, the table and the picture."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = kept.setdefault(arguments.name, {})
    for path in sorted(output.glob("*/result.json")):
        found[path.parent.name] = json.loads(path.read_text())
    if not found:
        return
    write_whole(RESULTS, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())
    order = (TUNED, SAME, SMALL)
    results = sorted(
        found.values(), key=lambda r: (r["system"], r["frames"], order.index(r["way"]))
    )
    write_whole(TABLE, page(arguments.name, results).encode())
    write_whole(PICTURE, picture(arguments.name, results))


def page(name: str, results: list[dict[str, Any]]) -> str:
    """Return the results page."""
    first = results[0]
    lines = [
        PAGE.format(
            name=name, batch=BATCH_SIZE, md_ps=first["md_ps"], minutes=first["budget_minutes"]
        )
    ]
    for result in results:
        errors = result["errors"]
        budget = f"{result['budget_minutes']:g}"
        if result["way"] == TUNED:
            lines.append(
                f"| {result['system']} | {result['frames']} | {name} as it is, shifted "
                f"| {errors['before_energy_per_atom_mae_mev']:.2f} "
                f"| {errors['before_forces_mae_mev_per_a']:.1f} | | |"
            )
        lines.append(
            f"| {result['system']} | {result['frames']} | {result['way']} "
            f"| {errors['energy_per_atom_mae_mev']:.2f} | {errors['forces_mae_mev_per_a']:.1f} "
            f"| {result['stable_ps']:g} | {result['minutes'] or 'resumed'} of {budget} |"
        )
    return "\n".join(lines) + "\n"


def picture(name: str, results: list[dict[str, Any]]) -> bytes:
    """Return a PNG of the errors over the number of frames: energies above, forces below."""
    systems = [
        system.name for system in SYSTEMS if any(r["system"] == system.name for r in results)
    ]
    figure = Figure(figsize=(3.4 * len(systems) + 0.6, 5.6), dpi=150, layout="constrained")
    grid = figure.subplots(2, len(systems), squeeze=False, sharex=True)
    quantities = (
        ("energy_per_atom_mae_mev", "energy (meV/atom)"),
        ("forces_mae_mev_per_a", "forces (meV/Å)"),
    )
    curves = (
        (TUNED, "", "o-", "#4059ad", f"{name}, fine-tuned"),
        (TUNED, "before_", "--", "0.5", f"{name} as it is, shifted"),
        (SAME, "", "o-", "#c8553d", "the same network from scratch"),
        (SMALL, "", "o-", "#e0a030", "a small PaiNN from scratch"),
    )
    for column, system in enumerate(systems):
        for axes, (key, label) in zip(grid[:, column], quantities, strict=True):
            for way, prefix, style, colour, title in curves:
                points = [
                    (result["frames"], result["errors"][f"{prefix}{key}"])
                    for result in results
                    if (result["system"], result["way"]) == (system, way)
                ]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=colour, ms=4, label=title)
            frames = sorted({r["frames"] for r in results if r["system"] == system})
            axes.set(xscale="log", yscale="log", ylabel=f"test MAE, {label}")
            axes.set_xticks(frames, [str(n) for n in frames])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
            axes.grid(color="0.9", which="both")
            axes.spines[["top", "right"]].set_visible(False)
        grid[0, column].set_title(system)
        grid[1, column].set_xlabel("frames, training and validation")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


PAGE = """\
# Fine-tuning {name}, and training from scratch on the same frames

    python examples/results/finetuning.py --start-from {name} \\
        --minutes {minutes:g} --md-ps {md_ps:g}

Silicon (64 atoms and fewer; PBE, mlearn) and liquid water (64 molecules, revPBE0-D3). The frames
are drawn at random from the training sets, those of 20 among those of 50 and 100; a fifth of them
validates. A training has as many epochs as fit into its minutes of one core by the time of an epoch
(cosine schedule, batches of {batch}, the energy's weight 100); the learning rates are 3e-4 for
fine-tuning, and from scratch 1e-2 for NequIP and 2e-3 for PaiNN. None of this was tuned for these
data. Minutes are of one of 2 cores of a shared AMD EPYC server, whoever else was on it; in as many
minutes a small network sees each frame many times more often than the large one. A training keeps
the number of its epochs where they take longer than foreseen, as 'minutes' says; what has no row
was not run. Errors are mean absolute ones on the whole test sets of 25 frames; "as it is, shifted"
is the model before the training, with reference energies fitted to the training frames.

Dynamics: Langevin, silicon at 600 K and water at 330 K, from the first largest frame of the test
set after at most 50 steps of relaxation (the water's frames were made with quantum nuclei, whose
energy would heat a classical run by some hundred kelvin). It counts as stable until two atoms are
closer than 0.75 of the shortest distance in the data or the temperature is twice the thermostat's,
for {md_ps:g} ps at most.

![errors](finetuning.png)

| system | frames | way | energy MAE (meV/atom) | forces MAE (meV/Å) | stable (ps) | minutes |
|---|---|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
