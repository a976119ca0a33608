"""What a run must survive, tried; write reliability.md and reliability.json.

    python examples/results/reliability.py [--only KIND] [--kills 50] [--fuzz 1000]

``kills`` : dynamics in each ensemble is ended by SIGKILL at random moments, from the start of the
process on, and goes on by ``eqcalc md --resume``; what is left in the end is compared, byte by
byte, with a run that nobody killed.
``trainings`` : likewise a training, which goes on by ``eqcalc train --resume``; weights, optimizer
and metrics are compared.
``files`` : files of every kind are damaged ``--fuzz`` times each, and read
(tests/fuzz/test_files.py).
``sequences`` : calculators are called for random structures in sequence, beside new ones
(tests/fuzz/test_sequences.py), of ``--fuzz`` structures each.

``mistakes`` : the tests that exclude what users of other calculators met, and what may happen to a
run's folder and processes, are run.

What was found before is kept in reliability.json.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import torch
from ase.build import bulk, molecule

from eqcalc.bench import machine
from eqcalc.files import write_whole
from eqcalc.simulate.checkpoint import read_checkpoint
from eqcalc.training.checkpoints import whole_epoch

HERE = Path(__file__).parent
TABLE, RESULTS = HERE / "reliability.md", HERE / "reliability.json"
COMPARED = ("thermo.csv", "trajectory.traj", "trajectory.xyz", "final.xyz")
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "slow or not slow"]
PYTEST += ["-p", "no:cacheprovider"]
MD = [sys.executable, "-m", "eqcalc", "md"]


TRAINING = """
name = "killed"
seed = 1
[data]
path = "{data}"
train_rows = "0:4"
validation_rows = "4:6"
[architecture]
name = "painn"
n_channels = 16
n_layers = 2
cutoff = 4.0
[training]
batch_size = 2
max_epochs = {n_epochs}
ema_decay = 0.99
schedule = "cosine"
"""


class Work(NamedTuple):
    """A run to be killed."""

    ensemble: str
    structure: str
    model: str
    n_steps: int
    checkpoint_every: int
    trajectory: str


WORKS = (
    Work("nve", "ethanol", "painn-ethanol", 60_000, 500, "traj"),
    Work("nvt-langevin", "ethanol", "painn-ethanol", 60_000, 500, "extxyz"),
    Work("nvt-nhc", "ethanol", "painn-ethanol", 60_000, 500, "traj"),
    Work("npt", "silicon", "sevennet-0", 4_000, 20, "extxyz"),
)


def main() -> None:
    """Try, and rewrite the page after each kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", choices=["", *SECTIONS])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--fuzz", type=int, default=1000)
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.only in ("", "kills"):
        found["kills"] = [kills(work, k, options.kills) for k, work in enumerate(WORKS)]
    if options.only in ("", "trainings"):
        found["trainings"] = killed_training(max(1, options.kills // 5))
    for kind in ("files", "sequences"):
        if options.only in ("", kind):
            found[kind] = tests_of(kind, options.fuzz)
    if options.only in ("", "mistakes"):
        found["mistakes"] = mistakes()
    where = machine(torch.device("cpu"))
    found["machine"] = f"{where['cpu']}, {where['cores']} cores, torch {where['torch']}"
    write_whole(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(TABLE, page(found).encode())
    print(TABLE.read_text())


def kills(work: Work, seed: int, n_kills_of_all: int) -> dict[str, Any]:
    """Kill a run again and again; return what came of it."""
    n_kills = n_kills_of_all // len(WORKS) + (seed < n_kills_of_all % len(WORKS))
    rng, moments = random.Random(seed), {"before the first step": 0, "at work": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        atoms = molecule("CH3CH2OH") if work.structure == "ethanol" else bulk("Si", cubic=True)
        ase.io.write(folder / "start.xyz", atoms)
        words = ["start.xyz", "-m", work.model, "-e", work.ensemble, "-n", str(work.n_steps)]
        words += ["--log-every", "7", "--checkpoint-every", str(work.checkpoint_every)]
        words += ["--format", work.trajectory, "-q"]
        run([*MD, *words, "-o", "whole"], folder)
        begun = time.perf_counter()
        run([*MD, "--resume", "whole", "--steps", str(work.n_steps + 1), "-q"], folder)
        start = time.perf_counter() - begun
        run([*MD, *words, "-o", "whole", "--overwrite"], folder)
        for _ in range(n_kills):
            before = step_of(folder / "parts")
            fresh = [*MD, *words, "-o", "parts", "--overwrite"]
            command = fresh if before is None else [*MD, "--resume", "parts", "-q"]
            with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
                time.sleep(rng.uniform(0.2, start + 1.5))
                if process.poll() is not None:
                    raise SystemExit(f"{work}: it ended before it was killed")
                process.kill()
            moments[
                "at work" if step_of(folder / "parts") != before else "before the first step"
            ] += 1
        if step_of(folder / "parts") is None:
            run([*MD, *words, "-o", "parts", "--overwrite"], folder)
        else:
            run([*MD, "--resume", "parts", "-q"], folder)
        names = [each for each in COMPARED if (folder / "whole" / each).exists()]
        same = [
            (folder / "whole" / each).read_bytes() == (folder / "parts" / each).read_bytes()
            for each in names
        ]
    return {**work._asdict(), "kills": n_kills, **moments, "files": names, "same": same}


def killed_training(n_kills: int) -> dict[str, Any]:
    """Kill a training again and again; return what came of it."""
    rng, n_epochs, n_new = random.Random(0), 800, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = HERE.parents[1] / "tests" / "data" / "ethanol_rmd17_frames.xyz"
        (folder / "train.toml").write_text(TRAINING.format(data=data, n_epochs=n_epochs))
        command = [sys.executable, "-m", "eqcalc", "train", "train.toml", "-q", "-o"]
        begun = time.perf_counter()
        run([*command, "whole"], folder)
        whole_s = time.perf_counter() - begun
        for _ in range(n_kills):
            before = epochs_in(folder / "parts")
            again = ["--overwrite"] if before == 0 else ["--resume"]
            with subprocess.Popen([*command, "parts", *again], cwd=folder) as process:
                time.sleep(rng.uniform(0.2, whole_s / 2))
                process.kill()
            n_new += epochs_in(folder / "parts") > before
            if process.returncode == 0:
                break
        again = ["--overwrite"] if epochs_in(folder / "parts") == 0 else ["--resume"]
        run([*command, "parts", *again], folder)
        whole, parts = (
            torch.load(folder / each / "last.ckpt", weights_only=True)
            for each in ("whole", "parts")
        )
        metrics = [(folder / each / "metrics.csv").read_text() for each in ("whole", "parts")]
    same = {
        "weights": equal(whole["state_dict"], parts["state_dict"]),
        "optimizer": equal(whole["optimizer_states"], parts["optimizer_states"]),
        "metrics.csv": without_times(metrics[0]) == without_times(metrics[1]),
    }
    return {"epochs": n_epochs, "kills": n_kills, "after new epochs": n_new, "same": same}


def epochs_in(folder: Path) -> int:
    """Return how many epochs the last readable checkpoint of a training has behind it."""
    return whole_epoch(folder / "last.ckpt") or 0


def equal(one: Any, other: Any) -> bool:
    """Return whether nested tables and lists hold the same numbers, to the bit."""
    if isinstance(one, torch.Tensor):
        return one.numpy().tobytes() == other.numpy().tobytes()  # NaN too
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def without_times(table: str) -> list[list[str]]:
    """Return the rows of a csv file without the columns of seconds."""
    rows = [line.split(",") for line in table.splitlines()]
    kept = [k for k, name in enumerate(rows[0]) if "time" not in name and "_s" not in name[-2:]]
    return [[row[k] for k in kept] for row in rows]


def tests_of(kind: str, n_cases: int) -> list[dict[str, Any]]:
    """Run the tests of damaged files or of sequences of calls; return what they recorded."""
    test = HERE.parents[1] / "tests" / "fuzz" / f"test_{kind}.py"
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        options = ["--fuzz", str(n_cases), "--junitxml", str(report), "-o", "junit_family=xunit1"]
        subprocess.run([*PYTEST, *options, str(test)], check=True)
        cases = ElementTree.parse(report).iter("testcase")
        return [
            {
                "of": str(case.get("name")).partition("[")[2].rstrip("]"),
                **{p.attrib["name"]: float(p.attrib["value"]) for p in case.iter("property")},
            }
            for case in cases
        ]


def run(command: list[str], folder: Path) -> None:
    """Run a command that has to succeed."""
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def step_of(folder: Path) -> int | None:
    """Return the step of the last checkpoint, None where there is none."""
    return read_checkpoint(folder).step if list(folder.glob("checkpoint*")) else None


def mistakes() -> list[dict[str, Any]]:
    """Run the tests that exclude each mistake; return how many passed."""
    rows = []
    for group, tests_by_mistake in (("mistake", MISTAKES), ("situation", SITUATIONS)):
        for what, tests in tests_by_mistake.items():
            paths = [str(HERE.parents[1] / "tests" / test) for test in tests]
            command = [*PYTEST, *paths]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            closing = done.stdout.strip().splitlines()[-1]
            if done.returncode != 0:
                raise SystemExit(f"{what}: {closing}")
            n_passed = int(closing.split()[0])
            rows.append({"group": group, "what": what, "tests": list(tests), "passed": n_passed})
            print(f"{what}: {n_passed} passed", flush=True)
    return rows


def page(found: dict[str, Any]) -> str:
    """Return the results page."""
    lines = ["# What runs survive", "", f"{found['machine']}."]
    for kind, section in SECTIONS.items():
        if kind in found:
            lines += ["", *section(found[kind])]
    return "\n".join(lines) + "\n"


def section_on_kills(rows: list[dict[str, Any]]) -> list[str]:
    """Return the section on killed runs."""
    return [
        "## Kills",
        "",
        "    python examples/results/reliability.py --only kills",
        "",
        "SIGKILL at random moments; each time `eqcalc md --resume`. At the end every file is "
        "compared with that of a run that nobody killed.",
        "",
        "| ensemble | model | steps | kills | after new checkpoints | files that are the same |",
        "|---|---|---|---|---|---|",
    ] + [
        f"| {row['ensemble']} | {row['model']} | {row['n_steps']} | {row['kills']} "
        f"| {row['at work']} | {sum(row['same'])} of {len(row['same'])} |"
        for row in rows
    ]


def section_on_trainings(found: dict[str, Any]) -> list[str]:
    """Return the section on killed trainings."""
    same = ", ".join(
        f"{name} {'the same' if is_same else 'DIFFERENT'}"
        for name, is_same in found["same"].items()
    )
    return [
        "## Killed trainings",
        "",
        "    python examples/results/reliability.py --only trainings",
        "",
        f"PaiNN on ethanol, {found['epochs']} epochs, SIGKILL at {found['kills']} random moments "
        f"({found['after new epochs']} of them after new epochs), each time `eqcalc train "
        f"--resume`; beside a training that nobody killed: {same}.",
    ]


def section_on_files(rows: list[dict[str, Any]]) -> list[str]:
    """Return the section on damaged files."""
    n_models = sum(
        int(row["refused"] + row["read"])
        for row in rows
        if row["of"].split()[0] in ("model", "propagator", "foreign", "checkpoint")
    )
    n_all = sum(int(row["refused"] + row["read"]) for row in rows)
    return [
        "## Damaged files",
        "",
        "    python examples/results/reliability.py --only files",
        "",
        f"{n_models} files of models, propagators and checkpoints and {n_all - n_models} of data, "
        "structures and settings: flipped bits, cuts, bytes and words of others, entries that are "
        "exchanged. Each gave one error of eqcalc's, or was read as what it says: model files and "
        "checkpoints as the undamaged one, text and arrays as another reader reads them (of .traj, "
        "cif, POSCAR, pdb and json only the kind of error was looked at). No process ended, and "
        "none took a GiB more than before.",
        "",
        "| file | refused | read | longest (s) |",
        "|---|---|---|---|",
    ] + [
        f"| {row['of']} | {row['refused']:.0f} | {row['read']:.0f} | {row['longest (s)']:.2f} |"
        for row in rows
    ]


def section_on_sequences(rows: list[dict[str, Any]]) -> list[str]:
    """Return the section on calls in sequence."""
    return [
        "## Calls in sequence",
        "",
        "    python examples/results/reliability.py --only sequences",
        "",
        "Random structures of up to 16 atoms, periodic along some directions; between two calls "
        "atoms move, are wrapped, exchanged, added and removed, cells change, directions open and "
        "close. Energies, forces, energies of atoms and stress beside a new calculator's: to "
        "1e-11 of the largest in float64, to 1e-5 in float32. One disagreement fails the test, "
        "and nothing is written: these calls had none.",
        "",
        "| calculator | structures | calls |",
        "|---|---|---|",
    ] + [f"| {row['of']} | {row['structures']:.0f} | {row['calls']:.0f} |" for row in rows]


def section_on_mistakes(rows: list[dict[str, Any]]) -> list[str]:
    """Return the sections on what others met, and on what happens to runs."""
    titles = {
        "mistake": ("What users of other calculators met", "seen elsewhere"),
        "situation": ("Folders, disks and processes", "what happens"),
    }
    lines: list[str] = []
    for group, (title, head) in titles.items():
        lines += [
            "",
            f"## {title}",
            "",
            "    python examples/results/reliability.py --only mistakes",
        ]
        lines += ["", f"| {head} | the tests that exclude it | passed |", "|---|---|---|"]
        for row in rows:
            if row["group"] == group:
                tests = ", ".join(f"`{test.rpartition('::')[2]}`" for test in row["tests"])
                lines.append(f"| {row['what']} | {tests} | {row['passed']} |")
    return lines[1:]


CALCULATOR = "unit/test_calculator.py::"
MISTAKES = {
    "an unknown element has an embedding of nothing": (
        f"{CALCULATOR}test_an_unknown_element_is_named_with_its_atoms",
        f"{CALCULATOR}test_an_element_set_in_place_is_refused",
        "unit/test_export.py::test_elements_left_out_of_the_export_are_unknown_to_the_file",
    ),
    "a factor of lengths acts on results, not on positions": (
        "imports/test_import_schnetpack.py::test_an_imported_model_gives_the_numbers_of_schnetpack",
        "imports/test_import_nequip.py::test_units_have_to_be_said_and_lengths_are_angstrom",
    ),
    "the list goes stale with the cell, by wrapping, or beyond half of the skin": (
        "unit/test_neighbours.py::test_skin_list_sees_an_edge_that_only_the_cell_change_creates",
        "unit/test_neighbours.py::test_skin_list_follows_atoms_wrapped_at_each_step",
        "unit/test_neighbours.py::test_skin_list_proof_is_tight_under_uniaxial_compression",
    ),
    "a slab is taken for a molecule or a crystal": (
        "unit/test_neighbours.py::test_build_graph_agrees_with_brute_force",
        "unit/test_neighbours.py::test_skin_list_follows_a_slab_whose_cell_changes",
    ),
    "the stress of a molecule or a slab is invented": (
        f"{CALCULATOR}test_stress_without_three_periodic_directions_is_not_implemented",
    ),
    "the stress is in another shape, order or unit": (
        f"{CALCULATOR}test_stress_equals_finite_differences_in_a_triclinic_cell",
        f"{CALCULATOR}test_stress_comes_as_a_symmetric_matrix_too",
    ),
    "the user's Atoms are changed": (
        f"{CALCULATOR}test_atoms_are_not_changed",
        f"{CALCULATOR}test_atoms_may_be_read_only",
    ),
    "fast kernels give the energy, and other forces": (
        "unit/test_compiled.py::test_forces_of_the_package_are_the_gradient_of_its_energy",
        "unit/test_compiled.py::test_a_package_that_fails_the_passport_is_not_run",
    ),
    "a constructor changes torch's defaults or the environment": (
        f"{CALCULATOR}test_globals_are_left_as_they_were",
        f"{CALCULATOR}test_a_default_dtype_of_float64_changes_nothing",
    ),
    "arrays with other strides are read wrongly": (
        f"{CALCULATOR}test_results_do_not_depend_on_how_arrays_lie_in_memory",
    ),
    "properties are advertised that the model lacks": (
        f"{CALCULATOR}test_a_property_that_no_model_has_is_not_implemented",
    ),
    "old results are returned after a change of elements": (
        f"{CALCULATOR}test_a_change_in_place_gives_a_new_result",
        f"{CALCULATOR}test_after_an_error_no_old_result_is_returned_and_the_next_call_works",
    ),
}
SITUATIONS = {
    "the disk is full": (
        "simulate/test_run_survives.py::test_full_disk_stops_the_run_with_whole_frames",
        "simulate/test_output_lost.py::test_full_disk_rescues_the_structure_and_leaves_no_half_files",
        "unit/test_checkpoints.py::test_full_disk_ends_a_training_with_an_error",
    ),
    "nothing new can be written": (
        "simulate/test_output_lost.py::test_status_is_true_on_a_disk_that_takes_no_new_file",
        "simulate/test_output_lost.py::test_without_any_place_the_first_reason_is_told",
        "unit/test_compiled.py::test_a_cache_that_cannot_be_written_is_refused",
    ),
    "the folder or a file of the run is removed, moved or cut": (
        "simulate/test_output_lost.py::"
        "test_removed_folder_ends_the_run_with_the_structure_beside_it",
        "simulate/test_output_lost.py::test_moved_and_replaced_files_are_not_the_run_s",
        "simulate/test_output_lost.py::test_a_file_that_somebody_cuts_during_the_run_is_an_error",
    ),
    "signals, a closed terminal, a display that nobody reads": (
        "simulate/test_output_lost.py::test_signal_ends_the_run_with_all_files",
        "simulate/test_output_lost.py::"
        "test_closed_terminal_of_the_command_line_ends_the_run_in_order",
        "simulate/test_output_lost.py::test_display_that_nobody_reads_stops_the_run",
    ),
    "threads": (
        "unit/test_threads.py::test_calculators_of_other_threads_share_no_number",
        "unit/test_threads.py::test_results_do_not_depend_on_the_number_of_threads",
    ),
    "fork and spawn": (
        "unit/test_shared_models.py::"
        "test_forked_processes_do_not_wait_for_threads_that_are_not_there",
        "unit/test_shared_models.py::"
        "test_a_process_that_is_forked_while_a_thread_calculates_does_not_wait_for_it",
        "unit/test_shared_models.py::test_spawned_processes_get_the_calculator_and_its_numbers",
    ),
}
SECTIONS: dict[str, Callable[[Any], list[str]]] = {
    "kills": section_on_kills,
    "trainings": section_on_trainings,
    "files": section_on_files,
    "sequences": section_on_sequences,
    "mistakes": section_on_mistakes,
}


if __name__ == "__main__":
    main()
