"""``eqcalc bench``: ms per step of dynamics, and where they go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from eqcalc.cli.console import note, say, say_pairs, show, working
from eqcalc.cli.model_choice import choose_model, model_line
from eqcalc.cli.options import Device, Dtype, Quiet, Skin, Trust
from eqcalc.cli.setup_run import say_last_frame
from eqcalc.errors import ConfigError, StructureError, import_extra

if TYPE_CHECKING:
    from ase import Atoms

    from eqcalc.bench import Measurement

__all__ = ["bench"]


def bench(
    model_and_structures: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] STRUCTURE",
            help="A shipped model's name or a model file (without, the shipped one that fits all "
            "structures), then structure files or names: ethanol, water192 (3 n³ atoms), cu108 "
            "(4 n³).",
        ),
    ],
    engine: Annotated[
        Optional[list[str]],
        typer.Option(
            help="What runs the model; repeatable. Default: all that are ready.",
            show_default=False,
        ),
    ] = None,
    sizes: Annotated[
        Optional[str],
        typer.Option(
            help="Repeat the periodic structure to so many cells, such as 1,2,4,8.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Optional[Path], typer.Option(help="PNG of µs per atom over sizes (with --sizes).")
    ] = None,
    json_file: Annotated[
        Optional[Path], typer.Option("--json", help="Write all numbers to a file.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="About how long each structure is timed.", min=0.001)
    ] = 3.0,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    device: Device = "auto",
    dtype: Dtype = None,
    skin: Skin = 0.5,
    trust: Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the outputs.")] = False,
    quiet: Quiet = False,
) -> None:
    """Time steps of molecular dynamics: list, transfer, model and gradient, host, ASE.

    Example: [bold]eqcalc bench painn-ethanol ethanol[/bold]

    Medians over seven blocks of steps. What the numbers mean: docs/speed.md.
    """
    import torch

    from eqcalc import bench as timing
    from eqcalc.devices import resolve_device
    from eqcalc.files import refuse_existing, require_folders
    from eqcalc.model_file import open_model_file
    from eqcalc.simulate.run_folder import refuse_run_files

    if plot is not None and sizes is None:
        raise ConfigError("--plot draws times over sizes; give --sizes too.")
    if plot is not None:
        import_extra("matplotlib.figure", "plot", "--plot")
    outputs = [path for path in (plot, json_file) if path is not None]
    refuse_run_files(outputs)
    refuse_existing(outputs, overwrite)
    require_folders(outputs)
    named, structures = _split(model_and_structures)
    systems = _systems(structures, sizes)
    torch.set_num_threads(threads)  # the process belongs to the command line
    model = choose_model(list(systems.values())) if named is None else named
    file = open_model_file(model, trust=trust)
    if named is None:
        say(model_line(file.card, file.path, was_chosen=True))
    timing.check_elements(file.card, systems)
    machine = timing.machine(resolve_device(device))  # before our own work adds to the load
    engines = list(dict.fromkeys(engine or []))
    not_used: dict[str, str] = {}
    if not engines:
        engines, not_used = timing.ready_engines(model, device=device, dtype=dtype, trust=trust)
    options = {"device": device, "dtype": dtype, "skin": skin, "threads": threads}
    found = _measure_all(model, engines, systems, {**options, "trust": trust}, seconds)
    say(f"{file.card.name}, {dtype or file.card.dtype}: ms per step of VelocityVerlet")
    _print_table(found)
    say_pairs(_summary(machine))
    for name, why in not_used.items():
        say(f"  not {name}: {why}")
    growth = _growth(found) if sizes is not None else {}
    for name, exponent in growth.items():
        say(f"  {name}: time grows as atoms^{exponent:.2f}")
    _warn_if_disturbed(machine, found)
    content = {
        "model": {"name": file.card.name, "sha256": file.sha256},
        "machine": machine,
        "options": options,
        "measurements": [_as_json(measurement) for measurement in found],
        "not_used": not_used,
        "growth_exponents": growth,
    }
    _write(content, found, plot, json_file)


def _split(words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Return the model, None where the first word names a structure, and the structures.

    Raises
    ------
    ConfigError : there is a model only.
    """
    if _names_structure(words[0]):
        return None, words
    if len(words) == 1:
        from eqcalc.model_file import available_models

        if words[0] not in available_models() and not Path(words[0]).exists():
            raise ConfigError(f"'{words[0]}' is no structure and no model: there is no such file.")
        raise ConfigError(
            f"'{words[0]}' is a model; name a structure to time it on, such as ethanol or a file."
        )
    return words[0], words[1:]


def _names_structure(word: str) -> bool:
    from eqcalc.bench.structures import load_structure
    from eqcalc.model_file import available_models

    path = Path(word)
    if word in available_models() or path.is_dir() or path.suffix == ".pt":
        return False
    if path.is_file():
        return True
    try:
        load_structure(word)
    except StructureError:
        return False  # whoever opens the model says what there is
    return True


def _systems(names: Sequence[str], sizes: str | None) -> dict[str, Atoms]:
    """Return the structures by what the table calls them."""
    from eqcalc.bench.structures import load_structure, parse_sizes, repeated

    cells = None if sizes is None else parse_sizes(sizes)
    if cells is not None and len(names) > 1:
        raise ConfigError(f"--sizes takes one structure, found {len(names)}.")
    systems = {}
    for name in names:
        label = Path(name).name
        if label in systems:
            raise ConfigError(f"'{label}' stands twice among the structures.")
        atoms = load_structure(name)
        if Path(name).is_file():
            say_last_frame(Path(name))
        if cells is None:
            systems[label] = atoms
        else:
            systems |= {f"{label} x{n}": repeated(atoms, n, label) for n in cells}
    return systems


def _measure_all(
    model: str,
    engines: Sequence[str],
    systems: dict[str, Atoms],
    options: dict[str, Any],
    seconds: float,
) -> list[Measurement]:
    from eqcalc.bench.measurement import N_BLOCKS, BenchCalculator, measure
    from eqcalc.cli.progress import StepProgress

    with working("loading, and compiling what was asked for"):
        calculators = {name: BenchCalculator(model, engine=name, **options) for name in engines}
    n_blocks = N_BLOCKS * len(systems) * len(engines)
    found: list[Measurement] = []
    done = 0
    with StepProgress("bench", n_blocks, line_every=N_BLOCKS) as display:
        for label, atoms in systems.items():
            for name, calculator in calculators.items():

                def show(label: str = label, name: str = name) -> None:
                    nonlocal done
                    done += 1
                    display.show(done, f"{label}, {name}")

                found.append(measure(calculator, atoms, label, seconds=seconds, progress=show))
    return found


def _print_table(found: Sequence[Measurement]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    left = ("structure", "engine")
    for column in (
        "structure",
        "atoms",
        "engine",
        "ms/step",
        "min..max",
        "list",
        "transfer",
        "model",
        "gradient",
        "host",
        "ASE",
        "µs/atom",
    ):
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    for one in found:
        parts = (one.neighbours, one.transfer, one.model, one.gradient, one.host, one.ase)
        table.add_row(
            one.structure,
            str(one.n_atoms),
            one.engine,
            _digits(one.step.median),
            f"{_digits(one.step.low)}..{_digits(one.step.high)}",
            *("-" if part is None else _digits(part.median) for part in parts),
            _digits(one.us_per_atom.median),
        )
    # Never narrower than the table: in 80 columns rich would cut numbers.
    show(table, width=200)


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _summary(machine: dict[str, Any]) -> dict[str, str]:
    keys = ("cpu", "gpu", "cores", "threads", "torch", "load")
    return {key: str(machine[key]) for key in keys if machine.get(key) is not None}


def _growth(found: Sequence[Measurement]) -> dict[str, float]:
    from eqcalc.bench import growth_exponent

    engines = dict.fromkeys(measurement.engine for measurement in found)
    return {
        name: round(growth_exponent([one for one in found if one.engine == name]), 3)
        for name in engines
    }


def _warn_if_disturbed(machine: dict[str, Any], found: Sequence[Measurement]) -> None:
    if machine["is_busy"]:
        note(
            f"unreliable: the load average was {machine['load']} on {machine['cores']} cores "
            "before the start; other processes share them."
        )
    disturbed = [one for one in found if one.was_disturbed]
    if disturbed:
        lowest = min(one.cpu_share for one in disturbed)
        note(
            f"unreliable: during {len(disturbed)} of {len(found)} measurements another process "
            f"took the core (this one had {100 * lowest:.0f} % of it at worst)."
        )


def _as_json(one: Measurement) -> dict[str, Any]:
    from dataclasses import fields

    values = {}
    for field in fields(one):
        value = getattr(one, field.name)
        is_timing = isinstance(value, tuple)
        values[f"{field.name}_ms" if is_timing else field.name] = (
            value._asdict() if is_timing else value
        )
    return values


def _write(
    content: dict[str, Any], found: Sequence[Measurement], plot: Path | None, json_file: Path | None
) -> None:
    from eqcalc.bench.plots import growth_plot
    from eqcalc.files import write_whole

    if json_file is not None:
        write_whole(json_file, (json.dumps(content, indent=1) + "\n").encode())
        say(f"written: {json_file}")
    if plot is not None:
        machine = content["machine"]
        title = (
            f"{content['model']['name']}, {machine.get('gpu', machine['cpu'])}, "
            f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
        )
        write_whole(plot, growth_plot(found, title))
        say(f"written: {plot}")
